"""A stopwatch around normswap's own steps, put on from outside: which function belongs to which phase is a table.

Time and growth of the peak are charged to the innermost phase that runs, so phases never count anything twice.
"""

from __future__ import annotations

import importlib
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

REST = "the rest"

# Where the functions are looked up when they are called: module, path to the attribute, phase.
FUNCTIONS = (
    ("normswap.api", "open_model", "opening"),
    ("normswap.session", "Session.of", "recognition"),
    ("normswap.targets", "plan_pull", "planning"),
    ("normswap.targets", "plan_push", "planning"),
    ("normswap.session", "prove", "proving"),
    ("normswap.rewrite", "apply", "rewriting"),
    ("normswap.regroup", "raise_opset", "rewriting"),
    ("normswap.regroup", "spell", "rewriting"),
    ("normswap.regroup", "runs_in_onnxruntime", "loading the result in onnxruntime, without weights"),
    ("normswap.ledger", "Conversion.save", "saving, new weights computed"),
)


def peak_bytes() -> int:
    """The largest resident memory of this process and its children so far."""
    kibibytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kibibytes * 1024


@dataclass
class Phase:
    """What was charged to one phase: `calls`, `seconds`, and by how many `bytes` it raised the peak."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0


@dataclass
class Stopwatch:
    """Phases by name, in the order in which they first ended up with something; the stack of those that run."""

    phases: dict[str, Phase] = field(default_factory=lambda: {REST: Phase()})
    running: list[str] = field(default_factory=lambda: [REST])
    since: float = field(default_factory=time.perf_counter)
    peak: int = field(default_factory=peak_bytes)

    def charge(self) -> None:
        """Charge what happened since the last time to the innermost phase."""
        now, peak = time.perf_counter(), peak_bytes()
        phase = self.phases.setdefault(self.running[-1], Phase())
        phase.seconds += now - self.since
        phase.bytes += peak - self.peak
        self.since, self.peak = now, peak

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Charge the body to `name`."""
        self.charge()
        self.running.append(name)
        try:
            yield
        finally:
            self.charge()
            self.running.pop()
            self.phases[name].calls += 1

    def around(self, function: Callable[P, R], name: str) -> Callable[P, R]:
        """`function`, charged to `name`."""

        @wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.during(name):
                return function(*args, **kwargs)

        return timed


def instrument(watch: Stopwatch) -> None:
    """Put `watch` around every function of the table. Raises `AttributeError` where normswap no longer has one."""
    for module, path, phase in FUNCTIONS:
        owner: object = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        timed = watch.around(getattr(owner, name), phase)
        is_static = isinstance(vars(owner)[name], staticmethod)
        setattr(owner, name, staticmethod(timed) if is_static else timed)
