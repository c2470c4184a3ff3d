"""What `inspect` reports: every norm, what each target makes of it in a trial without proofs, and its conditioning.

Weights that are norms of constants are among them; what looks like a norm and is none is listed apart.
"""

from __future__ import annotations

import os

from normswap import conditioning
from normswap.computed import ComputedWeight
from normswap.inventory import count_bytes, count_nodes
from normswap.ledger import Can, Conditioning, Inspection, NormRow, UnrecognizedRow
from normswap.model import Document
from normswap.norm import Norm, Parameter, Part
from normswap.session import Session
from normswap.targets import TARGETS

Answers = dict[str, dict[str, Can]]  # by site, then by target


def inspection(document: Document) -> Inspection:
    """The norms of a model that was opened."""
    session = Session.of(document.model, proving=False)
    norms = [*session.norms, *session.affines]
    weights = [weight for weight in session.computed_weights() if weight.kind is not None]
    sites = (*map(_site, norms), *map(_site, session.named), *(weight.value.name or "" for weight in weights))
    can: Answers = {site: {} for site in sites}
    trials = {name: _tried(name, document, norms, can) for name, target in TARGETS.items() if target.of_norms}
    folded = trials["folded"]
    conditions = {norm: conditioning.of(norm, folded.weights(_site(norm)), folded.facts) for norm in norms}
    return Inspection(
        model=_summary(document),
        norms=(
            *(_row(norm, can[_site(norm)], conditions[norm]) for norm in norms),
            *(_row(norm, can[_site(norm)], None) for norm in session.named),
            *(_weight_row(weight, can[weight.value.name or ""]) for weight in weights),
        ),
        unrecognized=tuple(
            UnrecognizedRow(item.node.name or "", item.node.op_type, item.reason_id, item.reason)
            for item in session.unrecognized
        ),
    )


def _site(norm: Norm) -> str:
    return norm.output.name or ""


def _tried(name: str, document: Document, norms: list[Norm], can: Answers) -> Session:
    """A trial of one target, without proofs, and what it says of each site entered in `can`."""
    target, trial = TARGETS[name], Session.of(document.model, proving=False)
    names = target.sites(trial)
    for norm in (norm for norm in norms if norm.kind == target.result):
        reason = f"{norm.kind} `{norm.name}` is one"
        can[_site(norm)][name] = Can(exact=False, reason_id="already", reason=reason)
    chosen = target.choose(trial, frozenset(names))
    refused = {refusal.site: refusal for refusal in trial.refused}
    for site, label in names.items():
        if site in can and label in refused:
            reason_id, reason = refused[label].reason_id, refused[label].reason
            can[site][name] = Can(exact=False, reason_id=reason_id, reason=reason)
    for site in chosen.sites & can.keys():  # what is refused of one that moves is a part of it
        part = can[site].get(name, Can(exact=True, reason_id="", reason=""))
        can[site][name] = Can(exact=True, reason_id=part["reason_id"], reason=part["reason"])
    return trial


def _row(norm: Norm, can: dict[str, Can], condition: Conditioning | None) -> NormRow:
    seen = norm.outer or norm
    return NormRow(
        name=norm.name,
        kind=seen.kind,
        axes=seen.axes,
        size=seen.size,
        epsilon=norm.epsilon,
        groups=seen.groups,
        scale=_origin(norm, "gain", norm.gain),
        bias=_origin(norm, "bias", norm.bias),
        spelling=norm.spelling,
        nodes=tuple(node.name or "" for node in seen.nodes),
        graph=norm.graph,
        can=can,
        variant=norm.variant,
        conditioning=condition,
    )


def _origin(norm: Norm, part: Part, parameter: Parameter | None) -> str:
    if part in norm.runtime:
        return "runtime"
    return "none" if parameter is None else "constant"


def _weight_row(weight: ComputedWeight, can: dict[str, Can]) -> NormRow:
    return NormRow(
        name=weight.name,
        kind=weight.kind or "",
        axes=weight.axes,
        size=weight.size,
        epsilon=weight.epsilon,
        groups=1,
        scale=weight.scale,
        bias="none",
        spelling=weight.spelling,
        nodes=tuple(node.name or "" for node in weight.nodes),
        graph=weight.graph,
        can=can,
        variant=weight.variant,
    )


def _summary(document: Document) -> dict[str, object]:
    model = document.model
    return {
        "path": None if document.path is None else os.fspath(document.path),
        "opset": model.opset_imports.get(""),
        "ir_version": model.ir_version,
        "nodes": count_nodes(model),
        "bytes": count_bytes(model),
    }
