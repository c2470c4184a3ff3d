"""A spelling: how one norm is written, for which opsets and element types; and the common way to put one together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.coverage.endings import AFFINES, QUOTIENTS, STABLE
from benchmarks.coverage.pieces import CENTERS, MEANS, VARIANCES, Site
from benchmarks.coverage.sketch import Sketch
from benchmarks.coverage.truth import Trap, Truth

Truths = tuple[Truth, ...]
Recipe = Callable[[Sketch], "Truths | Trap"]

ALL_DTYPES = ("float", "float16", "bfloat16", "double")
NARROW = ("float16", "bfloat16")
WIDE = ("float", "double")
NEWEST = 28
# The opsets since which an operator that a piece is made of exists, or does what the piece needs.
SINCE = {
    "mean-expanded": 8,
    "squares-mean-expanded": 8,
    "eps-sum": 8,
}


@dataclass(frozen=True)
class Spelling:
    """One way to write a kind of norm; `name` is read below `kind`, `group` says what is varied."""

    kind: str
    group: str
    name: str
    recipe: Recipe
    since: int = 7
    until: int = NEWEST
    dtypes: Sequence[str] = ALL_DTYPES
    copies: int = 2
    bfloat16_since: int = 15  # most operators take it since 13, Pow since 15


@dataclass(frozen=True)
class Parts:
    """Which spelling of every piece; that of most exporters, if nothing is said.

    `casts` says where a wider type begins and ends.
    """

    mean: str = "ReduceMean"
    center: str = "sub"
    variance: str = "pow"
    stable: str = "eps-right"
    quotient: str = "div"
    affine: str = "gain-bias"
    casts: str = ""

    @property
    def since(self) -> int:
        """The first opset that has all the operators."""
        return max(SINCE.get(name, 7) for name in (self.mean, self.center, self.variance, self.stable, self.quotient))


def finish(s: Sketch, y: str, shape: str, *truths: Truth) -> Truths:
    """End a graph that is one norm of x."""
    s.output(y, shape)
    s.formula = s.formula or (lambda feeds: [truths[0](feeds["x"])])
    return truths


def core(site: Site, x: str, parts: Parts, *, centered: bool, epsilon: float) -> tuple[str, float]:
    """The norm of x without gain and bias, and its ε as the graph holds it."""
    s = site.sketch
    if parts.casts in ("around", "gain-within"):
        x = s.cast(x, s.wide)
    d = CENTERS[parts.center](site, x, MEANS[parts.mean](site, x)) if centered else x
    narrow = s.work
    seen = (s.cast(x, s.wide), s.cast(d, s.wide)) if parts.casts == "statistics" else (x, d)
    variance = VARIANCES[parts.variance](site, *seen)
    held = 0.0 if parts.stable == "eps-absent" else float(s.rounded(epsilon))
    e = STABLE[parts.stable](site, variance, epsilon)
    if parts.casts == "statistics":
        e = s.cast(e, narrow)
    u = QUOTIENTS[parts.quotient](site, d, e)
    return (s.cast(u, s.dtype) if parts.casts == "around" else u), held


def composed(
    kind: str,
    parts: Parts,
    *,
    shape: str = "B,T,12",
    axes: Sequence[int] = (-1,),
    epsilon: float = 1e-5,
    negative: bool = True,
) -> Recipe:
    """The recipe of a norm over whole axes, from its pieces."""

    def recipe(s: Sketch) -> Truths:
        s.negative = negative
        site = Site(s, shape, tuple(axes))
        u, held = core(site, s.input("x", shape), parts, centered=kind != "RMSNorm", epsilon=epsilon)
        put = AFFINES[parts.affine](site, u)
        y = s.cast(put.output, s.dtype) if parts.casts == "gain-within" else put.output
        return finish(s, y, shape, Truth(kind, site.positive, held, gain=put.gain, bias=put.bias))

    return recipe
