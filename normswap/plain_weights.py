"""Computed weights become plain ones: one initializer in the place of a chain of constants.

It is computed in float64 throughout and rounded once. Nothing is left of what served only the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from normswap import maps
from normswap.chains import Chain
from normswap.computed import ComputedWeight
from normswap.emit import Emitter, NotFinite, rounded
from normswap.facts import Facts
from normswap.ledger import Proof, Refusal, Rewrite
from normswap.maps import Shape
from normswap.prove import TOLERANCE
from normswap.reference import Floats
from normswap.weight_forms import apart

RULE = "weights/fold"


@dataclass(eq=False)
class Folding:
    """What `fold_computed` did; `replaced` gives the new value for each old one."""

    rewrites: list[Rewrite] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    replaced: dict[ir.Value, ir.Value] = field(default_factory=dict)


def fold_computed(facts: Facts, chosen: Iterable[ComputedWeight]) -> Folding:
    """Replace each of the `chosen` weights by one initializer, computed in float64 and rounded once to its type.

    `chosen` come from `computed_weights` on the same facts. Operators and initializers that nobody reads any more go.
    One that would not be finite in its type is refused, as is one whose form does not hold on the model's own numbers.
    The IR version must be one in which initializers are no graph inputs (`ir_version`).
    """
    folding, emitter = Folding(), Emitter.of(facts)
    for weight in chosen:
        exact = weight.chain.run()
        dtype = facts.dtype(weight.value) or ir.DataType.FLOAT
        name = f"{weight.value.name}/folded"
        try:
            rounded(exact, dtype, weight.value.name or "")
            new = plain_weight(emitter, name, exact.shape, weight.chain.run, dtype)
        except NotFinite as problem:
            folding.refused.append(Refusal(weight.name, "not-finite", f"{_detail(weight)}: {problem}"))
            continue
        error = _error(weight, exact, facts.float64(new))
        if not error <= TOLERANCE:
            del facts.model.graph.initializers[new.name or ""]
            reason = f"{weight.kind} `{weight.name}`: its closed form differs by {error:.1e}"
            folding.refused.append(Refusal(weight.name, "proof-failed", reason))
            continue
        _replace(weight.chain, new, facts.model.graph)
        folding.replaced[weight.value] = new
        folding.rewrites.append(Rewrite(weight.name, RULE, True, Proof(1, error), _detail(weight)))
    return folding


def plain_weight(
    emitter: Emitter, name: str, shape: Shape, numbers: Callable[[], Floats], dtype: ir.DataType
) -> ir.Value:
    """An initializer; its `numbers` in float64, large as they are, are computed anew whenever somebody wants them."""
    lazy = ir.LazyTensor(lambda: ir.tensor(numbers()), dtype=ir.DataType.DOUBLE, shape=ir.Shape(shape))
    base = ir.Value(name=f"{name}/exact", const_value=lazy, shape=ir.Shape(shape))
    emitter.facts.constants[base] = True
    return emitter.constant(name, base, maps.identity(len(shape)), dtype)


def _error(weight: ComputedWeight, exact: Floats, kept: Floats) -> float:
    """The obligation: what is kept is what the chain computes, and that is what its form says."""
    every = tuple(range(exact.ndim))
    plain = apart(exact, kept, every)
    return plain if weight.form is None else max(plain, weight.form.error(weight.chain, exact))


def _replace(chain: Chain, new: ir.Value, main: ir.Graph) -> None:
    """Let everybody read the new weight, and remove what only served the old one, whose name the new one takes."""
    old, name = chain.value, chain.value.name
    is_at_home = chain.nodes[-1].graph is main
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)
    constants = [node for leaf in chain.leaves if (node := leaf.producer()) is not None]
    for node in (*reversed(chain.nodes), *constants):
        home = node.graph
        if home is not None and not any(value.uses() or value.is_graph_output() for value in node.outputs):
            home.remove(node, safe=True)
    for leaf in chain.leaves:
        is_needed = leaf.uses() or leaf.is_graph_output()
        if leaf.is_initializer() and isinstance(leaf.graph, ir.Graph) and not is_needed:
            leaf.graph.initializers.pop(leaf.name or "")
    if is_at_home and name is not None and chain.nodes[-1].graph is None:
        new.name = name


def _detail(weight: ComputedWeight) -> str:
    what = "constant chain" if weight.kind is None else weight.kind
    over = f" over axes {', '.join(map(str, weight.axes))}" if weight.axes else ""
    return f"{what} of {len(weight.nodes)} operators{over}"
