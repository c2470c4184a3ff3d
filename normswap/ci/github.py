"""A report as workflow commands of GitHub, which shows ten of them per step beside the change."""

from __future__ import annotations

from normswap.ci.cases import Case, Report, failing
from normswap.text import printable

MOST = 10
COMMANDS = {"fail": "error", "inconclusive": "warning", "refused": "notice", "pass": "notice"}


def workflow_commands(report: Report) -> str:
    """At most ten lines: what failed first; the last one counts what is left out."""
    cases = failing(report.cases)
    shown = cases if len(cases) <= MOST else cases[: MOST - 1]
    lines = [_command(case, report.subject) for case in shown]
    if len(shown) < len(cases):
        rest = Case(report.command, report.subject, report.status, f"and {len(cases) - len(shown):,} more")
        lines.append(_command(rest, report.subject))
    return "".join(lines)


def _command(case: Case, subject: str) -> str:
    where, title = _property(subject), _property(f"normswap {case.rule}")
    return f"::{COMMANDS[case.status]} file={where},title={title}::{_data(f'{case.name}: {case.message}')}\n"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
