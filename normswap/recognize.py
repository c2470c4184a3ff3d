"""Recognition: the norms of a model as views beside its graph, which it does not change.

Norm operators are read; for every other reduction the values it may be a statistic of are tried as x, nearest first,
and the region behind x is fingerprinted. Identical regions are fingerprinted once, and only their vectors read again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from normswap import fingerprint, regions, seeds, views
from normswap.facts import Facts
from normswap.fingerprint import Match
from normswap.norm import PARTS, Norm, Recognition, Unrecognized
from normswap.regions import Region
from normswap.views import label, unrecognized

# After these, no value further back can be the x of a norm around the same reduction.
FINAL = frozenset({"negated"})


@dataclass
class Findings:
    """What has been found so far.

    `covered` are the nodes of norms; `fingerprints` the outcomes by structure; `suspects` the values that are x minus
    a statistic which is not its mean, with the reason: their root mean square is not the second half of a norm.
    """

    facts: Facts
    norms: list[Norm] = field(default_factory=list)
    unrecognized: list[Unrecognized] = field(default_factory=list)
    covered: set[ir.Node] = field(default_factory=set)
    fingerprints: dict[Hashable, Match | str] = field(default_factory=dict)
    suspects: dict[ir.Value, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Place:
    """A graph of the model: its path, and the order of its nodes."""

    path: str
    position: Mapping[ir.Node, int]


def recognize(model: ir.Model, facts: Facts) -> Recognition:
    """Every LayerNorm and RMSNorm of the main graph and of the bodies of If, Loop and Scan, and every other reduction.

    The model stays as it is; the views refer to its own values and nodes.
    """
    findings = Findings(facts)
    for graph, path in graphs(model.graph):
        _search(graph, path, findings)
    return Recognition(
        norms=tuple(norm for norm in findings.norms if norm.is_movable),
        named=tuple(norm for norm in findings.norms if not norm.is_movable),
        unrecognized=tuple(findings.unrecognized),
        by_output={norm.output: norm for norm in findings.norms},
    )


def graphs(graph: ir.Graph, path: str = "") -> Iterator[tuple[ir.Graph, str]]:
    """The graph and all graphs within, each with its path: node and attribute names, joined by slashes."""
    yield graph, path
    for node in graph:
        for name, item in node.attributes.items():
            if item.is_ref() or item.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                continue
            bodies = [item.as_graph()] if item.type == ir.AttributeType.GRAPH else list(item.as_graphs())
            for number, body in enumerate(bodies):
                step = f"{label(node)}/{name}" + (f"[{number}]" if item.type == ir.AttributeType.GRAPHS else "")
                yield from graphs(body, f"{path}/{step}" if path else step)


def _search(graph: ir.Graph, path: str, findings: Findings) -> None:
    place = Place(path, regions.position_in(graph))
    for node in graph:
        kind = views.operator_kind(node)
        if kind is not None and PARTS[kind].root_mean_square:
            _record(views.of_operator(node, kind, path, findings.facts), findings)
        elif node not in findings.covered and seeds.is_seed(node, findings.facts):
            found = _decomposed(node, place, findings)
            if isinstance(found, Norm):
                _record(found, findings)
            elif node.op_type not in regions.MATRIX_PRODUCTS:
                _record(unrecognized(node, found), findings)


def _record(found: Norm | Unrecognized, findings: Findings) -> None:
    if isinstance(found, Norm):
        findings.norms.append(found)
        findings.covered.update(found.nodes)
    else:
        findings.unrecognized.append(found)


def _decomposed(seed: ir.Node, place: Place, findings: Findings) -> Norm | str:
    """The norm that `seed` is a part of, or the id of the best reason why there is none."""
    facts = findings.facts
    if not seeds.meets_another(seed, facts):
        return "not-a-norm"
    reasons: list[str] = []
    for x in seeds.candidates(seed, facts):
        if facts.dims(x) is None:
            reasons.append("unknown-shape")
            continue
        region = regions.grow(x, seed, place.position, facts)
        found = "not-a-norm" if region is None else _norm_of(region, place, findings)
        if isinstance(found, Norm):
            return _widened(found, seed, place, findings)
        reasons.append(found)
        if found in FINAL:
            break
    if any(reason != "not-a-norm" for reason in reasons):
        return next(reason for reason in reasons if reason != "not-a-norm")
    return "other-value" if seeds.scales_another(seed, facts) else "not-a-norm"


def _widened(norm: Norm, seed: ir.Node, place: Place, findings: Findings) -> Norm:
    """The norm with the casts around it: x before a Cast, where the output is then further down too."""
    while True:
        x = _before_cast(norm, findings.facts)
        region = None if x is None else regions.grow(x, seed, place.position, findings.facts)
        found = "" if region is None else _norm_of(region, place, findings)
        if isinstance(found, str) or len(found.nodes) <= len(norm.nodes) + 1:
            return norm
        norm = found


def _before_cast(norm: Norm, facts: Facts) -> ir.Value | None:
    """What the norm's input is a copy of, in another type or under another name."""
    producer = norm.input.producer()
    if producer is None or producer.graph is not norm.nodes[0].graph or producer.op_type not in ("Cast", "Identity"):
        return None
    dtype = None if producer.inputs[0] is None else facts.dtype(producer.inputs[0])
    return producer.inputs[0] if dtype is not None and dtype.is_floating_point() else None


def _norm_of(region: Region, place: Place, findings: Findings) -> Norm | str:
    """The norm that a region computes, in x's own type; or the id of the reason why it computes none."""
    facts, targets = findings.facts, region.targets(findings.facts)
    key = regions.key(region, facts)
    if key not in findings.fingerprints:
        findings.fingerprints[key] = fingerprint.match(region, facts)
    match = findings.fingerprints[key]
    if isinstance(match, str):
        return _suspect(targets[0], region, match, findings)
    if match.form.kind == "RMSNorm" and region.x in findings.suspects:
        return findings.suspects[region.x]
    solved = fingerprint.parameters(region, match, facts)
    if solved is None:
        return "other-statistic"
    setting, affines = solved
    if views.is_negated(next(iter(affines.values())), setting):
        return _suspect(targets[0], region, "negated", findings)
    alike = [value for value in affines if facts.dtype(value) == facts.dtype(region.x)]
    if not alike:
        return "other-type"
    output = _last_in_line(region, alike)
    return views.of_region(
        regions.restrict(region, output), match.form, output, setting, affines[output], place.path, facts
    )


def _suspect(value: ir.Value, region: Region, reason: str, findings: Findings) -> str:
    """Note a difference of x and a statistic of x that is not Center(x)."""
    producer = value.producer()
    if reason != "not-a-norm" and producer is not None and producer.op_type == "Sub" and region.x in producer.inputs:
        findings.suspects.setdefault(value, reason)
    return reason


def _last_in_line(region: Region, found: list[ir.Value]) -> ir.Value:
    """The last of the matching values that can stand for the first: nothing else reads what lies between them.

    So the gain and the bias belong to the norm, and what an activation or an attention makes of its output does not.
    A mere copy in the same shape, by a layout operator, is left outside.
    """
    line = found[0]
    for value in found[1:]:
        producer = value.producer()
        if producer is not None and producer.op_type in regions.COPIES and producer.inputs[0] in found:
            continue
        within = set(regions.needed_for({value}, region.nodes))
        if not line.is_graph_output() and all(node in within for node in line.consumers()):
            line = value
    return line
