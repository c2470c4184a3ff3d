"""The table of verdicts: `python -m benchmarks.verdicts --python PEERS_PYTHON` runs every checker on every pair.

The pairs are made, and normswap's own verdict is taken, with the Python that runs this; the others run in PEERS_PYTHON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from benchmarks.report import table
from benchmarks.verdicts.pairs import Pair
from benchmarks.verdicts.right import RIGHT
from benchmarks.verdicts.tools import CRASHED, INCONCLUSIVE, PASS, TOOLS
from benchmarks.verdicts.wrong import WRONG

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "verdicts.md"
SECONDS = 60.0  # for one pair; all take a few

ACCEPTED, REJECTED, AS_IT_IS = "wrong: accepted", "wrong: rejected", "right"


@dataclass(frozen=True)
class Column:
    """What one tool said about the pairs, in their order: a verdict and a note each."""

    tool: str
    version: str
    runtime: str
    verdicts: Sequence[tuple[str, str]]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the other tools [this one]")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every verdict with its note there")
    parser.add_argument("--output", type=Path, default=PAGE, metavar="PATH", help="[docs/verdicts.md]")
    return parser.parse_args()


def run(tool: str, files: Sequence[tuple[Path, Path]], folder: Path, python: str) -> Column:
    """One tool on all pairs. Where its process dies it is started again behind the pair that killed it."""
    version, runtime, found = "", "", list[tuple[str, str]]()
    tasks, report = folder / f"{tool}.tasks.json", folder / f"{tool}.jsonl"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # onnxsim draws its inputs in the order of a set
    while len(found) < len(files):
        report.unlink(missing_ok=True)
        todo = [[str(path) for path in pair] for pair in files[len(found) :]]
        tasks.write_text(json.dumps(todo), encoding="utf-8")
        command = [python, "-m", "benchmarks.verdicts.tools", tool, str(tasks), str(report)]
        try:
            process = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=SECONDS * len(todo),
                check=False,
            )
            death = f"exit code {process.returncode}: {process.stderr[-200:]}"
        except subprocess.TimeoutExpired:
            death = "it does not end"
        lines = (
            [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()] if report.exists() else []
        )
        if not lines:
            raise SystemExit(f"{tool} cannot be loaded: {death}")
        (version, runtime), *done = lines
        found += [(verdict, note) for verdict, note in done]
        if len(done) < len(todo):
            found.append((CRASHED, death))
    return Column(tool, version, runtime, found)


def word(pair: Pair, verdict: str) -> str:
    """What a verdict is worth on this pair."""
    if verdict in (INCONCLUSIVE, CRASHED):
        return verdict
    if (verdict == PASS) == pair.right:
        return AS_IT_IS
    return ACCEPTED if verdict == PASS else REJECTED


def page(pairs: Sequence[Pair], columns: Sequence[Column]) -> str:
    """The Markdown page: what it sums up to, the sums, and a row for every pair."""
    words = [[word(pair, verdict) for pair, (verdict, _) in zip(pairs, c.verdicts, strict=True)] for c in columns]
    right = sum(pair.right for pair in pairs)
    summary = "; ".join(f"{c.tool} {cells.count(AS_IT_IS)}" for c, cells in zip(columns, words, strict=True))
    header = ["", *(f"{column.tool} {column.version}" for column in columns)]
    sums = [
        [title, *(str(cells.count(kind)) for cells in words)]
        for kind, title in (
            (AS_IT_IS, f"right, of {len(pairs)}"),
            (ACCEPTED, f"wrong: accepted one of {len(pairs) - right} that are wrong"),
            (REJECTED, f"wrong: rejected one of {right} that are right"),
            (INCONCLUSIVE, "inconclusive"),
            (CRASHED, "crashed: an error instead of a verdict"),
        )
    ]

    missed = "\n".join(f"- *{pair.name}*: {pair.missed}." for pair in pairs if pair.missed) or "- nothing of this."

    def rows(*, which: bool) -> str:
        listed = [
            [f"{pair.name}: {pair.truth}", *(cells[index] for cells in words)]
            for index, pair in enumerate(pairs)
            if pair.right == which
        ]
        return table(header, listed)

    runtimes = " and ".join(sorted({column.runtime for column in columns}))
    return f"""\
**Right verdicts on {len(pairs)} pairs of models: {summary}.**

# What four checkers say about {len(pairs)} conversions

{right} of the pairs are correct rewrites; {len(pairs) - right} are wrong, in one way each. Made by

    python -m benchmarks.verdicts --python PEERS_PYTHON

where PEERS_PYTHON has the other tools, all with onnxruntime {runtimes} on the CPU.
The pairs are in `benchmarks/verdicts/`. Each tool with its defaults:

- *normswap*: `normswap check ORIGINAL CONVERTED`;
- *polygraphy*: `polygraphy run ORIGINAL --onnxrt --save-inputs I --save-outputs O`, then
  `polygraphy run CONVERTED --onnxrt --load-inputs I --load-outputs O`;
- *onnxsim*: `onnxsim.model_checking.compare`, free sizes set to 2, which it must be told;
- *onnxslim*: what its `--model-check` does, on two given models (`check_onnx`, `onnxruntime_inference`,
  `check_result`).

The last two are made to check their own simplifications, and draw from numpy's global generator; it is seeded with 0.
A tool that raises an error where the interface has changed has noticed something, but has said so by a traceback. The
last five pairs are about the interface and its sizes; the other tools compare the numbers of outputs of one name.

{table(header, sums)}

What normswap does not see:

{missed}

## Correct rewrites

{rows(which=True)}

## Wrong in one way

{rows(which=False)}
"""


def main() -> None:
    """Write the pairs as models, run the tools, write the page."""
    given = arguments()
    pairs = [*RIGHT, *WRONG]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = []
        for index, pair in enumerate(pairs):
            paths = (folder / f"{index}.original.onnx", folder / f"{index}.converted.onnx")
            for model, path in zip(pair.make(), paths, strict=True):
                onnx.save(model, path)
            files.append(paths)
        columns = [run(tool, files, folder, sys.executable if tool == "normswap" else given.python) for tool in TOOLS]
    given.output.write_text(page(pairs, columns), encoding="utf-8")
    print(given.output.read_text(encoding="utf-8").splitlines()[0])
    if given.json:
        notes = {
            column.tool: dict(zip([pair.name for pair in pairs], column.verdicts, strict=True)) for column in columns
        }
        given.json.write_text(json.dumps(notes, indent=2, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
