"""Where the time goes: onnxruntime's profile of a model, by kind of operator, in microseconds per run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import table
from benchmarks.sessions import Settings, open_session
from normswap.reference import Array

RUNS = 20
SKIPPED = 3  # the first runs, which allocate


@dataclass(frozen=True)
class Kind:
    """All nodes of one operator in the graph that onnxruntime made: how many, and what they take together per run."""

    nodes: int
    microseconds: float


def profile(model: Path, feeds: Mapping[str, Array], settings: Settings) -> dict[str, Kind]:
    """The kinds of operators of `model` after onnxruntime's optimizations, each node counted by its median."""
    with TemporaryDirectory() as folder:
        session = open_session(model, replace(settings, profile_prefix=str(Path(folder) / "profile")))
        for _ in range(SKIPPED + RUNS):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    kinds: dict[str, Kind] = {}
    for (operator, _), taken in durations.items():
        own = sorted(taken[-RUNS:])
        before = kinds.get(operator, Kind(0, 0.0))
        kinds[operator] = Kind(before.nodes + 1, before.microseconds + own[len(own) // 2])
    return kinds


def compared(original: Mapping[str, Kind], converted: Mapping[str, Kind]) -> str:
    """One row per kind, the largest difference first."""
    nothing = Kind(0, 0.0)
    rows = []
    for operator in {**original, **converted}:
        left, right = original.get(operator, nothing), converted.get(operator, nothing)
        rows.append((operator, left, right, right.microseconds - left.microseconds))
    total = [sum(kind.microseconds for kind in kinds.values()) for kinds in (original, converted)]
    cells = [
        [
            operator,
            str(left.nodes),
            f"{left.microseconds:,.0f}",
            str(right.nodes),
            f"{right.microseconds:,.0f}",
            f"{by:+,.0f}",
        ]
        for operator, left, right, by in sorted(rows, key=lambda row: -abs(row[3]))
    ]
    cells.append(["all", "", f"{total[0]:,.0f}", "", f"{total[1]:,.0f}", f"{total[1] - total[0]:+,.0f}"])
    return table(["operator", "nodes", "original µs", "nodes", "converted µs", "difference µs"], cells)
