"""What people read of the rules: a table of them, and one line for each complaint about a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from normswap.terminal import line, table
from normswap.text import printable

if TYPE_CHECKING:
    from normswap.rules.catalog import Examined, RuleRow


def show_rules(out: Console, rows: Sequence[RuleRow]) -> None:
    """One row per rule: what it writes, for which norm, under which opsets, for which types."""
    cells = [(row.name, row.norm or "-", opsets(row), " ".join(row.types) or "all", row.exactness) for row in rows]
    table(out, ("rule", "norm", "opsets", "types", ""), cells, right=())


def opsets(row: RuleRow) -> str:
    """The opsets of a rule: `9-17`, or `18-` where there is no end."""
    return f"{row.since_opset}-{row.until_opset or ''}"


def show_text(out: Console, text: str) -> None:
    """A rule file as it is, with what is not printable escaped."""
    for row in text.splitlines():
        out.print(printable(row), soft_wrap=True)


def show_examined(out: Console, examined: Sequence[Examined]) -> None:
    """`OK` and the name of a file, or what is wrong with it as file:line:column: complaint."""
    for item in examined:
        for complaint in item.complaints:
            line(out, str(complaint))
        if not item.complaints:
            line(out, f"OK {item.path}")
