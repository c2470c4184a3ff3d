"""The judge: whether what a claim says is true, by onnx's own evaluator and a formula in plain numpy.

It takes the nodes from the graph itself, not from the claim, and inputs of kinds that no probe is of. What rounding may
do to either side is bounded per group, and groups where that bound says nothing are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from onnx.reference import ReferenceEvaluator

from tests.random_non_norms.graph import EPS, Floats, Graph

T = TypeVar("T")
CENTERED = frozenset({"LayerNorm", "InstanceNorm", "GroupNorm", "MeanVarianceNorm"})
AFFINE = frozenset({"Affine", "BatchNorm"})
# Sizes of the free dimensions B and T.
SIZES = ({"B": 2, "T": 3}, {"B": 1, "T": 7}, {"B": 4, "T": 1}, {"B": 3, "T": 16})
SCALES = tuple(10.0**exponent for exponent in range(-12, 13, 3))
UNIT = float(np.finfo(np.float64).eps) / 2
# Rounding errors of a few operators over a few hundred elements.
ROUNDINGS = 512
# What recognition itself takes for equal, relative to the largest element, twice: a smaller difference is no mistake.
AGREEMENT = 2e-9
# What rounding leaves of a bias that was solved for, relative to the gain and itself.
SOLVED = 3e-11
# 1/√D may be a float32.
WRITTEN = 2e-6
# A group whose divisor may be off by more than this, relatively, is not judged.
JUDGED = 1e-4
# Below this, mean squares have lost digits to underflow.
SMALLEST = 1e-280


@dataclass(frozen=True)
class Claim:
    """What a norm was named: the values by name, everything else as numbers."""

    kind: str
    axes: tuple[int, ...]
    epsilon: float
    place: str
    groups: int
    elements: int | None
    total: bool  # of squares, instead of their mean
    input: str
    output: str
    gain: Floats
    bias: Floats


class NotRun(Exception):
    """The graph is no valid one."""


class Untrue(Exception):
    """A claim that does not hold."""


def grouped(claim: Claim, x: Floats, what: Floats) -> Floats:
    """The mean of `what` over each group of x, at every element."""
    first = claim.axes[0]
    if claim.elements is not None:
        what = np.take(what, range(claim.elements), first)
    if claim.groups == 1:
        return np.broadcast_to(what.mean(claim.axes, keepdims=True), x.shape)
    result = np.empty(x.shape)
    for run in np.split(np.arange(x.shape[first]), claim.groups):
        index = (slice(None),) * first + (run,)
        part = what[index].mean(claim.axes, keepdims=True)
        result[index] = np.broadcast_to(part, result[index].shape)
    return result


@np.errstate(all="ignore")
def expected(claim: Claim, x: Floats, rounded: float) -> tuple[Floats, Floats]:
    """The claimed value of every element, and how far another may be from it; NaN where that cannot be said.

    `rounded` is the relative error of constants.
    """
    slack = max(WRITTEN if claim.kind == "L2Norm" else AGREEMENT, rounded)
    if claim.kind in AFFINE:
        value = claim.gain * x + claim.bias
        return value, slack * (np.abs(claim.gain * x) + np.abs(claim.bias))
    base = x - grouped(claim, x, x) if claim.kind in CENTERED else x
    square = grouped(claim, x, base * base)
    if claim.total:
        square = square * np.prod([x.shape[axis] for axis in claim.axes])
    noise = ROUNDINGS * UNIT * np.abs(x).max(claim.axes, keepdims=True)
    if claim.place == "inside":
        divisor = np.sqrt(square + claim.epsilon)
    elif claim.place == "outside":
        divisor = np.sqrt(square) + claim.epsilon
    else:
        divisor = np.maximum(np.sqrt(square), claim.epsilon)
    off = noise * np.abs(x).max(claim.axes, keepdims=True) / (square if claim.place != "inside" else divisor**2)
    off = np.where((claim.place == "floor") & (np.sqrt(square) < 0.9 * claim.epsilon), 0.0, off)
    core = base / divisor
    value = claim.gain * core + claim.bias
    bound = np.abs(claim.gain) * (noise / divisor + np.abs(core) * off)
    bound = bound + max(SOLVED, rounded) * (np.abs(claim.bias) + np.abs(claim.gain).max())
    bound = bound + slack * np.abs(claim.gain * core).max()
    blind = (off > JUDGED) | ((square < SMALLEST) & (claim.epsilon < SMALLEST)) | ~np.isfinite(core)
    return value, np.where(blind, np.nan, bound)


def inputs(shape: tuple[int, ...], epsilon: float, random: np.random.Generator) -> Iterator[tuple[str, Floats]]:
    """Inputs of very different kinds."""
    normal = random.standard_normal
    for scale in SCALES:
        yield f"scale {scale:g}", scale * normal(shape)
    for factor in (0.3, 3.0):
        yield f"about the root of epsilon, {factor}", factor * (epsilon or 1e-4) ** 0.5 * normal(shape)
    for offset in (-7.0, 300.0, 1e6, 1e-3):
        yield f"offset {offset:g}", normal(shape) + offset
    yield "small around an offset", 1e-4 * normal(shape) - 0.5
    yield "constant rows", np.broadcast_to(normal((*shape[:-1], 1)), shape).copy()
    yield "constant", np.full(shape, 2.5)
    yield "zero", np.zeros(shape)
    yield "one-hot", np.eye(shape[-1])[random.integers(shape[-1], size=shape[:-1])]
    yield "ties", random.choice([-1.0, 0.5, 2.0], shape)
    yield "integers", random.integers(-9, 10, shape).astype(np.float64)
    yield "positive", random.exponential(1.0, shape)
    yield "negative", -random.exponential(1.0, shape)
    yield "denormal", 1e-310 * random.integers(-9, 10, shape)
    yield "one outlier", np.where(random.random(shape) < 0.05, 1e7, 1.0) * normal(shape)
    yield "of every scale", 10.0 ** random.uniform(-8, 8, shape) * random.choice([-1.0, 1.0], shape)
    yield "a ramp", np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


def judge(graph: Graph, claim: Claim, seed: int) -> int:
    """How many elements agree with the claim. Raises `Untrue` with the first that does not, and `NotRun`."""
    model = _run(lambda: graph.judged(claim.input, claim.output))
    if model is None:
        raise Untrue("the input has no say in the output")
    evaluator, agreed = ReferenceEvaluator(model), 0
    random = np.random.default_rng([seed, 99])
    rounded = 8 * EPS[graph.dtype] if graph.computes_constants() else 0.0
    others = [given.name for given in model.graph.input if given.name != claim.input]
    for sizes in SIZES:
        shape = _shape(graph, claim.input, sizes)
        for kind, x in inputs(shape, claim.epsilon, random):
            feed = {name: random.normal(1, 1, _shape(graph, name, sizes)) for name in others}
            found = _run(partial(evaluator.run, None, {claim.input: x, **feed}))[0]
            agreed += _compared(claim, x, found, rounded, f"{kind}, {sizes}")
    return agreed


def _shape(graph: Graph, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a value where the free dimensions have these sizes."""
    values = {"x": graph.dims, **graph.inputs}
    if name in values:
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in values[name])
    model = _run(lambda: graph.judged(None, name))
    assert model is not None
    feed = {given.name: np.ones(_shape(graph, given.name, sizes)) for given in model.graph.input}
    shape: tuple[int, ...] = np.shape(_run(lambda: ReferenceEvaluator(model).run(None, feed))[0])
    return shape


@np.errstate(all="ignore")
def _run(function: Callable[[], T]) -> T:
    """What the function gives. Raises `NotRun` where an evaluator raises anything."""
    try:
        return function()
    except Exception as error:
        raise NotRun(str(error)) from error


def _compared(claim: Claim, x: Floats, found: Floats, rounded: float, where: str) -> int:
    value, bound = expected(claim, x, rounded)
    if found.shape != value.shape:
        raise Untrue(f"shape {found.shape} instead of {value.shape} ({where})")
    judged = np.isfinite(bound)
    with np.errstate(all="ignore"):
        wrong = judged & ~(np.abs(found - value) <= bound)
    if wrong.any():
        index = tuple(int(i[0]) for i in np.nonzero(wrong))
        raise Untrue(f"{found[index]!r} instead of {value[index]!r} ± {bound[index]:.1e} at {index} ({where})")
    return int(judged.sum())
