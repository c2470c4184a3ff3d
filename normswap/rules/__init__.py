"""Rules: how runtimes write norms, as ONNX text in the folder `rules/`, and the engine that reads and applies them.

`read` loads them, `pattern` matches one side, `replacement` puts the other in its place, `execute` runs both in
float64, and `verify` judges a rule by its own example.
"""

from __future__ import annotations

from normswap.rules.read import Complaint, Rule, RuleError, definitions, load, read, rules_directory
from normswap.rules.verify import verify, verify_file

__all__ = ["Complaint", "Rule", "RuleError", "definitions", "load", "read", "rules_directory", "verify", "verify_file"]
