"""LayerNorm and RMSNorm as chains of operators: every spelling of every piece, casts, constants, axes, and mixtures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.coverage.endings import AFFINES, QUOTIENTS, STABLE
from benchmarks.coverage.pieces import CENTERS, MEANS, VARIANCES, Site
from benchmarks.coverage.sketch import Sketch
from benchmarks.coverage.spelling import NARROW, Parts, Recipe, Spelling, Truths, composed, core, finish
from benchmarks.coverage.truth import Truth

# Pieces that only make sense over space, or along axis 1.
SPATIAL_PIECES = {"GlobalAveragePool", "squares-GlobalAveragePool", "gain-d-1-1", "gain-1-d-1-1"}
CHANNELS_FIRST = "B,12,H,W"
# Variances that need no mean, and affines with more than one number: with one, an RMSNorm is a ScaleNorm.
OF_ONE_VALUE = [name for name in VARIANCES if "mean2" not in name and name != "two-subs"]
OF_VECTORS = [name for name in AFFINES if name not in ("gain-scalar", "gain-of-one")]
MIXTURES = 27


def spellings() -> Iterator[Spelling]:
    """All of them."""
    for kind in ("LayerNorm", "RMSNorm"):
        yield from _pieces(kind)
        yield from _mixtures(kind)
        yield from _casts(kind)
        yield from _constants(kind)
        yield from _axes(kind)


def _of(kind: str, group: str, name: str, parts: Parts, copies: int = 2, **options: object) -> Spelling:
    return Spelling(kind, group, name, composed(kind, parts, **options), since=parts.since, copies=copies)  # type: ignore[arg-type]


def _pieces(kind: str) -> Iterator[Spelling]:
    """One piece varied at a time."""
    plain, centered = Parts(), kind == "LayerNorm"
    yield _of(kind, "plain", "plain", plain, copies=6)
    tables: dict[str, Iterable[str]] = {
        "mean": MEANS if centered else (),
        "center": CENTERS if centered else (),
        "variance": VARIANCES if centered else OF_ONE_VALUE,
        "stable": STABLE,
        "quotient": QUOTIENTS,
        "affine": AFFINES if centered else OF_VECTORS,
    }
    for part, names in tables.items():
        for name in names:
            if name not in SPATIAL_PIECES and name != getattr(plain, part):
                yield _of(kind, part, name, replace(plain, **{part: name}), copies=2 if centered else 1)


def _mixtures(kind: str) -> Iterator[Spelling]:
    """Pieces in other company than the plain one: a stride that shares no factor with their number."""
    centered = kind == "LayerNorm"
    means, centers = (list(MEANS), list(CENTERS)) if centered else (["ReduceMean"], ["sub"])
    tables = (means, centers, list(VARIANCES) if centered else OF_ONE_VALUE, STABLE, QUOTIENTS, OF_VECTORS)
    every = list(itertools.product(*([name for name in table if name not in SPATIAL_PIECES] for table in tables)))
    stride = len(every) // MIXTURES
    while math.gcd(stride, len(every)) > 1:
        stride += 1
    for choice in every[::stride]:
        mean, center, variance, stable, quotient, put = choice
        name = "+".join(piece for piece in choice if piece not in ("ReduceMean", "sub"))
        parts = Parts(mean, center, variance, stable, quotient, put)
        yield _of(kind, "mixture", name, parts, copies=1)


def _casts(kind: str) -> Iterator[Spelling]:
    """Statistics in a wider type."""
    for casts in ("around", "gain-within", "statistics"):
        for quotient in ("div", "reciprocal", "pow-minus-half"):
            parts = Parts(quotient=quotient, casts=casts, affine="gain-bias" if kind == "LayerNorm" else "gain-only")
            yield replace(_of(kind, "casts", f"cast-{casts}+{quotient}", parts), dtypes=NARROW)
        yield replace(_of(kind, "casts", f"cast-{casts}-to-double", Parts(casts=casts)), dtypes=("float",), copies=1)


def _constants(kind: str) -> Iterator[Spelling]:
    """How constants are held."""
    for form in ("Constant", "Identity", "ConstantOfShape"):
        for pieces in (Parts(), Parts(mean="sum-times-1/n", variance="squares-sum-over-n")):

            def recipe(s: Sketch, form: str = form, parts: Parts = pieces) -> Truths:
                s.form = form
                found = composed(kind, parts)(s)
                assert isinstance(found, tuple)
                return found

            since = 9 if form == "ConstantOfShape" else 7
            yield Spelling(kind, "constants", f"{form}+{pieces.variance}", recipe, since=since)


AXES: dict[str, tuple[str, Sequence[int], str]] = {
    "last-of-two": ("T,12", (-1,), "gain-bias"),
    "last-of-four": ("B,H,T,12", (-1,), "gain-bias"),
    "only-axis": ("12", (0,), "gain-bias"),
    "last-two": ("B,6,8", (-2, -1), "gain-bias"),
    "last-three": ("B,4,6,8", (-3, -2, -1), "gain-bias"),
    "channels-first": (CHANNELS_FIRST, (1,), "gain-d-1-1"),
    "channels-first-1-d-1-1": (CHANNELS_FIRST, (1,), "gain-1-d-1-1"),
    "channels-first-of-three": ("B,12,T", (1,), "gain-d-1-1"),
    "channels-first-no-affine": (CHANNELS_FIRST, (1,), "no-affine"),
    "middle-of-three": ("B,12,T", (1,), "no-affine"),
    "dynamic": ("B,T,N", (-1,), "no-affine"),
    "all-static": ("3,4,12", (0, 1, 2), "no-affine"),
    "as-many-rows-as-columns": ("12,12", (-1,), "gain-bias"),
    "first-of-two": ("12,T", (0,), "no-affine"),
}


def _axes(kind: str) -> Iterator[Spelling]:
    for name, (shape, axes, put) in AXES.items():
        for negative in (True, False):
            parts, sign = Parts(affine=put), "negative" if negative else "positive"
            yield _of(kind, "axes", f"{name}/{sign}", parts, copies=1, shape=shape, axes=axes, negative=negative)
    yield Spelling(kind, "axes", "no-axes-are-all", _no_axes(kind), copies=2)
    for name, permutation in (("channels-first-by-transposes", [0, 2, 3, 1]), ("heads-by-transposes", [0, 3, 2, 1])):
        yield Spelling(kind, "layout", name, _between_transposes(kind, permutation), copies=3)


def _no_axes(kind: str) -> Recipe:
    """Without axes (and with noop_with_empty_axes = 0) all are reduced."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", "4,6")
        d = s("Sub", x, s("ReduceMean", x)) if kind == "LayerNorm" else x
        variance = s("ReduceMean", s("Pow", d, s.number(2)), keepdims=0)
        y = s("Div", d, s("Sqrt", s("Add", variance, s.number(1e-5))))
        return finish(s, y, "4,6", Truth(kind, (0, 1), float(s.rounded(1e-5))))

    return recipe


