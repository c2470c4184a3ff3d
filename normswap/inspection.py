"""What `inspect` reports: every norm, what each target makes of it in a trial without proofs, and its conditioning.

Weights that are norms of constants are among them; what looks like a norm and is none is listed apart.
"""

from __future__ import annotations

import os

from normswap import conditioning
from normswap.bodies import norms_once, reductions_once
from normswap.inventory import count_bytes, count_nodes
from normswap.ledger import Can, Inspection
from normswap.model import Document
from normswap.norm import Norm, Obstacle
from normswap.norm_rows import norm_row, weight_row
from normswap.reasons import REASONS
from normswap.session import Session
from normswap.targets import TARGETS

Answers = dict[str, dict[str, Can]]  # by site, then by target


def inspection(document: Document) -> Inspection:
    """The norms of a model that was opened."""
    session = Session.of(document.model, proving=False)
    norms = [*session.norms, *session.own_affines()]
    weights = [weight for weight in session.computed_weights() if weight.kind is not None]
    sites = (*map(_site, norms), *map(_site, session.named), *(weight.value.name or "" for weight in weights))
    can: Answers = {site: {} for site in sites}
    trials = {name: _tried(name, document, norms, can) for name, target in TARGETS.items() if target.of_norms}
    for norm in session.named:
        for name in trials:
            can[_site(norm)].setdefault(name, _fixed(norm, name))
    folded = trials["folded"]
    conditions = {norm: conditioning.of(norm, folded.weights(_site(norm)), folded.facts) for norm in norms}
    bundled = {piece: bundle.operator for bundle in session.bundles for piece in bundle.pieces}
    return Inspection(
        model=_summary(document),
        norms=(
            *norms_once(
                (norm, norm_row(norm, can[_site(norm)], conditions.get(norm), session.facts, bundled))
                for norm in (*norms, *session.named)
            ),
            *(weight_row(weight, can[weight.value.name or ""], session.facts) for weight in weights),
        ),
        unrecognized=reductions_once(session.unrecognized),
    )


def _site(norm: Norm) -> str:
    return norm.output.name or ""


def _fixed(norm: Norm, name: str) -> Can:
    """What a target of this name makes of a norm that is recognized, and no part of which can move."""
    if norm.kind == TARGETS[name].result:
        return _already(norm)
    reason = f"{norm.kind} `{norm.name}`: {REASONS['kind-not-moved'].meaning}"
    why = norm.obstacle or Obstacle("kind-not-moved", reason)
    return Can(exact=False, reason_id=why.reason_id, reason=why.reason)


def _already(norm: Norm) -> Can:
    return Can(exact=False, reason_id="already", reason=f"{norm.kind} `{norm.name}` is one")


def _tried(name: str, document: Document, norms: list[Norm], can: Answers) -> Session:
    """A trial of one target, without proofs, and what it says of each site entered in `can`."""
    target, trial = TARGETS[name], Session.of(document.model, proving=False)
    names = target.sites(trial)
    for norm in (norm for norm in norms if norm.kind == target.result):
        can[_site(norm)][name] = _already(norm)
    chosen = target.choose(trial, frozenset(names))
    refused = {refusal.site: refusal for refusal in trial.refused}
    for site, word in names.items():
        if site in can and word in refused:
            reason_id, reason = refused[word].reason_id, refused[word].reason
            can[site][name] = Can(exact=False, reason_id=reason_id, reason=reason)
    for site in chosen.sites & can.keys():  # what is refused of one that moves is a part of it
        part = can[site].get(name, Can(exact=True, reason_id="", reason=""))
        can[site][name] = Can(exact=True, reason_id=part["reason_id"], reason=part["reason"])
    return trial


def _summary(document: Document) -> dict[str, object]:
    model = document.model
    return {
        "path": None if document.path is None else os.fspath(document.path),
        "opset": model.opset_imports.get(""),
        "ir_version": model.ir_version,
        "nodes": count_nodes(model),
        "bytes": count_bytes(model),
    }
