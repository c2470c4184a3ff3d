"""Run a peer on the cases, in a process that may die, and keep what came of it: a graph is never run twice."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from benchmarks.coverage.cases import Case
from benchmarks.coverage.cell import Cell
from benchmarks.coverage.judge import judged

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 60.0  # for one case; all take well under one
# A process is not kept for ever: some tools pile up state, until they fail at everything.
BATCH = 50
DIED, ENDLESS = "exit code {}", "it does not end"


@dataclass(frozen=True)
class Column:
    """What one tool made of the cases, by name; no cells where it is not installed."""

    tool: str
    version: str
    cells: Mapping[str, Cell]


def digest(case: Case) -> str:
    """What the graph of a case is told by."""
    return hashlib.sha256(case.model.SerializeToString(deterministic=True)).hexdigest()[:16]


def column(tool: str, cases: Sequence[Case], python: str, cache: Path | None) -> Column:
    """One tool on all cases; those that it has seen already are taken from `cache`, if there is one."""
    kept = _kept(tool, python, cache)
    digests = {case.name: digest(case) for case in cases}
    todo = [case for case in cases if digests[case.name] not in kept["cells"]]
    version = kept["version"]
    if todo:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for number, case in enumerate(todo):
                onnx.save(case.model, folder / f"{number}.onnx")
            version, failures = _run(tool, len(todo), folder, python)
            if not version:
                return Column(tool, "", {})
            for number, (case, failure) in enumerate(zip(todo, failures, strict=True)):
                kept["cells"][digests[case.name]] = asdict(judged(case, folder / f"{number}.result.onnx", failure))
        kept["version"] = version
        if cache is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return Column(tool, version, {case.name: Cell(**kept["cells"][digests[case.name]]) for case in cases})


def _kept(tool: str, python: str, cache: Path | None) -> dict[str, Any]:
    """What an earlier run of the same version left, judged in the same way."""
    folder = Path(__file__).resolve().parent
    judges = b"".join((folder / f"{name}.py").read_bytes() for name in ("tools", "judge", "evaluate", "truth"))
    nothing: dict[str, Any] = {"version": "", "judges": hashlib.sha256(judges).hexdigest()[:16], "cells": {}}
    if cache is None or not cache.exists():
        return nothing
    code = f"from benchmarks.coverage.tools import version; print(version({tool!r}))"
    asked = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    kept: dict[str, Any] = json.loads(cache.read_text(encoding="utf-8"))
    same = (asked.stdout.strip(), nothing["judges"]) == (kept["version"], kept["judges"])
    return kept if same else nothing


def _run(tool: str, count: int, folder: Path, python: str) -> tuple[str, list[str]]:
    """The version of a tool, and its failures, one for each graph. A dead process is started again behind its last."""
    version, failures = "", list[str]()
    while len(failures) < count:
        tasks, report = folder / "tasks.json", folder / "report.jsonl"
        report.unlink(missing_ok=True)
        left = range(len(failures), min(count, len(failures) + BATCH))
        tasks.write_text(json.dumps([[str(folder / f"{n}.onnx"), str(folder / f"{n}.result.onnx")] for n in left]))
        command = [python, "-m", "benchmarks.coverage.tools", tool, str(tasks), str(report)]
        death, said = _watched(command, report, folder / "stderr.txt")
        lines = [json.loads(line) for line in _lines(report)]
        if not lines:
            print(f"{tool}: cannot be loaded: {(said.strip().splitlines() or [death])[-1]}", file=sys.stderr)
            return "", []
        version, *done = lines
        failures += done
        if len(done) < len(left):
            failures.append(death)
    return version, failures


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _watched(command: Sequence[str], report: Path, errors: Path) -> tuple[str, str]:
    """Run a process that reports line by line, as long as lines come; how it ended, and what it said."""
    with errors.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stream)
        seen, since, death = -1, time.monotonic(), ""
        while process.poll() is None:
            time.sleep(0.2)
            if len(_lines(report)) != seen:
                seen, since = len(_lines(report)), time.monotonic()
            elif time.monotonic() - since > SECONDS:
                process.kill()
                death = ENDLESS
        return death or DIED.format(process.wait()), "\n".join(_lines(errors))
