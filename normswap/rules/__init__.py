"""Rules: how runtimes write norms, as ONNX text in the folder `rules/`, and the engine that reads and applies them.

`read` loads them, `pattern` matches one side, `replacement` puts the other in its place, `execute` runs both in
float64, `verify` judges a rule by its own example, and `library` joins the user's with ours.
"""

from __future__ import annotations

from normswap.rules.library import Library, library
from normswap.rules.read import Complaint, Rule, RuleError, definitions, load, read, rules_directory
from normswap.rules.verify import verify, verify_file

__all__ = [
    "Complaint",
    "Library",
    "Rule",
    "RuleError",
    "definitions",
    "library",
    "load",
    "read",
    "rules_directory",
    "verify",
    "verify_file",
]
