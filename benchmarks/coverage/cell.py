"""One cell of the matrix."""

from __future__ import annotations

from dataclasses import dataclass

RECOGNIZED, LEFT, WRONG, CRASHED = "recognized", "left", "wrong", "crashed"
WORDS = (RECOGNIZED, LEFT, WRONG, CRASHED)


@dataclass(frozen=True)
class Cell:
    """What became of a case, and why."""

    word: str
    note: str = ""
