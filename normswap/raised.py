"""A norm raised to one canonical node beside its region, and put back: what no rule takes is exactly what it was.

The nodes of the region stay in the graph, and nobody reads their result, until a rule has taken what stands for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import probes
from normswap.canonical import canonical
from normswap.emit import Emitter
from normswap.facts import Facts
from normswap.forms import Form
from normswap.graph_edits import remove_dead
from normswap.norm import Norm
from normswap.reference import Array, Unexecutable
from normswap.regions import Region
from normswap.rules import Rule
from normswap.rules.execute import execute, relative
from normswap.rules.pattern import find
from normswap.rules.read import NORMS, Definitions
from normswap.rules.replacement import Inapplicable, discard, emit, exact, fits
from normswap.setting import settings

SEED = 17


@dataclass(frozen=True, eq=False)
class Raised:
    """A norm and the nodes that stand for it; those of its region are still there, and nobody reads their result."""

    norm: Norm
    nodes: Sequence[ir.Node]

    @property
    def core(self) -> ir.Node:
        """The `normswap.*` node."""
        return next(node for node in self.nodes if node.domain == NORMS)


def raise_norm(emitter: Emitter, norm: Norm) -> Raised:
    """Let canonical nodes stand for a norm: they have its name, and its readers."""
    anchor, old = norm.output.producer(), norm.output
    assert anchor is not None
    assert anchor.graph is not None
    raised = Raised(norm, canonical(emitter, norm, norm.input, exact=True))
    anchor.graph.insert_after(anchor, raised.nodes)
    raised.core.name, raised.core.doc_string = anchor.name, anchor.doc_string
    raised.core.metadata_props.update(anchor.metadata_props)
    new = raised.nodes[-1].outputs[0]
    new.type, new.shape, new.doc_string = old.type, old.shape, old.doc_string
    new.metadata_props.update(old.metadata_props)
    _exchange(old, new)
    return raised


def restore(raised: Raised) -> None:
    """Put the norm's own nodes back in the place of what stands for them."""
    _exchange(raised.nodes[-1].outputs[0], raised.norm.output)
    for node in reversed(raised.nodes):
        remove_dead(node)


def _exchange(old: ir.Value, new: ir.Value) -> None:
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, old.name = old.name, None


@np.errstate(all="ignore")
def region_error(raised: Raised, facts: Facts, definitions: Definitions) -> float:
    """The largest relative difference between the region and what stands for it. Raises `Unexecutable`."""
    norm, nodes = raised.norm, raised.nodes
    made = {norm.input, *(value for node in (*norm.nodes, *nodes) for value in node.outputs)}
    read, own = (
        tuple(dict.fromkeys(v for node in some for v in node.inputs if v is not None and v not in made))
        for some in (norm.nodes, nodes)
    )
    constants = {value: _collapsed(exact(value, facts)) for value in own}
    ready = settings(Region(norm.input, norm.nodes[0], norm.nodes, read), facts)
    if ready is None:
        raise Unexecutable(f"the operators of `{norm.name}` could not be run on small inputs")
    worst, random = 0.0, np.random.default_rng(SEED)
    for setting in ready:
        for x in probes.ordinary(setting.shape, Form.of(norm).scale, random):
            truth = setting.run(x)[norm.output]
            known = execute(nodes, {**constants, norm.input: x}, lambda node: opset_of(node, facts), definitions)
            worst = max(worst, apart(known[nodes[-1].outputs[0]], truth))
    return worst


def apart(array: Array, truth: Array) -> float:
    """The relative difference; what divides by zero, as a norm without ε does, must do so in the same places."""
    finite = np.isfinite(truth)
    if array.shape != truth.shape or not np.array_equal(array[~finite], truth[~finite], equal_nan=True):
        return float("inf")
    return relative(array[finite], truth[finite]) if finite.any() else 0.0


def _collapsed(array: Array) -> Array:
    """A gain or bias with size 1 along the axes it ignores, along which the probes may be cut."""
    for axis in range(array.ndim if array.dtype == np.float64 else 0):
        first = array.take([0], axis=axis)
        array = first if bool((array == first).all()) else array
    return array


def opset_of(node: ir.Node, facts: Facts) -> int:
    """The opset of the default domain that `node` belongs to."""
    imports = {} if node.graph is None else node.graph.opset_imports
    return imports.get("") or facts.model.opset_imports.get("") or 1


def needed_opset(rule: Rule, node: ir.Node, facts: Facts) -> int | str:
    """The opset in which `rule` writes `node`, at least that of the model; or why not, "" where it does not match."""
    present = opset_of(node, facts)
    if rule.until_opset is not None and rule.until_opset < present:
        return ""
    match = find(rule.match, node, facts)
    if match is None or not fits(rule, match, facts):
        return ""
    try:
        discard(emit(rule, match, facts, "", lambda name: name))
    except (Inapplicable, Unexecutable) as reason:
        return str(reason)
    return max(rule.since_opset, present)