def _between_transposes(kind: str, permutation: list[int]) -> Recipe:
    """Axis 1 is brought to the end, and back: one norm over axis 1."""

    def recipe(s: Sketch) -> Truths:
        shape = CHANNELS_FIRST.split(",")
        x = s.input("x", CHANNELS_FIRST)
        site = Site(s, ",".join(shape[axis] for axis in permutation))
        u, held = core(site, s("Transpose", x, perm=permutation), Parts(), centered=kind == "LayerNorm", epsilon=1e-5)
        put = AFFINES["gain-bias"](site, u)
        y = s("Transpose", put.output, perm=[permutation.index(axis) for axis in range(4)])
        gain, bias = (np.asarray(part).reshape(12, 1, 1) for part in (put.gain, put.bias))
        return finish(s, y, CHANNELS_FIRST, Truth(kind, (1,), held, gain=gain, bias=bias))

    if permutation[-1] == 1:
        return recipe
    return lambda s: _of_last(s, kind, permutation)


def _of_last(s: Sketch, kind: str, permutation: list[int]) -> Truths:
    """Axes 1 and 3 change places before a norm over axis 1 and after it: one norm over the last axis."""
    shape = "B,T,H,12"
    x = s.input("x", shape)
    site = Site(s, "B,12,H,T", (1,))
    u, held = core(site, s("Transpose", x, perm=permutation), Parts(), centered=kind == "LayerNorm", epsilon=1e-5)
    y = s("Transpose", u, perm=permutation)
    return finish(s, y, shape, Truth(kind, (3,), held))
