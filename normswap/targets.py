"""The --to table: what each target moves, in which order.

rmsnorm: the scales of residual branches up, the biases of LayerNorms down, then Center up. Affine first, so that
Center is priced knowing whether a bias stays behind. folded: every constant Affine up or down (`fold`).
weightnorm: nothing moves, weights are written in another way. standard, primitive, ort: nothing moves, norms are
written in another way (`respell`).
A trial run without proofs finds out which norms can be converted; only what serves those is then done, and proved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from normswap.errors import UsageError
from normswap.fold import fold, refuse_rest
from normswap.goals import Sites, bias_goals, center_goals, has_affine, is_read, scale_goals, selected
from normswap.ledger import Refusal
from normswap.linear_weights import linear_weights
from normswap.norm import PARTS, Kind
from normswap.plan import Plan, plan_pull, plan_push
from normswap.reparameterize import reparameterize
from normswap.respell import choose_sites, respell
from normswap.rules import Library
from normswap.scene import center_of
from normswap.session import Session, move
from normswap.spelling import Spelling, in_operators_of, in_operators_of_onnx, in_primitives, norms_to_write


@dataclass(frozen=True)
class Selection:
    """What a trial chose: the norms that convert, and what is moved to serve them, by their sites.

    `opsets` are those above the model's that their rules need, the highest first.
    """

    sites: frozenset[str]
    scales: frozenset[str] = frozenset()
    opsets: tuple[int, ...] = ()


def _run_rmsnorm(session: Session, scales: Sites, norms: Sites) -> tuple[Plan, Plan]:
    moved = move(session, plan_pull, scale_goals(session, scales), "scale-up")
    move(session, plan_push, bias_goals(session, norms), "bias-down")
    return moved, move(session, plan_pull, center_goals(session, norms), "center-up", refuse=True)


def choose_rmsnorm(trial: Session, sites: Sites) -> Selection:
    """What to move, from a trial run on a session without proofs: norms that convert, and what serves those."""
    trial.refused += _immovable(trial, sites)
    scales, centers = _run_rmsnorm(trial, None, sites)
    needed = frozenset(goal.site for goal in scales.goals if goal.value.producer() in centers.steps)
    return Selection(frozenset(goal.site for goal in centers.goals), needed)


def _immovable(session: Session, sites: Sites = None) -> list[Refusal]:
    """LayerNorms whose Center is no map: over one element, or over an axis whose size is not known."""
    return [
        Refusal(norm.name, "unknown-shape", f"{norm.kind} `{norm.name}`: the size of its axis is 1 or not known")
        for norm in session.norms
        if norm.kind == "LayerNorm" and selected(norm, sites) and center_of(norm, session.facts) is None
    ]


def choose_folded(trial: Session, sites: Sites) -> Selection:
    """The norms whose Affine moves, merges or dies, in a trial run on a session without proofs."""
    names = {site: name for site, name in _affine_sites(trial).items() if sites is None or site in sites}
    fold(trial, sites)
    refuse_rest(trial, sites)
    moved, left = {rewrite.site for rewrite in trial.rewrites}, _affine_sites(trial)
    return Selection(frozenset(site for site, name in names.items() if name in moved or site not in left))


def _layer_norm_sites(session: Session) -> dict[str, str]:
    return {norm.output.name or "": norm.name for norm in session.norms if norm.kind == "LayerNorm"}


def _affine_sites(session: Session) -> dict[str, str]:
    """Everything with a constant gain or bias, and weights that are computed from constants."""
    found = (norm for norm in (*session.norms, *session.affines) if is_read(norm))
    norms = [norm for norm in found if has_affine(norm) or norm.kind == "BatchNorm"]
    computed = {weight.value.name or "": weight.name for weight in session.computed_weights()}
    return {**{norm.output.name or "": norm.name for norm in norms}, **computed}


def _weight_sites(session: Session) -> dict[str, str]:
    return {weight.name: weight.name for weight in linear_weights(session.model, session.facts)}


def choose_weights(trial: Session, sites: Sites) -> Selection:
    """The linear operators whose weights can be computed from g and v."""
    run_weightnorm(trial, Selection(frozenset(_weight_sites(trial) if sites is None else sites)))
    return Selection(frozenset(rewrite.site for rewrite in trial.rewrites))


def run_weightnorm(session: Session, chosen: Selection) -> None:
    """Compute the chosen weights as g · v/‖v‖."""
    result = reparameterize(session.model, session.facts, chosen.sites)
    session.rewrites += result.rewrites
    session.refused += result.refused
    session.computed = None


def _more_rms_norms(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    return after.get("RMSNorm", 0) > before.get("RMSNorm", 0)


@dataclass(frozen=True)
class Target:
    """One row of the table: the sites it is about and their names, what it chooses on a trial, and what it runs.

    `operators` are the kinds of operator that are refused by name where they could not be read; `result` the kind
    that a norm already is when nothing is to be done; `opset` the one that brought what the result is written in.
    `inspect` does not ask a target that is not `of_norms`: it makes some, or writes those there are in another way.
    """

    description: str
    sites: Callable[[Session], Mapping[str, str]]
    operators: frozenset[Kind]
    choose: Callable[[Session, Sites], Selection]
    run: Callable[[Session, Selection], object]
    achieved: Callable[[Mapping[str, int], Mapping[str, int]], bool] = lambda *_: True
    result: Kind | None = None
    opset: int = 0
    of_norms: bool = True


def _spelled(description: str, spelling: Spelling, operators: frozenset[Kind] = frozenset()) -> Target:
    """A target in which nothing moves and every norm is written by the rules of a runtime."""

    def choose(trial: Session, sites: Sites) -> Selection:
        chosen, opsets = choose_sites(trial, sites, spelling)
        return Selection(chosen, opsets=opsets)

    return Target(
        description,
        lambda session: {site: norm.name for site, norm in norms_to_write(session, spelling).items()},
        operators,
        choose,
        lambda session, chosen: respell(session, chosen.sites, spelling),
        of_norms=False,
    )


TARGETS: Mapping[str, Target] = {
    "rmsnorm": Target(
        "every LayerNorm that can become an RMSNorm without changing the function",
        _layer_norm_sites,
        frozenset({"LayerNorm"}),
        choose_rmsnorm,
        lambda session, chosen: _run_rmsnorm(session, chosen.scales, chosen.sites),
        _more_rms_norms,
        result="RMSNorm",
        opset=23,
    ),
    "folded": Target(
        "every constant normalization, gain and bias that a weight can absorb moved into it",
        _affine_sites,
        frozenset({"BatchNorm"}),
        choose_folded,
        lambda session, chosen: fold(session, chosen.sites),
    ),
    "weightnorm": Target(
        "the weights of linear operators computed as g · v/‖v‖, for training and for other frameworks",
        _weight_sites,
        frozenset(),
        choose_weights,
        run_weightnorm,
        of_norms=False,
    ),
    "standard": _spelled(
        "every norm as one of onnx's own norm operators",
        Spelling(("onnx",), in_operators_of_onnx),
    ),
    "primitive": _spelled(
        "every norm operator in operators of opset 9 that any runtime has",
        Spelling(("primitive",), in_primitives),
        frozenset(kind for kind, parts in PARTS.items() if parts.root_mean_square),
    ),
    "ort": _spelled(
        "every norm in operators of onnxruntime, with the Add before it",
        # its CPU has no kernel for a GroupNorm, but takes the operator apart again
        Spelling(("ort", "onnx"), in_operators_of("ort", "onnx", left={"GroupNorm"})),
    ),
}


def targets(library: Library) -> Mapping[str, Target]:
    """The table, with a row for each further runtime that there are rules for. Raises `UsageError`."""
    ours = {"onnx", "primitive", "ort"}
    further = [runtime for runtime in library.runtimes if runtime not in ours]
    taken = next((runtime for runtime in further if runtime in TARGETS), "")
    if taken:
        raise UsageError(f"rules for a runtime `{taken}`: that is a target of another kind; rename spell/{taken}")
    rows = {
        name: _spelled(f"norms as spell/{name} writes them", Spelling((name,), in_operators_of(name)))
        for name in further
    }
    return {**TARGETS, **rows}
