"""Recognition: the norms of a model as views beside its graph, which it does not change.

Norm operators are read; for every other reduction the values it may be a statistic of are tried as x, nearest first,
and the region behind x is fingerprinted. Identical regions are fingerprinted once, and only their vectors read again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from normswap import fingerprint, regions
from normswap.facts import Facts
from normswap.fingerprint import Affine, Form, Match
from normswap.norm import Kind, Norm, Parameter, Recognition, Unrecognized
from normswap.probes import Setting
from normswap.reference import Floats, attribute, attribute_float, promote
from normswap.regions import Region

# Every norm operator of onnx and onnxruntime whose only activation is its first input.
OPERATORS: Mapping[tuple[str, str], Kind] = {
    ("", "LayerNormalization"): "LayerNorm",
    ("com.microsoft", "LayerNormalization"): "LayerNorm",
    ("", "RMSNormalization"): "RMSNorm",
    ("", "SimplifiedLayerNormalization"): "RMSNorm",
    ("com.microsoft", "SimplifiedLayerNormalization"): "RMSNorm",
}


@dataclass
class Findings:
    """What has been found so far: norms, the reductions they cover, refusals, and fingerprints by structure."""

    facts: Facts
    norms: list[Norm] = field(default_factory=list)
    covered: set[ir.Node] = field(default_factory=set)
    unrecognized: list[Unrecognized] = field(default_factory=list)
    fingerprints: dict[Hashable, Match | None] = field(default_factory=dict)


def recognize(model: ir.Model, facts: Facts) -> Recognition:
    """Every LayerNorm and RMSNorm of the main graph and of the bodies of If, Loop and Scan; the model stays as it is."""
    findings = Findings(facts)
    for graph, path in graphs(model.graph):
        _search(graph, path, findings)
    return Recognition(
        norms=tuple(findings.norms),
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


def label(node: ir.Node) -> str:
    """The user's word for a node: its name, or that of the value it makes."""
    return node.name or next((value.name for value in node.outputs if value.name), None) or node.op_type


def _search(graph: ir.Graph, path: str, findings: Findings) -> None:
    position = regions.position_in(graph)
    for node in graph:
        kind = OPERATORS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        if kind is not None:
            found = _operator(node, kind, path, findings.facts)
            if isinstance(found, Norm):
                findings.norms.append(found)
            else:
                findings.unrecognized.append(found)
        elif node not in findings.covered and regions.is_seed(node, findings.facts):
            norm = _decomposed(node, path, position, findings)
            if norm is not None:
                findings.norms.append(norm)
                findings.covered.update(norm.nodes)
            elif node.op_type not in regions.MATRIX_PRODUCTS:
                findings.unrecognized.append(_refusal(node, findings.facts))


# --- norm operators -------------------------------------------------------------------------------------------------


def _operator(node: ir.Node, kind: Kind, path: str, facts: Facts) -> Norm | Unrecognized:
    x, output = node.inputs[0], node.outputs[0]
    dims = None if x is None else facts.dims(x)
    if x is None or dims is None:
        return Unrecognized(node, "unknown-shape", f"the rank of the input of `{label(node)}` could not be found")
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return Unrecognized(
            node, "statistics-used", f"the mean or deviation that `{label(node)}` also gives out is used"
        )
    axes = tuple(range(attribute(node, "axis", -1) % len(dims), len(dims)))
    parameters: list[Parameter | None] = []
    for value in (*node.inputs[1:3], None, None)[:2]:
        array = None if value is None else facts.constant(value)
        if value is not None and array is None:
            return Unrecognized(
                node, "runtime-parameter", f"`{value.name}`, a gain or bias of `{label(node)}`, is not constant"
            )
        if value is not None and array is not None and array.ndim > len(dims):
            return Unrecognized(
                node, "widening-parameter", f"`{value.name}` has a higher rank than the input of `{label(node)}`"
            )
        parameters.append(None if array is None else Parameter(_squeezed(promote(array).astype(np.float64)), value))
    return Norm(
        name=label(node),
        kind=kind,
        axes=axes,
        size=_size(dims, axes),
        epsilon=attribute_float(node, "epsilon", 1e-5),
        input=x,
        output=output,
        nodes=(node,),
        spelling="operator",
        gain=parameters[0],
        bias=parameters[1],
        graph=path,
    )


