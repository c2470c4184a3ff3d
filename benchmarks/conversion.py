"""Seconds and peak memory of converting one file: normswap, step by step, and other optimizers of ONNX graphs.

Every measurement is a fresh process; the tools take turns, in a random order that is drawn anew for every round. The
best of all rounds counts, since whatever else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import described, machine, table

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("normswap", "onnxruntime", "onnxslim", "onnxsim", "onnxscript")


@dataclass(frozen=True)
class Run:
    """One process. `seconds` includes the start of Python and all imports; `failure` is empty where it worked."""

    tool: str
    seconds: float = 0.0
    report: Mapping[str, Any] | None = None
    failure: str = ""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversion", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the tools [this one]")
    parser.add_argument("--tools", default=",".join(TOOLS), help="separated by commas [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="processes per tool [%(default)s]")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one conversion [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the tools [%(default)s]")
    parser.add_argument("--scratch", type=Path, help="a folder to write the results into [the system's temporary one]")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every measurement there")
    given = parser.parse_args()
    if unknown := set(given.tools.split(",")) - set(TOOLS):
        parser.error(f"no tool {min(unknown)}: there is {', '.join(TOOLS)}")
    return given


def child(python: str, words: Sequence[str], timeout: float) -> Run:
    """One process of `benchmarks.converters`, which reports on its last line."""
    command = [python, "-m", "benchmarks.converters", *words]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Run(words[0], failure=f"not done after {timeout:.0f} s")
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        return Run(words[0], seconds, json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    missing = last.startswith("ModuleNotFoundError")
    return Run(words[0], failure=f"not installed ({last.partition(': ')[2]})" if missing else last[:120])


def measure(given: argparse.Namespace, model: Path, outside: bool) -> list[Run]:
    """All runs, in the order in which they were made. A tool that failed is not tried again."""
    order, runs = random.Random(given.seed), list[Run]()
    tools = given.tools.split(",")
    for _ in range(given.rounds):
        order.shuffle(tools)
        for tool in list(tools):
            with TemporaryDirectory(dir=given.scratch) as folder:
                words = [tool, str(model), str(Path(folder) / "result.onnx"), *(["--outside"] if outside else [])]
                run = child(given.python, words, given.timeout)
            runs.append(run)
            if run.failure:
                tools.remove(tool)
    return runs


def comparison(runs: Sequence[Run], tools: Sequence[str]) -> str:
    """One row per tool: its best seconds and its largest peak."""
    rows = []
    for tool in tools:
        own = [run for run in runs if run.tool == tool]
        good = [run.report for run in own if run.report is not None]
        if failures := [run.failure for run in own if run.failure]:
            rows.append([tool, failures[0], "", "", ""])
            continue
        rows.append(
            [
                tool,
                good[0]["version"],
                f"{min(run.seconds for run in own):.2f}",
                f"{min(report['conversion_seconds'] for report in good):.2f}",
                f"{max(report['peak_bytes'] for report in good) / 1e9:.2f}",
            ]
        )
    return table(["tool", "version", "seconds", "without imports", "peak GB"], rows)


def steps(runs: Sequence[Run]) -> str:
    """The phases of normswap's best run, "" if there is none."""
    own = [run.report for run in runs if run.tool == "normswap" and run.report is not None]
    if not own:
        return ""
    best = min(own, key=lambda report: float(report["conversion_seconds"]))
    rows = [
        [name, str(phase["calls"] or ""), f"{phase['seconds']:.3f}", f"{phase['bytes'] / 1e6:.0f}"]
        for name, phase in sorted(best["phases"].items(), key=lambda item: -item[1]["seconds"])
    ]
    return table(["normswap's step", "calls", "seconds", "raises the peak by MB"], rows)


def main() -> None:
    """Measure, print Markdown, and write the JSON that was asked for."""
    given = arguments()
    model = given.model.resolve()
    start = machine()
    described_model = child(given.python, ["describe", str(model)], given.timeout)
    if described_model.report is None:
        sys.exit(f"{model}: {described_model.failure}")
    facts = dict(described_model.report)
    runs = measure(given, model, facts["outside"])
    place = "external" if facts["outside"] else "inline"
    print(f"{model.name}: {facts['nodes']:,} nodes, {facts['bytes'] / 1e6:.0f} MB, weights {place}.")
    print(f"Best of {given.rounds} processes each, interleaved. {described(start)}.\n")
    print(comparison(runs, given.tools.split(",")), end="\n\n")
    print(steps(runs))
    if given.json is not None:
        whole = {"schema": 1, "model": str(model), **facts, "machine": start, "runs": [asdict(run) for run in runs]}
        given.json.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
