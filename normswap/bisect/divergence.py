"""The first value that diverges: every value that both models compute, judged as the check judges outputs.

A value that differs is no fault by itself: where maps move, all values on their way differ, and agree again behind it.
So the search starts at the outputs that fail and goes up, through values that differ, to those that agree. The first
on these ways that ought to agree is the first divergence, and what ought to is tried out: the original's value is put
in its place, and if what is computed from it, in a way that no map passes, agrees then, it is what belongs there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from normswap.bisect.observation import Observation
from normswap.bisect.pair import computed, upstream
from normswap.bisect.relation import Axes, form, forms
from normswap.check.truth import Evaluator, TruthUnavailable, reads
from normswap.reference import Array, promote

HORIZON = 32
"""How many values further on one is looked for that comes right: past a norm, its projections and their activation."""
# What a shift per channel passes, and what a scale: that such an operator makes the right thing of a value is no sign
# that the value is right. Operators on two activations are among them, since one of the two may be constant.
_LAYOUT = frozenset(
    (
        *("Add", "Cast", "Concat", "Div", "Dropout", "Identity", "Mul", "Neg", "Sub", "Sum", "Where"),
        *("DepthToSpace", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split"),
        *("Squeeze", "Tile", "Transpose", "Unsqueeze", "AveragePool", "GlobalAveragePool", "MaxPool", "Resize"),
        *("ReduceMean", "ReduceSum"),
    )
)
_PASS_SHIFT = _LAYOUT | {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
_PASS_SCALE = _LAYOUT | {"Clip", "LeakyRelu", "PRelu", "Relu"}


@dataclass(frozen=True, eq=False)
class Divergence:
    """A value that ought to be the original's less its mean over `axes`, if any, and is not.

    `agree` are the values at which its ways begin, each with the axes over which it is centered in the converted
    model; `differ` are those before it that differ too, and may for all that is known.
    """

    observation: Observation
    first: str
    axes: Axes
    agree: Mapping[str, Axes]
    differ: tuple[str, ...] = ()


def first_divergence(observation: Observation) -> Divergence | None:
    """The first value that diverges; None if every output agrees, on this case and looked at in this way."""
    graph, names = observation.pair.converted.model.graph, frozenset(observation.pair.names)
    values, stops = computed(graph), _agreeing(observation)
    ways = (upstream(graph, values[name], stops).inside for name in observation.failing())
    reached = frozenset[str]().union(*ways)
    suspects = {name: upstream(graph, values[name], names).ends for name in observation.pair.names if name in reached}
    with threadpool_limits(limits=1, user_api="blas"):  # many small products
        for place, name in enumerate(suspects):
            axes = _belongs(observation, name, suspects)
            if axes is not None:
                return divergence(observation, name, axes, tuple(suspects)[:place])
    return None


def divergence(observation: Observation, name: str, axes: Axes = (), differ: tuple[str, ...] = ()) -> Divergence:
    """The ways to a value, in both models, from values that agree."""
    pair, stops = observation.pair, _agreeing(observation)
    graphs = (pair.converted.model.graph, pair.original.model.graph)
    regions = [upstream(graph, computed(graph)[name], stops) for graph in graphs]
    ends = regions[0].ends | regions[1].ends
    inputs = [value.name or "" for value in pair.original.model.graph.inputs]
    agree = {end: stops.axes(end) for end in (*inputs, *pair.names) if end in ends}
    return Divergence(observation, name, axes, agree, tuple(one for one in differ if one in regions[0].inside))


@dataclass(frozen=True)
class _agreeing:  # noqa: N801 (a container that is a view)
    """The values that agree, in whichever form."""

    observation: Observation

    def __contains__(self, name: object) -> bool:
        return name in self.observation.seen.index and self.observation.agreement(str(name)) is not None

    def axes(self, name: str) -> Axes:
        """The axes over which a value is centered; an input never is."""
        return (self.observation.agreement(name) or ()) if name in self.observation.seen.index else ()


def _belongs(observation: Observation, name: str, suspects: Mapping[str, frozenset[str]]) -> Axes | None:
    """In which form the original's value belongs in the place of `name`; None where that cannot be told.

    `suspects` are the values that differ, in order, each with the values that it is computed from.
    """
    if name in observation.pair.outputs:
        return ()
    affected = {name}
    for reader, sources in suspects.items():
        if len(affected) <= HORIZON and not affected.isdisjoint(sources):
            affected.add(reader)
    readers = [reader for reader in suspects if reader in affected and reader != name]
    ends = {name}.union(*(suspects[reader] for reader in readers)) - set(readers)
    if not readers:
        return None
    graph = ir.convenience.extract(observation.pair.converted.model.graph, sorted(ends), readers)
    telling = (_telling(graph, name) | set(observation.pair.outputs)) & set(readers)
    part = Evaluator(ir.Model(graph, ir_version=10), observation.unrounded or {})
    given, truth = {end: _array(observation, end) for end in ends}, promote(observation.truth.read(name))
    for axes in forms(truth) if telling else ():
        try:
            results = part.run({**given, name: form(truth, axes)})
        except TruthUnavailable:
            return None
        for reader, result in zip(readers, results, strict=True):
            sight = observation.sight(reader) if reader in telling else None
            if sight is not None and observation.form(reader, replace(sight, seen=result)) is not None:
                return axes
    return None


def _telling(graph: ir.Graph, name: str) -> frozenset[str]:
    """What is computed from the value in a way that no map passes."""
    may_shift, may_scale, touched = {name}, {name}, {name}
    for node in graph:
        read = touched & {value.name or "" for value in reads(node)}
        made = {value.name or "" for value in node.outputs} if read else set[str]()
        touched |= made
        for passing, operators in ((may_shift, _PASS_SHIFT), (may_scale, _PASS_SCALE)):
            if node.op_type in operators and read <= passing:
                passing |= made
    return frozenset(touched - may_shift - may_scale)


def _array(observation: Observation, name: str) -> Array:
    """A value as the converted model has it; a graph input that is left to its default is a weight, and no value."""
    if name in observation.seen.index:
        return observation.seen.read(name)
    return np.asarray(observation.case.feeds[name])
