"""The protocol of a benchmark: same input, same settings, interleaved rounds, the original twice.

The control is a second session of the original: where the two differ, nothing can be said about a third.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from normswap.bench.feeds import Shapes, cases, described
from normswap.bench.machine import machine
from normswap.bench.profile import profile
from normswap.bench.ratio import ratio, verdict
from normswap.bench.result import Arm, BenchResult, Sweep
from normswap.bench.rounds import BLOCKS, Taken, measure
from normswap.bench.session import Run, Settings, bound, open_session
from normswap.bench.startup import Startup, startup
from normswap.check.inputs import Case
from normswap.check.runtime import Rejected, require
from normswap.errors import UsageError

ENOUGH_FOR_P99 = 662
"""Runs from which a 99th percentile can be told with 99 % confidence (MLPerf LoadGen)."""
CONTROL = "the original again"

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What is timed, and how; the first of `models` is the original."""

    models: tuple[Path, ...]
    settings: Settings
    shapes: Shapes
    inputs: Path | None
    rounds: int
    seed: int
    profile: bool
    progress: Callable[[str], None]


def bench(request: Request) -> BenchResult:
    """Time all models on all shapes. See `normswap.bench` for what is raised."""
    if len(request.models) < 2:
        raise UsageError("name a model to compare with the original")
    if request.rounds < BLOCKS:
        raise UsageError("without a round nothing is timed")
    version, found = require(request.settings.provider), machine()
    names = _names(request.models)
    request.progress(f"opening {names[0]}")
    try:
        session = open_session(request.models[0], request.settings)
    except Rejected as error:
        raise UsageError(f"{request.models[0]}: onnxruntime does not load it: {error}") from error
    given = cases(request.models[0], session, request.shapes, request.inputs, request.seed)
    sweeps = tuple(_sweep(request, names, case) for case in given)
    settings = {**asdict(request.settings), "rounds": request.rounds, "seed": request.seed}
    return BenchResult(sweeps, settings, found, version)


def _names(models: Sequence[Path]) -> list[str]:
    """What each model is called: its file's name, or its whole path where two are alike."""
    counts = Counter(path.name for path in models)
    names = [path.name if counts[path.name] == 1 else os.fspath(path) for path in models]
    return [f"{name} ({number})" if names.index(name) != number else name for number, name in enumerate(names)]


def _sweep(request: Request, names: Sequence[str], case: Case) -> Sweep:
    """All models on one input. Raises `UsageError` where one does not run on it."""
    on = described(case)
    starts: list[Startup] = []
    for path, name in zip(request.models, names, strict=True):
        request.progress(f"{on}: starting {name} on its own")
        starts.append(_running(path, partial(startup, path, case.feeds, request.settings)))
    arms: dict[str, Callable[[], Run]] = {
        name: partial(_running, path, partial(_opened, path, case, request.settings))
        for name, path in [*zip(names, request.models, strict=True), (CONTROL, request.models[0])]
    }
    generator = np.random.default_rng(request.seed)

    def report(number: int) -> None:
        request.progress(f"{on}: round {number + 1} of {request.rounds}")

    taken = measure(arms, request.rounds // BLOCKS, generator, report)
    return Sweep(on, _arms(request, names, case, taken, starts, generator))


def _opened(path: Path, case: Case, settings: Settings) -> Run:
    return bound(open_session(path, settings), case.feeds, settings)


def _running(path: Path, action: Callable[[], T]) -> T:
    """What `action` gives. Raises `UsageError` where onnxruntime rejects the model or the input."""
    try:
        return action()
    except Rejected as error:
        raise UsageError(f"{path}: onnxruntime does not run it: {error}") from error


def _arms(
    request: Request,
    names: Sequence[str],
    case: Case,
    taken: Mapping[str, Taken],
    starts: Sequence[Startup],
    generator: np.random.Generator,
) -> tuple[Arm, ...]:
    original = taken[names[0]].rounds
    control = ratio(taken[CONTROL].rounds, original, BLOCKS, generator)
    found: list[Arm] = []
    for number, (name, path, start) in enumerate(zip(names, request.models, starts, strict=True)):
        times = 1e3 * taken[name].seconds.reshape(-1)
        own = ratio(taken[name].rounds, original, BLOCKS, generator) if number else control
        if request.profile:
            request.progress(f"profiling {name}")
        found.append(
            Arm(
                model=name,
                runs=times.size,
                least_ms=float(times.min()),
                p50_ms=float(np.quantile(times, 0.5)),
                p90_ms=float(np.quantile(times, 0.9)),
                p99_ms=float(np.quantile(times, 0.99)) if times.size >= ENOUGH_FOR_P99 else None,
                session_ms=1e3 * start.session_seconds,
                first_run_ms=1e3 * start.first_run_seconds,
                memory_bytes=start.memory,
                ratio=own,
                verdict=verdict(own, control) if number else None,
                profile=profile(path, case.feeds, request.settings) if request.profile else (),
            )
        )
    return tuple(found)
