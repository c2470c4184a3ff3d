"""Recognition: the norms of a model as views beside its graph, which it does not change.

Norm operators are read; for every other reduction the values it may be a statistic of are tried as x, nearest first,
and the region behind x is fingerprinted. Identical regions are fingerprinted once, and only their vectors read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

from normswap import outside, regions, seeds
from normswap.averages import PRODUCTS
from normswap.facts import Facts
from normswap.findings import Findings, Place, norm_of
from normswap.norm import PARTS, Norm, Recognition, Unrecognized
from normswap.operator_views import of_operator, operator_kind
from normswap.views import label, unrecognized

# After these, no value further back can be the x of a norm around the same reduction.
FINAL = frozenset({"negated"})
# What most products are: linear layers and attention.
OF_NO_INTEREST = frozenset({"not-a-norm", "other-value"})


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
        kind = operator_kind(node)
        if kind is not None and PARTS[kind].root_mean_square:
            findings.record(_outwards(of_operator(node, path, findings.facts), node, place, findings))
        elif node not in findings.covered and seeds.is_seed(node, findings.facts):
            found = _decomposed(node, place, findings)
            if isinstance(found, Norm):
                findings.record(_outwards(found, node, place, findings))
            elif _is_mentioned(node, found, findings.facts):
                findings.record(unrecognized(node, found))


def _is_mentioned(seed: ir.Node, reason: str, facts: Facts) -> bool:
    """Whether a reader would ask why a reduction is no norm: of a product only if it has to do with one, of x·xᵀ."""
    if seed.op_type in PRODUCTS:
        return seeds.is_of_two(seed, facts) and reason not in OF_NO_INTEREST
    return seeds.is_of_activation(seed, facts)


def _outwards(found: Norm | Unrecognized, seed: ir.Node, place: Place, findings: Findings) -> Norm | Unrecognized:
    """A norm with what stands around it."""
    if isinstance(found, Unrecognized):
        return found
    within = outside.conditioned(found, findings.facts)
    norm = outside.seen_from_outside(found, within, seed, place, findings)
    around = outside.conditioned(norm.outer or norm, findings.facts)
    return replace(norm, runtime=norm.runtime | within.keys() | around.keys())


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
        found = "not-a-norm" if region is None else norm_of(region, place, findings)
        if isinstance(found, Norm):
            return outside.widened(found, seed, place, findings)
        reasons.append(found)
        if found in FINAL:
            break
    if any(reason != "not-a-norm" for reason in reasons):
        return next(reason for reason in reasons if reason != "not-a-norm")
    return "other-value" if seeds.scales_another(seed, facts) else "not-a-norm"