def _size(dims: tuple[int | None, ...], axes: tuple[int, ...]) -> int | None:
    size = 1
    for axis in axes:
        n = dims[axis]
        if n is None:
            return None
        size *= n
    return size


def _squeezed(array: Floats) -> Floats:
    """The array without leading axes of size 1, down to rank 1: what broadcasts the same with fewer axes."""
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array


# --- decomposed norms -----------------------------------------------------------------------------------------------


def _decomposed(seed: ir.Node, path: str, position: Mapping[ir.Node, int], findings: Findings) -> Norm | None:
    facts = findings.facts
    if not regions.meets_another(seed, facts):
        return None
    for x in regions.candidates(seed, facts):
        norm = _norm_from(x, seed, path, position, findings)
        while norm is not None:
            wider = _before_cast(norm, facts)
            further = None if wider is None else _norm_from(wider, seed, path, position, findings)
            if further is None or len(further.nodes) <= len(norm.nodes) + 1:
                return norm
            norm = further
    return None


def _before_cast(norm: Norm, facts: Facts) -> ir.Value | None:
    """What the norm's input is a copy of in another type or under another name."""
    producer = norm.input.producer()
    if producer is None or producer.graph is not norm.nodes[0].graph or producer.op_type not in ("Cast", "Identity"):
        return None
    dtype = None if producer.inputs[0] is None else facts.dtype(producer.inputs[0])
    return producer.inputs[0] if dtype is not None and dtype.is_floating_point() else None


def _norm_from(
    x: ir.Value, seed: ir.Node, path: str, position: Mapping[ir.Node, int], findings: Findings
) -> Norm | None:
    facts = findings.facts
    region = regions.grow(x, seed, position, facts)
    if region is None:
        return None
    key = regions.key(region, facts)
    if key not in findings.fingerprints:
        findings.fingerprints[key] = fingerprint.match(region, facts)
    match = findings.fingerprints[key]
    if match is None:
        return None
    targets = region.targets(facts)
    found = [targets[number] for number in sorted(match.targets) if facts.dtype(targets[number]) == facts.dtype(x)]
    while found:
        output = _last_in_line(region, found)
        solved = fingerprint.parameters(region, match.form, output, facts)
        if solved is not None:
            return _norm(regions.restrict(region, output), match.form, output, *solved, path, facts)
        found.remove(output)
    return None


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


def _norm(
    region: Region, form: Form, output: ir.Value, setting: Setting, affine: Affine, path: str, facts: Facts
) -> Norm:
    last = output.producer()
    assert last is not None
    dims = facts.dims(region.x)
    return Norm(
        name=label(last),
        kind=form.kind,
        axes=form.axes,
        size=None if dims is None else _size(dims, form.axes),
        epsilon=_named(form.epsilon, setting),
        input=region.x,
        output=output,
        nodes=region.nodes,
        spelling="decomposed",
        gain=_parameter(affine.gain, 1.0, setting),
        bias=_parameter(affine.bias, 0.0, setting),
        graph=path,
    )


def _named(epsilon: float, setting: Setting) -> float:
    """ε as the region's own constant has it, where one is equal up to the rounding of the solution."""
    scalars = (float(array.reshape(-1)[0]) for array in setting.arrays.values() if array.size == 1)
    return next((c for c in scalars if abs(c - epsilon) <= fingerprint.TOLERANCE * abs(c)), epsilon)


def _parameter(solved: Floats, neutral: float, setting: Setting) -> Parameter | None:
    """The parameter as the one tensor it is taken from, or as it was solved for; None where it does nothing."""
    slack = fingerprint.ROUNDING * float(np.abs(solved).max(initial=1.0))
    for value, array in setting.arrays.items():
        if array.size > 1 and array.dtype == np.float64 and array.ndim <= solved.ndim:
            aligned = array.reshape((1,) * (solved.ndim - array.ndim) + array.shape)
            try:
                same = np.abs(aligned - solved).max() <= slack
            except ValueError:
                continue
            if same:
                return Parameter(_squeezed(aligned.astype(np.float64)), value)
    if (np.abs(solved - neutral) <= slack).all():
        return None
    return Parameter(_squeezed(solved))


def _refusal(node: ir.Node, facts: Facts) -> Unrecognized:
    return Unrecognized(node, "not-a-norm", f"{node.op_type} `{label(node)}` is not a part of a norm")
