"""Apply one target to a model: try, choose, then do and prove only what was chosen.

The trial runs on a copy, without proofs, and finds out which norms convert. The second run does only that, on another
copy whose opset may have been raised, with every step proved; where onnxruntime does not load its result, it is run
once more in the opset the model had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from normswap import regroup
from normswap.emit import NotFinite
from normswap.errors import UsageError
from normswap.inventory import inventory
from normswap.ledger import Inventory, Proof, Refusal, Rewrite
from normswap.operator_views import operator_kind
from normswap.reference import Floats
from normswap.rules import Library, library
from normswap.session import Session
from normswap.targets import TARGETS, Selection, Target
from normswap.views import label


@dataclass(frozen=True)
class Options:
    """What the user asked for: all targets, the opset, shell patterns of names, outputs that may change."""

    targets: Sequence[str]
    opset: int | Literal["auto"]
    only: Sequence[str]
    exclude: Sequence[str]
    changeable: frozenset[str]
    allow_larger: bool
    progress: Callable[[str], None]
    library: Library = field(default_factory=library)
    table: Mapping[str, Target] = field(default_factory=lambda: TARGETS)


@dataclass(frozen=True, eq=False)
class Applied:
    """A model after a target, and what was done; `unrounded` computes its new weights in float64, by name."""

    model: ir.Model
    before: Inventory
    after: Inventory
    rewrites: tuple[Rewrite, ...] = ()
    refused: tuple[Refusal, ...] = ()
    candidates: int = 0
    unrounded: Mapping[str, Callable[[], Floats]] = field(default_factory=dict)
    fractions: Mapping[str, Callable[[], Floats]] = field(default_factory=dict)  # see `Norm.fractions`
    names: frozenset[str] = frozenset()  # that patterns could select, before this target or an earlier one

    @staticmethod
    def nothing(model: ir.Model) -> Applied:
        """The model before any target."""
        empty = inventory(model, ())
        return Applied(model, empty, empty)


def apply_targets(model: ir.Model, options: Options) -> list[Applied]:
    """What each target made, one after the other. Raises `UsageError` as `apply_target` does."""
    steps = [Applied.nothing(model)]
    for name in options.targets:
        steps.append(apply_target(name, steps[-1], options))
    return steps[1:]


def apply_target(name: str, applied: Applied, options: Options) -> Applied:
    """The model of `applied` after the target `name`; it stays itself where nothing could be done.

    Raises `UsageError` if a pinned opset cannot be reached without a loss.
    """
    target = options.table[name]
    options.progress(f"{name}: looking for norms")
    model = applied.model
    trial = _session(applied, model, options, proving=False)
    before, names = trial.inventory(), target.sites(trial)
    known = applied.names | {norm.name for norm in (*trial.norms, *trial.affines)}
    known |= {called for target_name in options.targets for called in options.table[target_name].sites(trial).values()}
    sites, unread = _selected(names, known, options), _unread(trial, target)
    trial.untouched = untouched = frozenset(names.keys() - sites)
    unchanged = Applied(
        model,
        before,
        before,
        candidates=len(sites) + len(unread),
        unrounded=applied.unrounded,
        fractions={**applied.fractions, **_fractions(trial)},
        names=known,
    )
    try:
        selection = target.choose(trial, sites)
    except NotFinite as error:
        return replace(unchanged, refused=(*unread, *_not_finite(names, sites, error)))
    refused = (*trial.refused, *unread)
    if not selection.sites:
        return replace(unchanged, refused=refused)
    options.progress(f"{name}: rewriting and proving {len(selection.sites)} norms")
    try:
        session, spelled = _run(target, applied, selection, untouched, options)
    except NotFinite as error:
        return replace(unchanged, refused=(*refused, *_not_finite(names, selection.sites, error)))
    refused = (*refused, *session.refused)
    after = session.inventory()
    if not session.rewrites or not target.achieved(before.norms, after.norms):
        return replace(unchanged, refused=refused)  # what only served norms that failed is not kept without them
    return replace(
        unchanged,
        model=session.model,
        after=after,
        rewrites=(*session.rewrites, *spelled, *(_inline_entry(name) for name in session.inlined)),
        refused=refused,
        unrounded=session.unrounded(),
    )


def _fractions(session: Session) -> dict[str, Callable[[], Floats]]:
    norms = [norm.outer or norm for norm in (*session.norms, *session.named)]
    return {name: partial(np.asarray, array) for norm in norms for name, array in norm.fractions.items()}


def _unread(trial: Session, target: Target) -> list[Refusal]:
    """Norm operators of the target's kind that could not be read, or cannot move: not passed over in silence."""
    unread = [
        Refusal(label(item.node), item.reason_id, item.reason)
        for item in trial.unrecognized
        if operator_kind(item.node) in target.operators
    ]
    named = trial.named if target.of_norms else ()  # to move none of its parts is not to write none of it
    fixed = ((norm, norm.obstacle) for norm in named if norm.kind in target.operators)
    return unread + [Refusal(norm.name, why.reason_id, why.reason) for norm, why in fixed if why is not None]


def _not_finite(names: Mapping[str, str], sites: Iterable[str], error: NotFinite) -> tuple[Refusal, ...]:
    return tuple(Refusal(names[site], "not-finite", str(error)) for site in sorted(sites))


def _inline_entry(name: str) -> Rewrite:
    return Rewrite(name, "inline", True, Proof(0, 0.0))


def _session(applied: Applied, model: ir.Model, options: Options, *, proving: bool) -> Session:
    return Session.of(
        model,
        options.changeable,
        allow_larger=options.allow_larger,
        unrounded=applied.unrounded,
        proving=proving,
        rules=options.library,
    )


def _run(
    target: Target, applied: Applied, selection: Selection, untouched: frozenset[str], options: Options
) -> tuple[Session, list[Rewrite]]:
    results: list[tuple[Session, list[Rewrite]]] = []
    for base in regroup.bases(applied.model, options.opset, (target.opset, *selection.opsets)):
        session = _session(applied, base, options, proving=True)
        session.untouched = untouched
        target.run(session, selection)
        results.append((session, regroup.write(session)))
        if session.rewrites and regroup.is_accepted(session.model):
            return results[-1]
    return next((result for result in reversed(results) if result[0].rewrites), results[0])


def _selected(names: Mapping[str, str], known: frozenset[str], options: Options) -> frozenset[str]:
    """Those of the target's sites whose names the patterns select.

    Raises `UsageError` for a pattern that matches nothing `known`: most likely a slip of the pen.
    """
    for pattern in (*options.only, *options.exclude):
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UsageError(
                f"nothing to convert is called `{pattern}`; `normswap inspect -v` lists the names of norms"
            )

    def wanted(name: str) -> bool:
        included = not options.only or any(fnmatchcase(name, pattern) for pattern in options.only)
        return included and not any(fnmatchcase(name, pattern) for pattern in options.exclude)

    return frozenset(site for site, name in names.items() if wanted(name))
