"""Where the time goes: onnxruntime's profile of a model, by kind of operator, in microseconds per run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from normswap.bench.session import Settings, bound, open_session
from normswap.reference import Array

RUNS = 20
SKIPPED = 3  # the first runs, which allocate


@dataclass(frozen=True)
class Kind:
    """All nodes of one operator in the graph that onnxruntime made: how many, and what they take together per run."""

    operator: str
    nodes: int
    microseconds: float


def profile(model: Path, feeds: Mapping[str, Array], settings: Settings) -> tuple[Kind, ...]:
    """The kinds of operators of `model` after onnxruntime's optimizations, the most expensive first.

    Each node counts with the median of its runs.
    """
    with TemporaryDirectory() as folder:
        session = open_session(model, settings.profiled(str(Path(folder) / "profile")))
        run = bound(session, feeds, settings)
        for _ in range(SKIPPED + RUNS):
            run()
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    kinds: dict[str, Kind] = {}
    for (operator, _), taken in durations.items():
        own = sorted(taken[-RUNS:])
        before = kinds.get(operator, Kind(operator, 0, 0.0))
        kinds[operator] = Kind(operator, before.nodes + 1, before.microseconds + own[len(own) // 2])
    return tuple(sorted(kinds.values(), key=lambda kind: -kind.microseconds))
