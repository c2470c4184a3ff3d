"""What `inspect` tells of a model, without its trials of every target: rows of norms, and of reductions that are none."""

from __future__ import annotations

from dataclasses import dataclass

from normswap.ledger import NormRow
from normswap.model import Source, open_model
from normswap.norm import Unrecognized
from normswap.norm_rows import norm_row, weight_row
from normswap.session import Session


@dataclass(frozen=True)
class Inspected:
    norms: tuple[NormRow, ...]
    unrecognized: tuple[Unrecognized, ...]


def inspected(model: Source) -> Inspected:
    session = Session.of(open_model(model).model, proving=False)
    norms = [
        norm_row(norm, {}, None, session.facts, {}) for norm in (*session.norms, *session.named, *session.own_affines())
    ]
    weights = [weight_row(weight, {}, session.facts) for weight in session.computed_weights() if weight.kind]
    return Inspected((*norms, *weights), session.unrecognized)
