"""What both benchmarks print: a Markdown table, and a line about the machine. Standard library only.

The parent of a measured process must stay small: Linux counts the memory of the process that starts another into the
peak of that other.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as plain text too; all columns but the first are right-aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in _paired(cells)]
        return f"| {' | '.join(padded)} |"

    def _paired(cells: Sequence[str]) -> list[tuple[int, tuple[str, int]]]:
        return list(enumerate(zip(cells, widths, strict=True)))

    rule = [("-" * (width - 1) + ":") if column else "-" * width for column, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def machine() -> dict[str, object]:
    """The processor, how many of it this process may use, and how busy they are."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def described(found: dict[str, object]) -> str:
    """`machine()` in one line."""
    return f"{found['cpus']} × {found['processor']}, load {found['load']:.1f}, Python {found['python']}"
