"""Names in reports: they are data from a stranger, and no format may take them for markup or an order."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with every character that is not printable, or is a space other than ' ', as a Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
