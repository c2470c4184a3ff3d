"""The --to table: what each target moves, in which order.

rmsnorm: the scales of residual branches up, the biases of LayerNorms down, then Center up. Affine first, so that
Center is priced knowing whether a bias stays behind. A trial run without proofs finds out which norms can be converted;
only what serves those is then done, and proved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from normswap import maps, prices
from normswap.ledger import Refusal
from normswap.maps import Map
from normswap.norm import Kind, Norm
from normswap.plan import Plan, plan_pull, plan_push
from normswap.scene import Goal, center_of
from normswap.session import Session, move

Sites = Collection[str] | None  # names of output values; None: all


def scale_goals(session: Session, sites: Sites = None) -> list[Goal]:
    """Residual scales, to be pulled up into the branch's last weight."""
    goals = []
    for norm in session.scales:
        rank = session.facts.rank(norm.input)
        if norm.gain is not None and rank is not None and _selected(norm, sites):
            scale = maps.affine(rank, scale=norm.gain.array)
            price = prices.elementwise(norm.input, session.facts)
            goals.append(_goal(norm, norm.input, scale, price, replace(norm, gain=None)))
    return goals


def bias_goals(session: Session, sites: Sites = None) -> list[Goal]:
    """Biases of LayerNorms, to be pushed down; as an RMSNorm each would need an Add of its own."""
    goals = []
    for norm in session.norms:
        rank = session.facts.rank(norm.output)
        if norm.kind == "LayerNorm" and norm.bias is not None and rank is not None and _selected(norm, sites):
            shift = maps.affine(rank, shift=norm.bias.array)
            price = prices.elementwise(norm.output, session.facts)
            goals.append(_goal(norm, norm.output, shift, price, replace(norm, bias=None)))
    return goals


def center_goals(session: Session, sites: Sites = None) -> list[Goal]:
    """Centers of LayerNorms, to be pulled up."""
    goals = []
    for norm in session.norms:
        center = center_of(norm, session.facts)
        if norm.kind == "LayerNorm" and center is not None and _selected(norm, sites):
            stays = norm.bias is not None
            price = prices.layer_norm_to_rms_norm(norm.input, session.facts, bias_stays=stays)
            goals.append(_goal(norm, norm.input, center, price, replace(norm, kind="RMSNorm")))
    return goals


def immovable(session: Session, sites: Sites = None) -> list[Refusal]:
    """LayerNorms whose Center is no map: over one element, or over an axis whose size is not known."""
    return [
        Refusal(norm.name, "unknown-shape", f"{norm.kind} `{norm.name}`: the size of its axis is 1 or not known")
        for norm in session.norms
        if norm.kind == "LayerNorm" and _selected(norm, sites) and center_of(norm, session.facts) is None
    ]


def _goal(norm: Norm, value: ir.Value, a_map: Map, price: int, remaining: Norm) -> Goal:
    return Goal(norm, value, a_map, price, remaining, norm.output.name or "")


def _selected(norm: Norm, sites: Sites) -> bool:
    return sites is None or norm.output.name in sites


@dataclass(frozen=True)
class Selection:
    """Which goals a run may move, by the names of their norms' outputs; None: all."""

    scales: Sites = None
    biases: Sites = None
    centers: Sites = None


def _run_rmsnorm(session: Session, selection: Selection) -> tuple[Plan, Plan]:
    scales = move(session, plan_pull, scale_goals(session, selection.scales), "scale-up")
    move(session, plan_push, bias_goals(session, selection.biases), "bias-down")
    centers = move(session, plan_pull, center_goals(session, selection.centers), "center-up", refuse=True)
    return scales, centers


def choose_rmsnorm(trial: Session, sites: Sites) -> Selection:
    """What to move, from a trial run on a session without proofs: norms that convert, and what serves those."""
    trial.refused += immovable(trial, sites)
    scales, centers = _run_rmsnorm(trial, Selection(None, sites, sites))
    converted = frozenset(goal.site for goal in centers.goals)
    needed = frozenset(goal.site for goal in scales.goals if goal.value.producer() in centers.steps)
    return Selection(needed, converted, converted)


@dataclass(frozen=True)
class Target:
    """One row of the table: which kind of norm it turns into which, what it chooses on a trial, and what it runs."""

    description: str
    kind: Kind
    result: Kind
    choose: Callable[[Session, Sites], Selection]
    run: Callable[[Session, Selection], object]


TARGETS: Mapping[str, Target] = {
    "rmsnorm": Target(
        "every LayerNorm that can become an RMSNorm without changing the function",
        "LayerNorm",
        "RMSNorm",
        choose_rmsnorm,
        _run_rmsnorm,
    ),
}
