"""Regroup: decide for an opset, then write the norms that a plan left as `normswap.*` nodes in a runtime's operators.

RMSNormalization exists from opset 23 on. The opset is raised to it where that loses nothing; otherwise it stays, and an
RMSNorm is spelled as the chain that onnxruntime fuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import onnx_ir as ir

from normswap.bundles import rebundle
from normswap.errors import UsageError
from normswap.ledger import Proof, Rewrite
from normswap.loadable import runs_in_onnxruntime
from normswap.opset import raise_opset
from normswap.session import Session
from normswap.spell import spell


def bases(model: ir.Model, opset: int | Literal["auto"], wanted: Sequence[int]) -> Iterator[ir.Model]:
    """The models to rewrite, in order of preference; the first whose result `is_accepted` is it, else the last.

    `wanted` are the opsets in which the result is written best, the best first; the user's own choice comes before.

    Raises `UsageError` if a pinned opset cannot be reached without a loss.
    """
    present = model.opset_imports.get("", 1)
    if opset == "auto":
        for better in (number for number in wanted if number > present):
            raised = raise_opset(model.clone(), better)
            if isinstance(raised, ir.Model):
                yield raised
        yield model
        return
    if opset < present:
        raise UsageError(f"the model is at opset {present}; it cannot be lowered to {opset}")
    raised = raise_opset(model.clone(), opset)
    if not isinstance(raised, ir.Model):
        raise UsageError(f"the opset cannot be raised from {present} to {opset}: {raised}")
    yield raised


def is_accepted(result: ir.Model) -> bool:
    """Whether onnxruntime, where it is installed, has a kernel for every operator of the result."""
    return runs_in_onnxruntime(result)


def write(session: Session, runtime: str = "onnx") -> list[Rewrite]:
    """Put back the bundles no plan touched, and spell every `normswap.*` node; one ledger entry each."""
    rebundle(session.bundles)
    library = session.library
    spelled = spell(session.model, session.facts, runtime, library.rules, library.definitions)
    return [Rewrite(item.site, f"spell/{item.rule}", True, Proof(1, item.max_relative_error)) for item in spelled]
