"""The pieces that end a norm, each in every spelling: what keeps a variance from zero, a quotient, an affine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy.typing as npt

from benchmarks.coverage.pieces import Site

# --- ε --------------------------------------------------------------------------------------------------------------

STABLE: Mapping[str, Callable[[Site, str, float], str]] = {
    "eps-right": lambda site, v, eps: site.sketch("Add", v, site.sketch.number(eps)),
    "eps-left": lambda site, v, eps: site.sketch("Add", site.sketch.number(eps), v),
    "eps-absent": lambda site, v, eps: v,
    "eps-row": lambda site, v, eps: site.sketch("Add", v, site.sketch.array([eps]).name),
    "eps-sum": lambda site, v, eps: site.sketch("Sum", v, site.sketch.number(eps)),
    "eps-minus-negative": lambda site, v, eps: site.sketch("Sub", v, site.sketch.number(-eps)),
}


# --- quotient: d over the root of e ---------------------------------------------------------------------------------


def _one_over(site: Site, d: str, e: str) -> str:
    s = site.sketch
    return s("Mul", d, s("Div", s.number(1), s("Sqrt", e)))


def _root_of_inverse(site: Site, d: str, e: str) -> str:
    s = site.sketch
    return s("Mul", s("Sqrt", s("Reciprocal", e)), d)


def _logarithm(site: Site, d: str, e: str) -> str:
    s = site.sketch
    return s("Mul", d, s("Exp", s("Mul", s("Log", e), s.number(-0.5))))


QUOTIENTS: Mapping[str, Callable[[Site, str, str], str]] = {
    "div": lambda site, d, e: site.sketch("Div", d, site.sketch("Sqrt", e)),
    "reciprocal": lambda site, d, e: site.sketch("Mul", d, site.sketch("Reciprocal", site.sketch("Sqrt", e))),
    "reciprocal-left": lambda site, d, e: site.sketch("Mul", site.sketch("Reciprocal", site.sketch("Sqrt", e)), d),
    "pow-minus-half": lambda site, d, e: site.sketch("Mul", d, site.sketch("Pow", e, site.sketch.number(-0.5))),
    "pow-half": lambda site, d, e: site.sketch("Div", d, site.sketch("Pow", e, site.sketch.number(0.5))),
    "one-over": _one_over,
    "root-of-inverse": _root_of_inverse,
    "logarithm": _logarithm,
}


# --- affine ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Affine:
    """What follows a norm: gain and bias, if any, and the value they lead to."""

    output: str
    gain: npt.ArrayLike | None = None
    bias: npt.ArrayLike | None = None


def affine(
    *, gain: str = "right", bias: str = "right", shape: Callable[[Site], Sequence[int]] | None = None
) -> Callable[[Site, str], Affine]:
    """gain and bias, each right, left or none; a gain also by division. `shape` is that of both."""

    def put(site: Site, u: str) -> Affine:
        s, shaped = site.sketch, (shape or (lambda site: [int(site.dims[axis]) for axis in site.positive]))(site)
        scale, shift, value = None, None, u
        if gain != "none":
            parameter = s.drawn("gain", shaped)
            scale = 1 / parameter.values if gain == "division" else parameter.values
            operator = "Div" if gain == "division" else "Mul"
            value = s(operator, *((parameter.name, value) if gain == "left" else (value, parameter.name)))
        if bias != "none":
            parameter = s.drawn("bias", shaped, mean=0.3)
            shift = parameter.values
            value = s("Add", *((parameter.name, value) if bias == "left" else (value, parameter.name)))
        return Affine(value, scale, shift)

    return put


AFFINES: Mapping[str, Callable[[Site, str], Affine]] = {
    "gain-bias": affine(),
    "bias-gain-left": affine(gain="left", bias="left"),
    "no-affine": lambda site, u: Affine(u),
    "gain-only": affine(bias="none"),
    "bias-only": affine(gain="none"),
    "gain-by-division": affine(gain="division"),
    "gain-1-1-d": affine(shape=lambda site: [1] * (len(site.dims) - 1) + [site.size]),
    "gain-d-1-1": affine(shape=lambda site: [int(site.dims[1])] + [1] * (len(site.dims) - 2)),
    "gain-1-d-1-1": affine(shape=lambda site: [1, int(site.dims[1])] + [1] * (len(site.dims) - 2)),
    "gain-scalar": affine(shape=lambda site: []),
    "gain-of-one": affine(shape=lambda site: [1]),
}
