"""Every norm in full, as `inspect --verbose` shows it: its nodes, values and parameters, and what it can become."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from normswap.distinct import by, families, node_line
from normswap.reasons import REASONS
from normswap.terminal import INDENT, entry, heading, labelled, line

if TYPE_CHECKING:
    from normswap.ledger import Can, NormRow

# Labels stand in a column of this width, two spaces included.
LABELS = 12


def show_regions(out: Console, norms: Sequence[NormRow]) -> None:
    """The norms one by one in the order of the model; then what the reasons that they gave mean in general."""
    for norm in norms:
        _show(out, norm)
    answers = [answer for norm in norms for answer in norm.can.values()]
    known = by((answer for answer in answers if answer["reason_id"] in REASONS), lambda answer: answer["reason_id"])
    known.pop("already", None)
    if known:
        heading(out, "what the reasons mean")
    for reason_id, alike in known.items():
        reason = REASONS[reason_id]
        entry(out, len(alike), f"{reason_id}: {reason.meaning}")
        if not reason.remedy.startswith(("none", "nothing")):
            line(out, f"what helps: {reason.remedy}", indent=INDENT)


def _show(out: Console, norm: NormRow) -> None:
    (family,) = families([norm])
    heading(out, f"{family.kind} {norm.name}")
    for label, text in _facts(norm, family.axes):
        labelled(out, label, text, indent=LABELS)
    for index, node in enumerate(norm.region):
        labelled(out, "" if index else "nodes", node_line(node), indent=LABELS)
    if not norm.region:
        labelled(out, "nodes", ", ".join(norm.nodes), indent=LABELS)
    for target, answer in norm.can.items():
        labelled(out, target, _answer(answer), indent=LABELS)


def _facts(norm: NormRow, axes: str) -> Iterable[tuple[str, str]]:
    """What is known of a norm, by label."""
    (family,) = families([norm])
    yield "axes", axes + (f" in {norm.groups:,} groups" if norm.groups > 1 else "")
    if norm.core is not None:
        inner = ", ".join(map(str, norm.core.axes))
        yield "within", f"{norm.core.kind} over {inner}, between layout operators"
    if family.words["epsilon"]:
        yield "epsilon", family.words["epsilon"]
    for part, origin in (("gain", norm.scale), ("bias", norm.bias)):
        if origin != "none":
            yield part, _parameter(norm, part, origin)
    if norm.graph:
        yield "graph", norm.graph
    if norm.input or norm.output:
        yield "values", f"{norm.input} → {norm.output}"
    yield "spelled", family.words["spelled"]


def _parameter(norm: NormRow, part: str, origin: str) -> str:
    if origin != "constant":
        return "a run-time value"
    row = norm.parameters.get(part)
    if row is None:
        return origin
    shape = f"[{', '.join(map(str, row.shape))}]"
    return f"{row.name} {shape}" if row.name else f"{shape}, computed from constants"


def _answer(answer: Can) -> str:
    if answer["exact"]:
        return f"yes, in part: {answer['reason']}" if answer["reason_id"] else "yes"
    if answer["reason_id"] == "already":
        return answer["reason"]
    return f"no, {answer['reason_id']}: {answer['reason']}"
