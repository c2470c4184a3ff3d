"""What people read of an inspection: one line per distinct norm, the odd ones, and the reasons.

Where the table does not fit, each line of it becomes an entry that wraps. `verbose` shows every region beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from normswap.distinct import PLAIN, Family, by, converts, families, targets
from normswap.ledger import Refusal
from normswap.terminal import INDENT, SHOWN, UNBOUNDED, entry, escaped, heading, line, refusals, some
from normswap.terminal_regions import show_regions

if TYPE_CHECKING:
    from normswap.ledger import Conditioning, Inspection, NormRow, UnrecognizedRow

# A fold is pointed out where the largest gain is more than this many times the smallest, or where its largest weight is
# less than this far from the overflow of float16: one more layer of gains like these would be too much.
WIDE_SPREAD, HEADROOM = 1e4, 100.0
# So many families of odd ones are spelled out.
MOST_ODD = 8
COLUMNS = ("groups", "epsilon", "affine", "spelled")
# The words for a column in which nothing stands.
EMPTY = {"axes": "none", "groups": "1", "epsilon": "none", "affine": "no gain or bias"}
ODD = "bold yellow"


def show_inspection(out: Console, inspection: Inspection, *, verbose: bool) -> None:
    """The norms of a model, one line per distinct one; why some cannot be changed; what is no norm that we know."""
    line(out, _summary(inspection.model))
    if inspection.norms:
        found = families(inspection.norms)
        _norms(out, found, targets(inspection.norms))
        _odd_ones(out, found, verbose=verbose)
    else:
        alike = any(row.reason_id not in PLAIN for row in inspection.unrecognized)
        line(out, "no norms that could be read" if alike else "no norms")
    if verbose:
        show_regions(out, inspection.norms)
    for target in () if verbose else targets(inspection.norms):
        refused = [
            Refusal(norm.name, answer["reason_id"], answer["reason"])
            for norm in inspection.norms
            if (answer := norm.can.get(target)) is not None and answer["reason_id"] not in ("", "already")
        ]
        refusals(out, f"cannot become {target}, or not wholly", refused, verbose=False)
    _conditioning(out, inspection.norms, verbose=verbose)
    _unrecognized(out, inspection.unrecognized, verbose=verbose)


def _norms(out: Console, found: Sequence[Family], names: Sequence[str]) -> None:
    """A line for each family; where that is too wide, an entry for each."""
    shown = [column for column in COLUMNS if any(family.words[column] for family in found)]
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "norm", "axes", *shown, *names):
        result.add_column(title, justify="right" if title in ("", "groups") else "left", no_wrap=True)
    for family in found:
        result.add_row(
            f"{len(family.rows):,}",
            escaped(family.kind),
            _cell(family, "axes", family.axes),
            *(_cell(family, column, family.words[column]) for column in shown),
            *(escaped(converts(family.rows, name)) for name in names),
        )
    out.print()
    if Measurement.get(out, out.options.update(max_width=UNBOUNDED), result).maximum <= out.width:
        out.print(result)
        return
    for family in found:
        entry(out, len(family.rows), _entry(family, names))


def _entry(family: Family, names: Sequence[str]) -> str:
    said = family.words
    epsilon = said["epsilon"] and f"epsilon {said['epsilon']}"
    groups = said["groups"] and f"in {said['groups']} groups"
    can = (f"{name}: {count}" for name in names if (count := converts(family.rows, name)))
    kind = f"{family.kind} over {family.axes}" if said["axes"] else f"{family.kind}, {family.axes}"
    parts = (kind, groups, epsilon, said["affine"], said["spelled"])
    return "; ".join((", ".join(part for part in parts if part), *can))


def _cell(family: Family, column: str, text: str) -> Text:
    cell = escaped(text)
    cell.stylize(ODD if column in family.usual else "")
    return cell


def _odd_ones(out: Console, found: Sequence[Family], *, verbose: bool) -> None:
    """The families that differ from most norms of their kind, with their names and with what most have."""
    odd = [family for family in found if family.usual]
    if not odd:
        return
    heading(out, "odd ones")
    for family in odd if verbose else odd[:MOST_ODD]:
        differences = (
            f"{column} {family.words[column] or EMPTY[column]} (most have {usual or EMPTY[column]})"
            for column, usual in family.usual.items()
        )
        names = some([row.name for row in family.rows], verbose=verbose)
        entry(out, len(family.rows), f"{family.kind} {names}: {', '.join(differences)}")
    if not verbose and len(odd) > MOST_ODD:
        line(out, f"... and {len(odd) - MOST_ODD:,} more kinds of odd ones: --verbose lists them", indent=INDENT)


def _unrecognized(out: Console, rows: Sequence[UnrecognizedRow], *, verbose: bool) -> None:
    """What looks like a norm and is none, with the reasons; then the plain reductions, in one entry for each reason."""
    alike = [Refusal(row.node, row.reason_id, row.reason) for row in rows if row.reason_id not in PLAIN]
    refusals(out, "not recognized, though it may look like a norm", alike, verbose=verbose)
    plain = by((row for row in rows if row.reason_id in PLAIN), lambda row: row.reason_id)
    if plain:
        heading(out, "other reductions")
    for reason_id, same in plain.items():
        operators = by(same, lambda row: row.op).items()
        named = (f"{operator} {some([row.node for row in group], verbose=verbose)}" for operator, group in operators)
        entry(out, len(same), f"{reason_id}: {'; '.join(named)}")


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


def _summary(model: Mapping[str, object]) -> str:
    size = model.get("bytes")
    facts = (f"{name} {value}" for name, value in model.items() if name not in ("path", "bytes") and value is not None)
    weights = (f"{decimal(size)} of weights",) if isinstance(size, int) else ()
    return f"{model.get('path') or 'model'}: " + ", ".join((*facts, *weights))
