"""normswap's own column: what `inspect` says of a graph, held against what the graph is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import normswap
from benchmarks.coverage.cases import Case
from benchmarks.coverage.cell import CRASHED, LEFT, RECOGNIZED, WRONG, Cell
from benchmarks.coverage.truth import CENTERED, STATISTICAL, Trap, Truth
from normswap.ledger import Inspection, NormRow

# ε as float32 holds it, and as a solution of equations in float64 finds it.
ROUNDING = 1e-6
# Their kinds may be named anywhere: a constant Affine is one whatever else there is.
CONSTANT = {"Affine", "BatchNorm"}


def judged(case: Case) -> Cell:
    """What normswap makes of a case."""
    try:
        found = normswap.inspect(case.model)
    except Exception as error:  # noqa: BLE001  (whatever it raises is its result)
        return Cell(CRASHED, f"{type(error).__name__}: {error}")
    truth = case.truth
    return _trapped(truth, found) if isinstance(truth, Trap) else _recognized(truth, found.norms, found)


def _recognized(truths: Sequence[Truth], rows: Iterable[NormRow], found: Inspection) -> Cell:
    """Whether the rows are the norms of the graph, each one once, and nothing else."""
    constant = any(truth.kind in CONSTANT or "Affine" in truth.also for truth in truths)
    rows = [row for row in rows if constant or row.kind not in CONSTANT]
    left, over = list(truths), []
    for row in rows:
        match = next((truth for truth in left if not complaint(truth, row)), None)
        if match is None:
            over.append(row)
        else:
            left.remove(match)
    if not left and not over:
        return Cell(RECOGNIZED)
    expected = "; ".join(map(_said, left)) or "nothing more"
    got = (
        "; ".join(map(_row, over)) or "; ".join(f"{row.op}: {row.reason_id}" for row in found.unrecognized) or "nothing"
    )
    false = any(row.kind in STATISTICAL and not _is_view(row, truths) for row in over)
    return Cell(WRONG if false else LEFT, f"expected {expected}; got {got}")


def _is_view(row: NormRow, truths: Sequence[Truth]) -> bool:
    """Whether a row is right in all but the name, or in what it says of gain and bias."""
    return any(
        _same_statistics(truth, row, partly=True) and (row.kind in CENTERED) == (truth.kind in CENTERED)
        for truth in truths
    )


def _same_statistics(truth: Truth, row: NormRow, *, partly: bool = False) -> bool:
    views = ((truth.axes, truth.groups), *truth.views, *(truth.within if partly else ()))
    return (row.axes, row.groups) in views and math.isclose(row.epsilon, truth.epsilon, rel_tol=ROUNDING)


def complaint(truth: Truth, row: NormRow) -> str:
    """What is wrong with a row, or nothing."""
    if row.kind not in (truth.kind, *truth.also):
        return f"{row.kind} instead of {truth.kind}"
    if truth.kind in CONSTANT or truth.function is not None:
        return "" if _has_axes(truth, row) else f"axes {row.axes}"
    if not _same_statistics(truth, row):
        return f"axes {row.axes}, {row.groups} groups, epsilon {row.epsilon:g}"
    origins = {"gain": row.scale, "bias": row.bias}
    for part in ("gain", "bias"):
        if not truth.any_gain and (part in truth.runtime) != (origins[part] == "runtime"):
            return f"{part} {origins[part]}"
    return ""


def _has_axes(truth: Truth, row: NormRow) -> bool:
    """Constant norms have the axis of their channels."""
    return row.axes in (truth.axes, *(axes for axes, _ in truth.views)) or row.kind == "Affine"


def _trapped(trap: Trap, found: Inspection) -> Cell:
    """Nothing may be named but the norms that are there all the same, and the reason must be right."""
    rows = [row for row in found.norms if row.kind in STATISTICAL]
    left = [row for row in rows if all(complaint(truth, row) for truth in (*trap.norms, *trap.allowed))]
    if left:
        return Cell(WRONG, f"named {'; '.join(map(_row, left))}")
    if len(rows) < len(trap.norms):
        return Cell(LEFT, f"the norm in it is not named: {'; '.join(map(_said, trap.norms))}")
    reasons = {row.reason_id for row in found.unrecognized}
    if not rows and trap.reasons and not reasons & trap.reasons:
        return Cell(
            LEFT, f"expected {' or '.join(sorted(trap.reasons))}; got {', '.join(sorted(reasons)) or 'no reason'}"
        )
    return Cell(LEFT)


def _said(truth: Truth) -> str:
    runtime = "".join(f", {part} at run time" for part in sorted(truth.runtime))
    return f"{truth.kind} axes={truth.axes} epsilon={truth.epsilon:.9g} groups={truth.groups}{runtime}"


def _row(row: NormRow) -> str:
    return (
        f"{row.kind} axes={row.axes} epsilon={row.epsilon:.9g} groups={row.groups} scale={row.scale} bias={row.bias}"
        + (f" ({row.variant})" if row.variant else "")
    )
