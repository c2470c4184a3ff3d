"""Rectifiers, Clip, Max and Min pass maps that keep the order of numbers, with what they compare with mapped as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normswap import maps
from normswap.maps import Deferred, Map
from normswap.transfer import Request, Step
from tests.steps import Case, blocks, center, obligation_of, passes, scale, shift, uniform


def rectifier(operator: str, given: str = "", x: str = "B,8,H") -> str:
    call = f"{operator}<{given}>(x)" if given else f"{operator}(x)"
    return f"main (double[{x}] x) => (double[{x}] y) {{ [n] y = {call} }}"


def prelu(slope: str, *, constant: bool = True) -> str:
    declared = f"<double[{slope}] slope>" if constant else ""
    more = "" if constant else f", double[{slope}] slope"
    return f"main (double[B,8,H] x{more}) => (double[B,8,H] y) {declared} {{ [n] y = PRelu(x, slope) }}"


def clip(low: str = "", high: str = "", x: str = "B,8,H", kind: str = "double") -> str:
    """A Clip of x, of which either bound may be missing."""
    bounds = {name: number for name, number in (("low", low), ("high", high)) if number}
    declared = ", ".join(f"{kind} {name} = {{{number}}}" for name, number in bounds.items())
    operands = "x, low, high" if low and high else "x, low" if low else "x, , high" if high else "x"
    header = f"<{declared}>" if declared else ""
    return f"main ({kind}[{x}] x) => ({kind}[{x}] y) {header} {{ [n] y = Clip({operands}) }}"


def clip_by_attributes(given: str) -> str:
    return f"main (double[B,8,H] x) => (double[B,8,H] y) {{ [n] y = Clip<{given}>(x) }}"


def extremum(operator: str, operands: str = "a, b", b: str = "B,8,H", constants: str = "") -> str:
    more = "" if constants else f", double[{b}] b"
    declared = f"<{constants}>" if constants else ""
    return f"main (double[B,8,H] a{more}) => (double[B,8,H] y) {declared} {{ [n] y = {operator}({operands}) }}"


def positive(rank: int, axis: int, size: int) -> Map:
    """Another positive factor at each place of an axis."""
    return maps.affine(rank, scale=np.abs(scale(rank, axis, size).scale))


def with_shift(rank: int, axis: int, size: int) -> Map:
    return maps.affine(rank, positive(rank, axis, size).scale, shift(rank, axis, size).offset())


def some_zero(rank: int, axis: int, size: int) -> Map:
    """Factors of which every second is zero."""
    factors = positive(rank, axis, size).scale.copy()
    factors.reshape(-1)[::2] = 0.0
    return maps.affine(rank, scale=factors)


def equal(rank: int, scale: float, shift: float) -> Map:
    """One factor and shift, written once per channel."""
    return maps.affine(rank, scale=np.full((8, 1), scale), shift=np.full((8, 1), shift))


def deferred(rank: int, shift: float) -> Map:
    return maps.affine(rank, scale=np.asarray(2.5), shift=Deferred((1,) * rank, lambda: np.full((1,) * rank, shift)))


RUNTIME_BOUND = "main (double[B,8,H] x, double low) => (double[B,8,H] y) { [n] y = Clip(x, low) }"
LARGEST = "1.7976931348623157e308"
PER_CHANNEL = "double[8,1] b"

PASSES = {
    "Relu pull": Case(rectifier("Relu"), positive(3, 1, 8)),
    "Relu push": Case(rectifier("Relu"), positive(3, 1, 8), 0),
    "Relu pull factors of zero": Case(rectifier("Relu"), some_zero(3, 1, 8)),
    "Relu push factors of zero": Case(rectifier("Relu"), some_zero(3, 1, 8), 0),
    "Relu pull along the last axis": Case(rectifier("Relu", x="B,S,8"), positive(3, 2, 8)),
    "LeakyRelu pull": Case(rectifier("LeakyRelu", "alpha = 0.1"), positive(3, 1, 8)),
    "LeakyRelu push": Case(rectifier("LeakyRelu"), positive(3, 1, 8), 0),
    "LeakyRelu pull, slope the other way": Case(rectifier("LeakyRelu", "alpha = -0.5"), positive(3, 1, 8)),
    "PRelu pull": Case(prelu("8,1"), positive(3, 1, 8)),
    "PRelu push": Case(prelu("8,1"), positive(3, 1, 8), 0),
    "PRelu pull, one slope": Case(prelu("1"), some_zero(3, 1, 8)),
    "PRelu push, slope of run time": Case(prelu("8,1", constant=False), positive(3, 1, 8), 0),
    "Clip pull at zero": Case(clip("0.0"), positive(3, 1, 8)),
    "Clip push at zero": Case(clip("", "0.0"), some_zero(3, 1, 8), 0),
    "Clip pull at zero, the other bound as good as infinite": Case(clip("0.0", LARGEST), positive(3, 1, 8)),
    "Clip pull without bounds": Case(clip(), scale(3, 1, 8)),
    "Clip push without bounds": Case(clip(), center(3, 1, 8), 0),
    "Clip pull one factor": Case(clip("0.0", "6.0"), uniform(3, 2.5)),
    "Clip push one factor": Case(clip("0.0", "6.0"), uniform(3, 0.01), 0),
    "Clip pull one factor of zero": Case(clip("-1.0", "6.0"), uniform(3, 0.0)),
    "Clip pull one factor and shift": Case(clip("-1.0", "6.0"), uniform(3, 2.5, -7.0)),
    "Clip push one factor and shift": Case(clip("-1.0", "6.0"), uniform(3, 2.5, -7.0), 0),
    "Clip pull a shift of a bound at zero": Case(clip("0.0"), uniform(3, 1.0, 3.0)),
    "Clip pull narrow bounds": Case(clip("0.001", "0.002"), uniform(3, 2.5, -7.0)),
    "Clip push wide bounds": Case(clip("-65504.0", "65504.0"), uniform(3, 2.5, -7.0), 0),
    "Clip pull the same factor and shift in each channel": Case(clip("-1.0", "6.0"), equal(3, 2.5, -7.0)),
    "Clip push the same factor and shift in each channel": Case(clip("-1.0", "6.0"), equal(3, 2.5, -7.0), 0),
    "Clip pull a shift that is computed later": Case(clip("-1.0", "6.0"), deferred(3, -7.0)),
    "Clip push a shift that is computed later": Case(clip("-1.0", "6.0"), deferred(3, -7.0), 0),
    "Clip pull, bounds of one element": Case(
        clip("-1.0", "6.0").replace("double low =", "double[1] low ="), uniform(3, 2.5, -7.0)
    ),
    "Clip pull, bounds by attribute": Case(
        clip_by_attributes("min = -1.0, max = 6.0"), uniform(3, 2.5, -7.0), opset=10
    ),
    "Clip push, bound by attribute": Case(clip_by_attributes("max = 6.0"), uniform(3, 2.0, -7.0), 0, opset=6),
    "Clip pull, bound of zero by attribute": Case(clip_by_attributes("min = 0.0"), some_zero(3, 1, 8), opset=6),
    "Max pull to both": Case(extremum("Max"), with_shift(3, 1, 8)),
    "Max pull to a constant": Case(extremum("Max", constants=PER_CHANNEL), with_shift(3, 1, 8)),
    "Max pull to a constant that grows": Case(extremum("Max", constants="double b = {0.0}"), with_shift(3, 1, 8)),
    "Max push past a constant": Case(extremum("Max", constants=PER_CHANNEL), with_shift(3, 1, 8), 0),
    "Max push past a constant that grows": Case(extremum("Max", constants="double b = {6.0}"), with_shift(3, 1, 8), 0),
    "Max push past zero": Case(extremum("Max", constants="double b = {0.0}"), some_zero(3, 1, 8), 0),
    "Min pull of three": Case(extremum("Min", "a, b, a", constants="double b = {6.0}"), with_shift(3, 1, 8)),
    "Min push": Case(extremum("Min", constants="double b = {6.0}"), positive(3, 1, 8), 0),
}
BLOCKS = {
    "Relu pull a negative factor": (Case(rectifier("Relu"), scale(3, 1, 8)), "negative-scale"),
    "Relu push a negative factor": (Case(rectifier("Relu"), uniform(3, -1.0), 0), "negative-scale"),
    "Relu pull a shift": (Case(rectifier("Relu"), with_shift(3, 1, 8)), "does-not-commute"),
    "Relu push a shift": (Case(rectifier("Relu"), uniform(3, 1.0, 2.0), 0), "does-not-commute"),
    "Relu pull a center": (Case(rectifier("Relu"), center(3, 1, 8)), "does-not-commute"),
    "LeakyRelu push a negative factor": (
        Case(rectifier("LeakyRelu", "alpha = -0.5"), scale(3, 1, 8), 0),
        "negative-scale",
    ),
    "PRelu pull a negative factor": (Case(prelu("8,1"), scale(3, 1, 8)), "negative-scale"),
    "PRelu push to the slope": (Case(prelu("8,1", constant=False), positive(2, 0, 8), 1), "does-not-commute"),
    "Clip pull another factor per channel": (Case(clip("0.0", "6.0"), positive(3, 1, 8)), "piecewise-bounds"),
    "Clip push another factor per channel": (Case(clip("0.0", "6.0"), positive(3, 1, 8), 0), "piecewise-bounds"),
    "Clip pull another shift per channel": (Case(clip("0.0"), with_shift(3, 1, 8)), "piecewise-bounds"),
    "Clip pull a shift per channel that is computed later": (
        Case(clip("0.0"), maps.affine(3, shift=Deferred((1, 8, 1), lambda: np.zeros((1, 8, 1))))),
        "piecewise-bounds",
    ),
    "Clip pull a negative factor": (Case(clip("0.0", "6.0"), uniform(3, -2.0)), "negative-scale"),
    "Clip push a factor of zero": (Case(clip("-1.0", "6.0"), uniform(3, 0.0), 0), "piecewise-bounds"),
    "Clip pull a center": (Case(clip("0.0"), center(3, 1, 8)), "does-not-commute"),
    "Clip pull, bound of run time": (Case(RUNTIME_BOUND, uniform(3, 2.0)), "piecewise-bounds"),
    "Clip push to a bound": (Case(RUNTIME_BOUND, uniform(0, 2.0), 1), "does-not-commute"),
    "Clip pull, attribute, another factor per channel": (
        Case(clip_by_attributes("max = 6.0"), positive(3, 1, 8), opset=6),
        "piecewise-bounds",
    ),
    "Max pull a negative factor": (Case(extremum("Max"), scale(3, 1, 8)), "negative-scale"),
    "Max push past a value of run time": (Case(extremum("Max"), positive(3, 1, 8), 0), "does-not-commute"),
    "Max push a factor of zero": (
        Case(extremum("Max", constants=PER_CHANNEL), some_zero(3, 1, 8), 0),
        "piecewise-bounds",
    ),
    "Max pull to an operand that is the same along the axis": (
        Case(extremum("Max", b="B,1,H"), positive(3, 1, 8)),
        "broadcast",
    ),
    "Min push a center": (Case(extremum("Min", constants=PER_CHANNEL), center(3, 1, 8), 0), "does-not-commute"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


def test_only_bounds_that_change_are_new() -> None:
    assert passes(Case(clip("0.0", "6.0"), uniform(3, 2.0))).constants.keys() == {2}
    assert passes(Case(clip("0.0", "6.0"), uniform(3, 2.0, 1.0))).constants.keys() == {1, 2}
    assert not passes(Case(clip("0.0", LARGEST), uniform(3, 2.0))).constants


def test_the_new_bounds_are_the_map_of_the_old_ones() -> None:
    assert passes(PASSES["Clip pull, bounds by attribute"]).attributes == {"min": -9.5, "max": 8.0}
    assert passes(PASSES["Clip push, bound by attribute"]).attributes == {"max": 6.5}


def test_the_largest_float32_is_no_bound_of_float32() -> None:
    text = clip("-3.4028234663852886e38", "3.4028234663852886e38", kind="float")
    case = Case(text, scale(3, 1, 8))
    assert isinstance(case.answer(case.scenario()), Step)
    assert blocks(Case(clip("-3.4028234663852886e38"), positive(3, 1, 8))) == "piecewise-bounds"


# --- mistakes -------------------------------------------------------------------------------------------------------


def as_it_is(step: Step | None, request: Request) -> Step:
    """The same map on both sides, whatever stands in its way."""
    return Step(inputs={0: request.map}, outputs={0: request.map})


def on_bounds(**changes: Map | None) -> Callable[[Step, Request], Step]:
    """Other maps, or none, on the lower and the upper bound of a Clip."""

    def mistake(step: Step, request: Request) -> Step:
        constants = {index: a_map for index, a_map in step.constants.items() if f"at{index}" not in changes}
        constants |= {int(name[2:]): a_map for name, a_map in changes.items() if a_map is not None}
        return replace(step, constants=constants)

    return mistake


def old_attributes(step: Step, request: Request) -> Step:
    return replace(step, attributes={})


def bounds_per_channel(step: Step, request: Request) -> Step:
    """What no Clip can have, taken for the bounds' own map: the first channel's."""
    first = uniform(0, float(request.map.scale.flat[0]), float(request.map.offset().flat[0]))
    return Step(inputs={0: request.map}, outputs={0: request.map}, constants={1: first, 2: first})


MUTANTS: dict[str, tuple[Case, Callable[..., Step]]] = {
    "a negative factor through Relu": (BLOCKS["Relu pull a negative factor"][0], as_it_is),
    "one negative factor among many through Relu": (
        Case(rectifier("Relu"), maps.affine(3, scale=np.array([1.0] * 7 + [-1.0]).reshape(8, 1))),
        as_it_is,
    ),
    "a negative factor down through Relu": (BLOCKS["Relu push a negative factor"][0], as_it_is),
    "a shift through Relu": (BLOCKS["Relu pull a shift"][0], as_it_is),
    "a shift far from zero through Relu": (Case(rectifier("Relu"), uniform(3, 1.0, 1e6)), as_it_is),
    "a shift down through Relu": (BLOCKS["Relu push a shift"][0], as_it_is),
    "a center through Relu": (BLOCKS["Relu pull a center"][0], as_it_is),
    "a negative factor through LeakyRelu": (BLOCKS["LeakyRelu push a negative factor"][0], as_it_is),
    "a shift through LeakyRelu": (Case(rectifier("LeakyRelu"), uniform(3, 1.0, 2.0)), as_it_is),
    "a negative factor through PRelu": (BLOCKS["PRelu pull a negative factor"][0], as_it_is),
    "the factor on the slope of a PRelu": (
        PASSES["PRelu pull"],
        lambda step, request: replace(step, inputs={}, constants={1: maps.affine(2, scale=request.map.scale[0])}),
    ),
    "another factor per channel through ReLU6": (BLOCKS["Clip pull another factor per channel"][0], as_it_is),
    "another factor per channel down through ReLU6": (
        BLOCKS["Clip push another factor per channel"][0],
        bounds_per_channel,
    ),
    "a negative factor through ReLU6": (BLOCKS["Clip pull a negative factor"][0], bounds_per_channel),
    "a shift through a bound of zero": (Case(clip("0.0"), uniform(3, 1.0, 3.0)), as_it_is),
    "the upper bound forgotten": (PASSES["Clip pull one factor"], on_bounds(at2=None)),
    "the upper bound forgotten, pushed": (PASSES["Clip push one factor"], on_bounds(at2=None)),
    "the lower bound forgotten": (PASSES["Clip pull one factor and shift"], on_bounds(at1=None)),
    "wide bounds forgotten": (PASSES["Clip push wide bounds"], on_bounds(at1=None, at2=None)),
    "narrow bounds forgotten": (PASSES["Clip pull narrow bounds"], on_bounds(at1=None, at2=None)),
    "the bound without the shift": (PASSES["Clip pull one factor and shift"], on_bounds(at2=uniform(0, 2.5))),
    "the new bound mapped, not the old one": (
        PASSES["Clip push one factor and shift"],
        on_bounds(at1=uniform(0, 2.5, -7.0), at2=uniform(0, 2.5, -7.0)),
    ),
    "bounds by attribute forgotten": (PASSES["Clip pull, bounds by attribute"], old_attributes),
    "a negative factor through Max": (
        BLOCKS["Max pull a negative factor"][0],
        lambda step, request: Step(inputs=dict.fromkeys((0, 1), request.map), outputs={0: request.map}),
    ),
    "the constant of a Max forgotten": (
        PASSES["Max pull to a constant"],
        lambda step, request: replace(step, constants={}),
    ),
    "the constant of a Min not inverted": (
        PASSES["Min push"],
        lambda step, request: replace(step, constants={1: request.map}),
    ),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Callable[..., Step]) -> None:
    told = case.scenario()
    wrong = mistake(case.answer(told), Request(told.node("n"), case.map, case.at, told.facts))
    assert obligation_of(told, wrong, pulls=case.at is None).failure.startswith("differs by")
