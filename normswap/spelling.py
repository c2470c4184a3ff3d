"""Regroup: decide for an opset, then write the norms that a plan left as `normswap.*` nodes in a runtime's operators.

RMSNormalization exists from opset 23 on. The opset is raised to it where that loses nothing; otherwise it stays, and an
RMSNorm is spelled as the chain that onnxruntime fuses.
"""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from normswap.bundles import rebundle
from normswap.errors import UsageError
from normswap.ledger import Proof, Rewrite
from normswap.opset import raise_opset
from normswap.session import Session
from normswap.spell import spell

RMS_NORMALIZATION = 23  # the opset that brought the operator


def prepare(model: ir.Model, opset: int | Literal["auto"]) -> tuple[ir.Model, str]:
    """The model in the opset to write it in, and the runtime whose rules to write it by.

    Raises `UsageError` if a pinned opset cannot be reached without a loss.
    """
    present = model.opset_imports.get("", 1)
    if opset == "auto":
        raised = model if present >= RMS_NORMALIZATION else raise_opset(model.clone(), RMS_NORMALIZATION)
        return (raised, "onnx") if isinstance(raised, ir.Model) else (model, "onnx")
    if opset == present:
        return model, "onnx"
    if opset < present:
        raise UsageError(f"the model is at opset {present}; it cannot be lowered to {opset}")
    raised = raise_opset(model.clone(), opset)
    if isinstance(raised, ir.Model):
        return raised, "onnx"
    raise UsageError(f"the opset cannot be raised from {present} to {opset}: {raised}")


def write(session: Session, runtime: str) -> list[Rewrite]:
    """Put back the bundles no plan touched, and spell every `normswap.*` node; one ledger entry each."""
    rebundle(session.bundles)
    spelled = spell(session.model, session.facts, runtime)
    return [Rewrite(item.site, f"spell/{item.rule}", True, Proof(1, item.max_relative_error)) for item in spelled]
