"""The coverage matrix: `python -m benchmarks.coverage` runs every tool on every graph and writes docs/coverage.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import normswap
from benchmarks.coverage import own, peers
from benchmarks.coverage.cases import Case, load
from benchmarks.coverage.page import page
from benchmarks.coverage.peers import ROOT, Column
from benchmarks.coverage.tools import OWN, TOOLS

INSPECT = "normswap inspect"
CACHE = ROOT / "build" / "coverage"
PAGE = ROOT / "docs" / "coverage.md"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of names of graphs [all]")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers [this one]")
    parser.add_argument("--tools", default=",".join([INSPECT, *TOOLS]), help="separated by commas [%(default)s]")
    parser.add_argument("--show", action="store_true", help="print the graphs and what they are, and run nothing")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every cell with its note there")
    parser.add_argument(
        "--page", type=Path, default=PAGE, metavar="PATH", help="where the page goes [docs/coverage.md]"
    )
    given = parser.parse_args()
    if unknown := set(given.tools.split(",")) - {INSPECT, *TOOLS}:
        parser.error(f"no tool {min(unknown)}: there is {INSPECT}, {', '.join(TOOLS)}")
    return given


def column(tool: str, cases: Sequence[Case], python: str) -> Column:
    """One tool on all cases. The cells of peers are kept under build/coverage/, since they do not change."""
    if tool == INSPECT:
        return Column(tool, normswap.__version__, {case.name: own.judged(case) for case in cases})
    if tool == OWN:
        return peers.column(tool, cases, sys.executable, None)
    return peers.column(tool, cases, python, CACHE / f"{tool.replace(' ', '_')}.json")


def main() -> None:
    """Run the tools, and write the page if all of them ran on everything."""
    given = arguments()
    cases = [case for case in load() if not given.names or any(name in case.name for name in given.names)]
    if given.show:
        for case in cases:
            print(f"# {case.name}\n# {case.truth}\n{case.built[0].model_text()}\n")
        return
    columns = []
    for tool in given.tools.split(","):
        columns.append(found := column(tool, cases, given.python))
        print(f"{tool} {found.version}: {dict(Counter(cell.word for cell in found.cells.values()))}", flush=True)
    if given.json:
        cells = {found.tool: {name: asdict(cell) for name, cell in found.cells.items()} for found in columns}
        given.json.write_text(json.dumps(cells, indent=2), encoding="utf-8")
    whole = not given.names and {found.tool for found in columns if found.cells} == {INSPECT, *TOOLS}
    if whole or given.page != PAGE:
        given.page.write_text(page(cases, columns), encoding="utf-8")


if __name__ == "__main__":
    main()
