"""What both models compute on one case, every value of it: the original's truth, its own arithmetic, the converted's.

There are three ways to look at the converted model: in float64, where only functions differ; as deployed, where
rounding and overflow show; in float64 before new weights were rounded, where an exact rewrite shows nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from normswap.bisect.pair import Pair
from normswap.bisect.relation import Axes, Sight, agreement, agrees
from normswap.check import arms
from normswap.check.arms import Arm
from normswap.check.inputs import Case
from normswap.check.measure import is_float
from normswap.check.runtime import Rejected
from normswap.check.truth import Unrounded
from normswap.check.verdict import epsilon
from normswap.model import Document, save
from normswap.reference import Array, promote


@dataclass(frozen=True, eq=False)
class Recording:
    """What one arm computed: an array for each of the names, read from disk when it is asked for."""

    arm: Arm
    index: Mapping[str, int]

    @staticmethod
    def of(arm: Arm, model: ir.Model) -> Recording:
        """The arm of a model whose outputs are the values to be known by name."""
        return Recording(arm, {value.name or "": index for index, value in enumerate(model.graph.outputs)})

    def read(self, name: str) -> Array:
        """The array as it was computed."""
        return arms.load(self.arm.folder / f"0-{self.index[name]}.npy")


@dataclass(frozen=True, eq=False)
class Observation:
    """Both models on one case; `seen` is what is judged, the converted model in one of the ways to look at it.

    `unrounded` are the weights with which that is, `known` the agreements that were asked for.
    """

    pair: Pair
    case: Case
    truth: Recording
    own: Recording
    noisy: Recording
    seen: Recording
    arithmetic: str
    unrounded: Unrounded | None = None
    known: dict[str, Axes | None] = field(default_factory=dict)

    def sight(self, name: str) -> Sight:
        """One value as all arms computed it."""
        own = self.own.read(name)
        eps = epsilon(own.dtype) if is_float(own) else 0.0
        truth, noisy, seen = (promote(arm.read(name)) for arm in (self.truth, self.noisy, self.seen))
        return Sight(truth, promote(own), noisy, seen, eps, self.unrounded is not None)

    def agreement(self, name: str) -> Axes | None:
        """The form in which a value agrees, None if it does in none."""
        if name not in self.known:
            self.known[name] = self.form(name, self.sight(name))
        return self.known[name]

    def form(self, name: str, sight: Sight) -> Axes | None:
        """The same for another sight of the value; an output has to agree as it is."""
        if name in self.pair.outputs:
            return () if agrees(sight) else None
        return agreement(sight)

    def failing(self) -> list[str]:
        """The outputs that do not agree."""
        return [name for name in self.pair.outputs if self.agreement(name) is None]


def observe(
    original: Path,
    converted: Path,
    case: Case,
    scratch: Path,
    *,
    provider: str,
    unjudged: frozenset[str] = frozenset(),
    unrounded: Unrounded | None = None,
) -> Iterator[Observation]:
    """Look at both models on `case`, in each way; `unjudged` are outputs that may differ.

    All arrays are in files under `scratch`; in memory are one model and, once per arm, all values of the case.
    Raises `TruthUnavailable`, and `Rejected` where the original does not run with its values as outputs.
    """
    pair = Pair.open(original, converted, unjudged)
    before, after = pair.original, pair.converted

    def evaluated(document: Document, name: str, *, noisy: bool = False, weights: Unrounded | None = None) -> Recording:
        arm = arms.evaluated(document.model, [case], scratch / name, noisy=noisy, unrounded=weights)
        return Recording.of(arm, document.model)

    def deployed(document: Document, name: str) -> Recording:
        path = scratch / f"{name}.onnx"
        save(document, document.model, path)
        arm = arms.deployed(path, provider, [case], scratch / name, optimized=False)
        return Recording.of(arm, document.model)

    scratch.mkdir(parents=True)
    first = Observation(
        pair,
        case,
        truth=evaluated(before, "truth"),
        own=deployed(before, "own"),
        noisy=evaluated(before, "noise", noisy=True),
        seen=evaluated(after, "seen"),
        arithmetic="float64",
    )
    yield first
    with suppress(Rejected):  # which the check has said, if it was about this
        yield replace(first, seen=deployed(after, "deployed"), arithmetic="onnxruntime", known={})
    if unrounded:
        exact = evaluated(after, "exact", weights=unrounded)
        what = "float64, before weights were rounded"
        yield replace(first, seen=exact, arithmetic=what, unrounded=unrounded, known={})
