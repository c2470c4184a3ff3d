"""The coverage matrix: `python -m benchmarks.matrix` runs every tool on every case and prints a table in Markdown."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from benchmarks.matrix.cases import POINTS, Case, load
from benchmarks.matrix.judge import CRASHED, WORDS, Cell, judge
from benchmarks.matrix.tools import TOOLS
from benchmarks.report import table

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 60.0  # for one case; all take well under one


@dataclass(frozen=True)
class Column:
    """What one tool made of the cases, by name; no cells where it is not installed."""

    tool: str
    version: str
    cells: dict[str, Cell]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of files under cases/ [all]")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the tools [this one]")
    parser.add_argument("--tools", default=",".join(TOOLS), help="separated by commas [%(default)s]")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep models and results there")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every cell with its note there")
    given = parser.parse_args()
    if unknown := set(given.tools.split(",")) - set(TOOLS):
        parser.error(f"no tool {min(unknown)}: there is {', '.join(TOOLS)}")
    if unknown := set(given.cases) - {case.name for case in load()}:
        parser.error(f"no case {min(unknown)}")
    return given


def run(tool: str, cases: Sequence[Case], folder: Path, python: str) -> Column:
    """One tool on all cases. Where its process dies it is started again behind the case that killed it."""
    own = folder / tool.replace(" ", "_")
    own.mkdir(parents=True)
    version, failures = "", []
    while len(failures) < len(cases):
        tasks, report = own / "tasks.json", own / "report.jsonl"
        report.unlink(missing_ok=True)
        todo = [(str(folder / f"{case.name}.onnx"), str(own / f"{case.name}.onnx")) for case in cases[len(failures) :]]
        tasks.write_text(json.dumps(todo), encoding="utf-8")
        command = [python, "-m", "benchmarks.matrix.tools", tool, str(tasks), str(report)]
        try:
            process = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS * len(todo), check=False
            )
            death = f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            death = "it does not end"
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        if not lines:
            print(f"{tool}: cannot be loaded: {process.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return Column(tool, "", {})
        version, *done = lines
        failures += done
        if len(done) < len(todo):
            failures.append(death)
    cells = {
        case.name: Cell(CRASHED, failure) if failure else judge(case, own / f"{case.name}.onnx")
        for case, failure in zip(cases, failures, strict=True)
    }
    return Column(tool, version, cells)


def printed(cases: Sequence[Case], columns: Sequence[Column]) -> str:
    """The table, one part per point of the list, and what it sums up to."""
    parts = []
    header = ["", *(f"{column.tool} {column.version or '(not installed)'}" for column in columns)]
    for point, members in groupby(cases, key=lambda case: case.point):
        rows = [[case.title, *(_word(column, case) for column in columns)] for case in members]
        parts.append(f"### {POINTS[point].capitalize()}\n\n{table(header, rows)}")
    sums = []
    for expected, title in (("folded", "can be folded"), ("left", "must stay")):
        group = [case for case in cases if case.expected == expected]
        counts = [Counter(_word(column, case) for case in group) for column in columns]
        for word in WORDS:
            row = [str(found[word]) if column.cells else "" for column, found in zip(columns, counts, strict=True)]
            sums.append([f"{word}, of {len(group)} that {title}", *row])
    return "\n\n".join([*parts, f"### Sums\n\n{table(header, sums)}"])


def _word(column: Column, case: Case) -> str:
    return column.cells[case.name].word if column.cells else ""


def main() -> None:
    """Write the cases as models, run the tools, print."""
    given = arguments()
    cases = [case for case in load() if not given.cases or case.name in given.cases]
    with TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            onnx.save(case.model, folder / f"{case.name}.onnx")
        columns = [run(tool, cases, folder, given.python) for tool in given.tools.split(",")]
    print(printed(cases, columns))
    if given.json:
        found = {column.tool: {name: asdict(cell) for name, cell in column.cells.items()} for column in columns}
        given.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
