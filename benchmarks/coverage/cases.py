"""The cases: every spelling, each at a few opsets and element types, taken in turn so that all of them occur."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import onnx

from benchmarks.coverage import (
    assemblies,
    bodies,
    constants,
    grouped,
    lengths,
    operators,
    readers,
    sandwiches,
    space,
    trap_shapes,
    traps,
    whole_axes,
)
from benchmarks.coverage.sketch import Feeds, Floats, Sketch
from benchmarks.coverage.spelling import Spelling, Truths
from benchmarks.coverage.truth import DRAWS, Draw, Trap, drawn

MODULES = (
    *(whole_axes, assemblies, readers, bodies, operators),
    *(space, sandwiches, grouped, lengths, constants, traps, trap_shapes),
)
WEIGHTS = frozenset({"WeightNorm", "WeightStandardization", "SpectralNorm"})
OPSETS = (7, 9, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 28)


@dataclass(frozen=True, eq=False)
class Case:
    """One spelling at one opset and element type."""

    spelling: Spelling
    opset: int
    dtype: str

    @property
    def name(self) -> str:
        """Kind, what is varied, how, where: unique, and readable."""
        parts = dict.fromkeys([self.spelling.kind, self.spelling.group, self.spelling.name])
        return "/".join(
            [*parts, f"opset{self.opset}", {"float": "float32", "double": "float64"}.get(self.dtype, self.dtype)]
        )

    @property
    def kind(self) -> str:
        """Its row of the summary."""
        return self.spelling.kind

    @cached_property
    def built(self) -> tuple[Sketch, Truths | Trap]:
        """The graph, and what it is."""
        sketch = Sketch(self.opset, self.dtype)
        return sketch, self.spelling.recipe(sketch)

    @property
    def truth(self) -> Truths | Trap:
        """The norms that the graph holds, or what sort of trap it is."""
        return self.built[1]

    @property
    def is_trap(self) -> bool:
        """Whether it is no norm."""
        return isinstance(self.truth, Trap)

    @property
    def norms(self) -> Truths:
        """The norms that are in it."""
        return self.truth.norms if isinstance(self.truth, Trap) else self.truth

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph as a model."""
        return self.built[0].model()

    def feeds(self, draw: Draw, seed: int = 0) -> Feeds:
        """Inputs."""
        types = {name: kind.rstrip("]").partition("[") for name, kind in self.built[0].inputs.items()}
        return drawn(
            {name: (kind, dims.split(",") if dims else []) for name, (kind, _, dims) in types.items()}, draw, seed
        )

    @property
    def draws(self) -> tuple[Draw, ...]:
        """What it is run with. Where nothing keeps the divisor from zero, no row of x is constant.

        Nor is it where a weight is the norm: one that is standardized has columns of mean zero, and leaves rounding.
        """
        unguarded = any(norm.epsilon == 0 and norm.function is None for norm in self.norms)
        if self.kind in WEIGHTS:
            return tuple(draw for draw in DRAWS if not draw.constant and not draw.offset)
        return tuple(draw for draw in DRAWS if not (draw.constant and unguarded))

    def expected(self, feeds: Feeds) -> list[Floats]:
        """What the graph computes, by its formula."""
        formula = self.built[0].formula
        assert formula is not None
        return list(formula(feeds))


def all_spellings() -> Iterator[Spelling]:
    """Every spelling, those of one kind together."""
    found = [spelling for module in MODULES for spelling in module.spellings()]
    kinds = list(dict.fromkeys(spelling.kind for spelling in found))
    yield from sorted(found, key=lambda spelling: kinds.index(spelling.kind))


@cache
def load() -> tuple[Case, ...]:
    """All cases that the onnx that is installed knows the opset of."""
    turns = itertools.count()
    cases = [case for spelling in all_spellings() for case in _at(spelling, turns)]
    newest = onnx.defs.onnx_opset_version()
    return tuple(case for case in cases if case.opset <= newest)


def _at(spelling: Spelling, turns: Iterator[int]) -> Iterator[Case]:
    """One spelling at as many opsets and types as it has copies; no two of them alike."""
    taken = set[tuple[int, str]]()
    opsets = [opset for opset in OPSETS if spelling.since <= opset <= spelling.until]
    for turn in itertools.islice(turns, spelling.copies):
        dtype = spelling.dtypes[turn % len(spelling.dtypes)]
        fit = [opset for opset in opsets if dtype != "bfloat16" or opset >= spelling.bfloat16_since]
        at = (fit[7 * turn % len(fit)], dtype)
        if at not in taken:
            taken.add(at)
            yield Case(spelling, *at)
