"""Goals: the parts of norms that want to move, each with the map, the value it leaves or reaches, and what that saves.

An Affine moves whole, or by parts: y = s·x + t = s·(x + t/s). Upwards the scale goes first and leaves t, or the shift
goes as t/s; downwards the shift goes first and leaves s, or the scale goes and leaves t/s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from normswap import maps, prices
from normswap.batch_norm import is_one
from normswap.facts import Facts
from normswap.maps import Map
from normswap.norm import Norm, Parameter
from normswap.reference import Floats
from normswap.scene import Direction, Goal, center_of
from normswap.session import Session

Sites = Collection[str] | None  # names of output values; None: all
Part = Literal["whole", "scale", "shift"]


def selected(norm: Norm, sites: Sites) -> bool:
    """Whether the norm is among `sites`."""
    return sites is None or norm.output.name in sites


def is_read(norm: Norm) -> bool:
    """Whether somebody reads what the norm makes. One that is dead stays, or it would take others along with it."""
    return bool(norm.output.uses()) or norm.output.is_graph_output()


def has_affine(norm: Norm) -> bool:
    """Whether the norm scales or shifts what is read; a gain of ones, which its operator may need, does neither."""
    scales = norm.gain is not None and bool((norm.gain.array != 1).any())
    return is_read(norm) and (scales or (norm.bias is not None and bool(norm.bias.array.any())))


def goal(norm: Norm, a_map: Map, price: int, remaining: Norm, direction: Direction) -> Goal:
    """The goal of moving `a_map` off the norm, of which `remaining` is left."""
    value = norm.input if direction == "pull" else norm.output
    return Goal(norm, value, a_map, price, remaining, norm.output.name or "")


def affine_goals(
    norms: Sequence[Norm], facts: Facts, direction: Direction, part: Part, sites: Sites = None
) -> list[Goal]:
    """One goal for every norm in `sites` whose Affine, or that part of it, could move in this direction."""
    found = []
    for norm in norms:
        rank = facts.rank(norm.output)
        statistics = norm.parts.center or norm.parts.root_mean_square
        if rank is None or not selected(norm, sites) or (direction == "pull" and statistics) or not is_read(norm):
            continue
        split = _split(norm, direction, part)
        if split is not None:
            scale, shift, remaining = split
            parts = (None if array is None else maps.narrowed(array) for array in (scale, shift))
            a_map = maps.affine(rank, *parts)
            if not a_map.is_identity:
                found.append(goal(norm, a_map, affine_price(norm, part, facts), remaining, direction))
    return found


def _split(norm: Norm, direction: Direction, part: Part) -> tuple[Floats | None, Floats | None, Norm] | None:
    """The scale and shift that move, and the norm that is left; None where the norm has no such part of its own."""
    gain, bias = norm.gain, norm.bias
    if part == "whole":
        if gain is None and bias is None:
            return None
        kind = "RMSNorm" if norm.kind == "ScaleNorm" else norm.kind  # of which nothing but its number made another
        bare = replace(norm, kind=kind, gain=None, bias=None)
        return None if gain is None else gain.array, None if bias is None else bias.array, bare
    if gain is None or bias is None:
        return None  # what is left is the whole
    outermost = (part == "scale") == (direction == "pull")
    if outermost:  # y = s·x + t: upwards s is nearest, downwards t is
        left = replace(norm, gain=None) if part == "scale" else replace(norm, bias=None)
        return (gain.array, None, left) if part == "scale" else (None, bias.array, left)
    if not gain.array.all():
        return None  # y = s·(x + t/s)
    inner = bias.array / gain.array
    if not np.isfinite(inner).all():
        return None
    if part == "scale":
        return gain.array, None, replace(norm, gain=None, bias=Parameter(inner))
    return None, inner, replace(norm, bias=None)


def affine_price(norm: Norm, part: Part, facts: Facts) -> int:
    """What is saved when an Affine, or a part of it, moves away."""
    operator = prices.elementwise(norm.output, facts)
    if norm.kind == "BatchNorm":  # one operator with two operands; what is left is one with one
        operand = prices.operand(norm.output, facts)
        return operator + operand if part == "whole" else operand
    if norm.kind == "Affine":
        return len(norm.nodes) * operator - (0 if part == "whole" else operator)
    moved = (norm.gain is not None and part != "shift", norm.bias is not None and part != "scale")
    if not norm.parts.center and moved[1]:  # its bias is an operator of its own
        return prices.operand(norm.output, facts) * moved[0] + operator
    return prices.operand(norm.output, facts) * sum(moved)


def combined_goals(norms: Sequence[Norm], facts: Facts) -> list[Goal]:
    """Affines that are written in more operators than they need, to be written in fewer where they are."""
    found = []
    for norm in norms:
        remaining = replace(norm, kind="BatchNorm", epsilon=0.0) if _fits_batch_norm(norm, facts) else norm
        needed = 1 if remaining.kind == "BatchNorm" else (norm.gain is not None) + (norm.bias is not None)
        nothing = norm.gain is None and norm.bias is None  # a BatchNorm that happens to change no number
        if is_read(norm) and (nothing or (norm.kind == "Affine" and len(norm.nodes) > needed)):
            found.append(goal(norm, maps.identity(facts.rank(norm.output) or 0), 1, remaining, "pull"))
    return found


def _fits_batch_norm(norm: Norm, facts: Facts) -> bool:
    """Whether an Affine of which a BatchNormalization is a part could be that operator alone."""
    dims = facts.dims(norm.output) or ()
    if not any(is_one(node) for node in norm.nodes) or norm.gain is None or norm.bias is None or len(dims) < 2:
        return False
    wide = np.broadcast_shapes(norm.gain.array.shape, norm.bias.array.shape)
    return dims[1] is not None and all(size == 1 or axis == 1 - len(dims) for axis, size in enumerate(wide, -len(wide)))


def center_goals(session: Session, sites: Sites = None) -> list[Goal]:
    """Centers of LayerNorms, to be pulled up."""
    facts, goals = session.facts, []
    for norm in session.norms:
        center = center_of(norm, facts)
        if norm.kind == "LayerNorm" and center is not None and selected(norm, sites):
            price = prices.layer_norm_to_rms_norm(norm.input, facts, bias_stays=norm.bias is not None)
            goals.append(goal(norm, center, price, replace(norm, kind="RMSNorm"), "pull"))
    return goals


def scale_goals(session: Session, sites: Sites = None) -> list[Goal]:
    """Scales at the end of residual branches, to be pulled up into the branch's last weight."""
    branches = [norm for norm in session.affines if norm.variant in ("LayerScale", "SkipInit")]
    return affine_goals(branches, session.facts, "pull", "whole", sites)


def bias_goals(session: Session, sites: Sites = None) -> list[Goal]:
    """Biases of LayerNorms, to be pushed down; as an RMSNorm each would need an Add of its own."""
    facts, goals = session.facts, []
    for norm in session.norms:
        rank = facts.rank(norm.output)
        if norm.kind == "LayerNorm" and norm.bias is not None and rank is not None and selected(norm, sites):
            shift = maps.affine(rank, shift=norm.bias.array)
            price = prices.elementwise(norm.output, facts)
            goals.append(goal(norm, shift, price, replace(norm, bias=None), "push"))
    return goals
