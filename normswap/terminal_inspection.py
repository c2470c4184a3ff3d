"""What people read of an inspection: one line per distinct norm, how well its fold is conditioned, and the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal

from normswap.ledger import Refusal
from normswap.terminal import INDENT, SHOWN, entry, heading, line, refusals, table

if TYPE_CHECKING:
    from normswap.ledger import Conditioning, Inspection, NormRow

# A fold is pointed out where the largest gain is more than this many times the smallest, or where its largest weight is
# less than this far from the overflow of float16: one more layer of gains like these would be too much.
WIDE_SPREAD, HEADROOM = 1e4, 100.0


def show_inspection(out: Console, inspection: Inspection, *, verbose: bool) -> None:
    """The norms of a model, one line per distinct one; why some cannot be changed; what is no norm that we know."""
    line(out, _summary(inspection.model))
    rows = Counter(_norm_cells(norm) for norm in inspection.norms)
    if rows:
        columns = ("", "norm", "axes", "size", "epsilon", "affine", "spelled", "can become")
        table(out, columns, ((f"{count:,}", *cells) for cells, count in rows.items()), right=(0, 3, 4))
        for norm in inspection.norms if verbose else ():
            line(out, f"{norm.kind} {norm.name}", indent=INDENT)
    else:
        line(out, "no norms" if not inspection.unrecognized else "no norms that could be read")
    for target in dict.fromkeys(target for norm in inspection.norms for target in norm.can):
        answers = [(norm.name, norm.can[target]) for norm in inspection.norms if target in norm.can]
        refused = [
            Refusal(name, answer["reason_id"], answer["reason"])
            for name, answer in answers
            if answer["reason_id"] not in ("", "already")
        ]
        refusals(out, f"cannot become {target}, or not wholly", refused, verbose=verbose)
    _conditioning(out, inspection.norms, verbose=verbose)
    unrecognized = [Refusal(row.node, row.reason_id, row.reason) for row in inspection.unrecognized]
    refusals(out, "not recognized", unrecognized, verbose=verbose)


def _conditioning(out: Console, norms: Sequence[NormRow], *, verbose: bool) -> None:
    """How far the gains of all folds reach, and those folds that may lose accuracy in a narrow type."""
    folds = [
        (norm, norm.conditioning)
        for norm in norms
        if norm.conditioning is not None and "folded" in norm.can and norm.can["folded"]["exact"]
    ]
    if not folds:
        return
    heading(out, "conditioning of the folds")
    doubtful = [(norm, fold) for norm, fold in folds if verbose or _is_doubtful(fold)]
    for norm, fold in doubtful if verbose else doubtful[:SHOWN]:
        line(out, f"{norm.kind} `{norm.name}`: {_condition(fold)}", indent=INDENT)
    if not verbose and len(doubtful) > SHOWN:
        line(out, f"... and {len(doubtful) - SHOWN:,} more: --verbose lists them", indent=INDENT)
    if len(doubtful) < len(folds):
        entry(out, len(folds) - len(doubtful), "well conditioned: no dead channel, no gain or weight out of proportion")


def _is_doubtful(fold: Conditioning) -> bool:
    spread = fold.largest_gain > WIDE_SPREAD * fold.smallest_gain
    near = fold.float16_headroom is not None and fold.float16_headroom < HEADROOM
    return bool(fold.dead or fold.nearly_dead or spread or near)


def _condition(fold: Conditioning) -> str:
    parts = [f"|gain| {fold.smallest_gain:.3g} to {fold.largest_gain:.3g}"]
    parts += [
        f"{count:,} of {fold.channels:,} channels {word}"
        for count, word in ((fold.dead, "dead"), (fold.nearly_dead, "nearly dead"))
        if count
    ]
    if fold.largest_weight_after is not None and fold.float16_headroom is not None:
        before = "" if fold.largest_weight_before is None else f"{fold.largest_weight_before:.3g} before, "
        after = f"{fold.largest_weight_after:.3g} after, float16 overflows at {fold.float16_headroom:.3g} times that"
        parts.append(f"max |W| {before}{after}")
    return "; ".join(parts)


def _norm_cells(norm: NormRow) -> tuple[str, ...]:
    kind = f"{norm.kind} ({norm.variant})" if norm.variant else norm.kind
    axes = ", ".join(map(str, norm.axes))
    size = "?" if norm.size is None else f"{norm.size:,}"
    affine = ", ".join(
        part if origin == "constant" else f"{origin} {part}"
        for part, origin in (("gain", norm.scale), ("bias", norm.bias))
        if origin != "none"
    )
    exact = ", ".join(
        f"{target} in part" if answer["reason_id"] else target for target, answer in norm.can.items() if answer["exact"]
    )
    others = (f"not {target}: {answer['reason_id']}" for target, answer in norm.can.items() if not answer["exact"])
    can = "; ".join(part for part in (exact, *others) if part)
    return kind, axes, size, f"{norm.epsilon:.3g}", affine, norm.spelling, can


def _summary(model: Mapping[str, object]) -> str:
    size = model.get("bytes")
    facts = (f"{name} {value}" for name, value in model.items() if name not in ("path", "bytes") and value is not None)
    weights = (f"{decimal(size)} of weights",) if isinstance(size, int) else ()
    return f"{model.get('path') or 'model'}: " + ", ".join((*facts, *weights))
