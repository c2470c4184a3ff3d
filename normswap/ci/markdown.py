"""A report as Markdown, for the step summary of a GitHub workflow, which holds a mebibyte and no more."""

from __future__ import annotations

import re

from normswap.ci.cases import Case, Report
from normswap.text import printable

LIMIT = 1 << 20
SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "refused": "⏭️"}
ORDER = ("fail", "inconclusive", "refused", "pass")
# What Markdown or HTML would read as markup.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


def markdown(report: Report, limit: int = LIMIT) -> str:
    """The page, of at most `limit` bytes in UTF-8: the verdict, then all cases, what failed first."""
    head = (
        f"### {SIGNS[report.status]} normswap {report.command}: {_escaped(report.subject)}\n\n"
        f"{_escaped(report.reason)}\n\n"
    )
    if not report.cases:
        return head
    columns = "| | judged by | name | |\n|---|---|---|---|\n"
    rows = [_row(case) for status in ORDER for case in report.cases if case.status == status]
    left = limit - _size(head + columns) - _size(_more(len(rows)))
    shown = 0
    for row in rows:
        left -= _size(row)
        if left < 0:
            break
        shown += 1
    rest = "" if shown == len(rows) else _more(len(rows) - shown)
    return head + columns + "".join(rows[:shown]) + rest


def _row(case: Case) -> str:
    return f"| {SIGNS[case.status]} | {_escaped(case.rule)} | {_escaped(case.name)} | {_escaped(case.message)} |\n"


def _more(count: int) -> str:
    return f"\n… and {count:,} more, which the JSON report has.\n"


def _size(text: str) -> int:
    return len(text.encode())


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", printable(text))
