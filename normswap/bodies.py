"""Norms in local functions as `inspect` reports them: once per body, in its own names, whatever the number of calls.

A session reads them where they were inlined, with the arguments of each call. Calls that agree on what the norm is are
one row; of what they differ in, only that is told which holds for all.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from normswap.functions import Origin, origin
from normswap.ledger import Can, NodeRow, NormRow, ParameterRow, UnrecognizedRow
from normswap.norm import Norm, Unrecognized
from normswap.operator_views import operator_kind
from normswap.regions import reduces
from normswap.views import label


def norms_once(found: Iterable[tuple[Norm, NormRow]]) -> tuple[NormRow, ...]:
    """The rows of norms, with those of one body and one kind put together where the first of them stood."""
    rows: dict[Hashable, list[NormRow]] = {}
    for number, (norm, row) in enumerate(found):
        nodes = (norm.outer or norm).nodes
        own = _origins(nodes)
        if own is None:
            rows[number] = [row]
        else:
            form = row.kind, row.axes, row.groups, row.epsilon, row.epsilon_place, row.variant
            rows.setdefault((_place(nodes), form), []).append(_in_body(norm, row, own))
    return tuple(calls[0] if len(calls) == 1 else _of_all(calls) for calls in rows.values())


def reductions_once(found: Iterable[Unrecognized]) -> tuple[UnrecognizedRow, ...]:
    """The rows of what is no norm, once for each node of a body and each reason."""
    rows: dict[Hashable, UnrecognizedRow] = {}
    for number, item in enumerate(found):
        row = UnrecognizedRow(label(item.node), item.node.op_type, item.reason_id, item.reason)
        own = origin(item.node)
        if own is None:
            rows[number] = row
        else:
            reason = item.reason.replace(f"`{row.node}`", f"`{own.name}`")
            rows.setdefault((own.path, own.place, item.reason_id), replace(row, node=own.name, reason=reason))
    return tuple(rows.values())


def _origins(nodes: Sequence[ir.Node]) -> list[Origin] | None:
    """Where the nodes of a norm stood, if all in one body."""
    own = [item for item in map(origin, nodes) if item is not None]
    return own if len(own) == len(nodes) and len({item.path for item in own}) == 1 else None


def _place(nodes: Sequence[ir.Node]) -> Hashable:
    """What tells a norm of a body from its others: its last reduction, since a call may leave the gain outside."""
    reductions = [node for node in nodes if reduces(node) or operator_kind(node) is not None]
    return tuple((item.path, item.place) for item in map(origin, reductions[-1:] or nodes) if item is not None)


def _in_body(norm: Norm, row: NormRow, own: Sequence[Origin]) -> NormRow:
    """A row in the names of the body."""
    nodes, names = (norm.outer or norm).nodes, dict[str, str]()
    for node, item in zip(nodes, own, strict=True):
        values = [*zip(node.inputs, item.inputs, strict=True), *zip(node.outputs, item.outputs, strict=True)]
        names.update((value.name or "", name) for value, name in values if value is not None)
    last = norm.output.producer()
    named = next((item.name for node, item in zip(nodes, own, strict=True) if node is last), row.name)
    parameters = {part: ParameterRow(names.get(it.name, it.name), it.shape) for part, it in row.parameters.items()}
    return replace(
        row,
        name=named,
        graph=own[0].path,
        nodes=tuple(item.name for item in own),
        input=names.get(row.input, row.input),
        output=names.get(row.output, row.output),
        parameters=parameters,
        region=tuple(_renamed(node, item.name, names) for node, item in zip(row.region, own, strict=True)),
    )


def _renamed(row: NodeRow, name: str, names: Mapping[str, str]) -> NodeRow:
    return replace(
        row,
        name=name,
        inputs=tuple(names.get(value, value) for value in row.inputs),
        outputs=tuple(names.get(value, value) for value in row.outputs),
        constants={names.get(value, value): words for value, words in row.constants.items()},
    )


def _of_all(calls: Sequence[NormRow]) -> NormRow:
    """What holds for every call: a part is constant if all give a constant, a target does to it what it does to all."""
    least = min(calls, key=lambda row: len(row.nodes))
    return replace(
        least,
        size=least.size if len({row.size for row in calls}) == 1 else None,
        scale=_common([row.scale for row in calls]),
        bias=_common([row.bias for row in calls]),
        can={target: _can([row.can[target] for row in calls if target in row.can]) for target in least.can},
        conditioning=None,
        calls=len(calls),
    )


def _common(words: Sequence[str]) -> str:
    return words[0] if len(set(words)) == 1 else "runtime"


def _can(answers: Sequence[Can]) -> Can:
    """The answer of the call for which least can be done."""
    return next((answer for answer in answers if not answer["exact"]), answers[0])
