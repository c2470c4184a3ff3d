"""Conversions that are wrong in one way each: what real converters got wrong, and what data of one kind cannot show."""

from __future__ import annotations

from benchmarks.verdicts.wrong_data import DATA
from benchmarks.verdicts.wrong_folds import FOLDS
from benchmarks.verdicts.wrong_interfaces import INTERFACES
from benchmarks.verdicts.wrong_norms import NORMS

WRONG = [*NORMS, *FOLDS, *DATA, *INTERFACES]
"""All pairs that are wrong."""
