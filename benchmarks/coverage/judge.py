"""What a peer made of a graph: an operator that is the norm, the same graph, or another function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from benchmarks.coverage.cases import Case
from benchmarks.coverage.cell import CRASHED, LEFT, RECOGNIZED, WRONG, Cell
from benchmarks.coverage.evaluate import all_nodes, run
from benchmarks.coverage.sketch import DTYPES, Floats
from benchmarks.coverage.tools import UNSUPPORTED
from benchmarks.coverage.truth import DRAWS, EXTREMES, scaled_apart

# The operators that are a norm of each kind, those of onnxruntime included; the more general of two will do.
ROOTS = ("RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
LAYERS = ("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")
GROUPS = ("GroupNormalization", "GroupNorm", "SkipGroupNorm")
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "LayerNorm": (*LAYERS, *GROUPS),
    "RMSNorm": ROOTS,
    "InstanceNorm": ("InstanceNormalization", *GROUPS),
    "GroupNorm": GROUPS,
    "MeanVarianceNorm": ("MeanVarianceNormalization",),
    "PowerNorm": ROOTS,
    "PartialRMSNorm": (),
    "L2Norm": ("LpNormalization", *ROOTS),
    "ScaleNorm": ("LpNormalization", *ROOTS),
    "BatchNorm": ("BatchNormalization",),
}
# A constant norm is recognized where no more operators are left: a scale and a shift, or the reader of a weight.
AT_MOST: Mapping[str, int] = {
    "BatchNorm": 2,
    "Affine": 2,
    "WeightNorm": 1,
    "WeightStandardization": 1,
    "SpectralNorm": 1,
}
# Rounding to a type with p digits stays far above 1e(−p), and another function far above half the digits.
HALF_THE_DIGITS = 0.5


def judged(case: Case, result: Path, failure: str) -> Cell:
    """The cell of a case that a peer wrote to `result`, or failed at."""
    if failure:
        is_fair = UNSUPPORTED not in failure and _is_valid(case.model)
        return Cell(CRASHED if is_fair else LEFT, failure.splitlines()[0][:300])
    try:
        model = onnx.load(result)
        complaint = _difference(case, model)
    except Exception as error:  # noqa: BLE001  (onnxruntime's errors have no common class)
        return Cell(WRONG, f"does not run: {(str(error).splitlines() or [''])[0][:200]}")
    if complaint:
        return Cell(WRONG, complaint)
    if case.is_trap:
        return Cell(LEFT)
    found = Counter(node.op_type for node in all_nodes(model) if node.op_type not in ("Constant", "Identity"))
    return Cell(RECOGNIZED if _is_fused(case, found) else LEFT)


def _is_valid(model: onnx.ModelProto) -> bool:
    """Whether onnx's own checker takes it: it knows nothing of the operators that onnxruntime has in onnx's domain."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def _is_fused(case: Case, found: Counter[str]) -> bool:
    wanted = Counter(norm.kind for norm in case.norms)
    return all(
        sum(found[name] for name in OPERATORS.get(kind, ())) >= number or found.total() <= AT_MOST.get(kind, 0)
        for kind, number in wanted.items()
    )


def tolerance(dtype: str) -> float:
    """How far a result may be off, relative to the largest value."""
    kind = np.dtype(DTYPES[dtype])
    digits = {"bfloat16": 2.0**-7}.get(dtype) or float(np.finfo(kind).eps)
    return max(digits, float(np.finfo(np.float32).eps)) ** HALF_THE_DIGITS


def _difference(case: Case, changed: onnx.ModelProto) -> str:
    """How a model differs from the case, or nothing; both in float64, on offsets and scales, and constant rows."""
    draws = (*DRAWS, *EXTREMES) if case.is_trap else case.draws
    feeds = [case.feeds(draw, seed) for seed, draw in enumerate(draws)]
    before, after = run(case.model, feeds), run(changed, feeds)
    for draw, given, want, got in zip(draws, feeds, before, after, strict=True):
        if len(want) != len(got):
            return f"{len(got)} outputs instead of {len(want)}"
        error = _apart(want, got)
        if not case.is_trap:  # a tool may have read a rounded 1/N as what it was meant to be
            error = min(error, _apart(case.expected(given), got))
        if error > tolerance(case.dtype):
            return f"{draw.name}: off by {error:.1e} of the largest value"
    return ""


def _apart(want: Sequence[Floats], got: Sequence[Floats]) -> float:
    return max(scaled_apart(np.asarray(one), other) for one, other in zip(want, got, strict=True))
