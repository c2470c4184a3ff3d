"""Weights that are computed from constants: found, and named by what they compute.

Weight norm, weight standardization and spectral norm are maps on constants. A chain that is none of these is found
just the same; one that only moves elements or casts them is a plain weight already. `plain_weights` folds them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap.chains import CASTS, LAYOUT, Chain, chain_of, is_float, size
from normswap.facts import Facts
from normswap.norm import Spelling
from normswap.prove import TOLERANCE
from normswap.recognize import graphs
from normswap.reference import ONNX_DOMAINS, Unexecutable
from normswap.views import label
from normswap.weight_forms import Form, WeightKind, form_of


@dataclass(frozen=True, eq=False)
class ComputedWeight:
    """One weight that is computed: the constant `value`, as `readers` read it, by layout operators or as it is.

    `form` is None for a chain that computes none of the forms known. `graph` is the path of the graph that holds it.
    """

    value: ir.Value
    chain: Chain
    form: Form | None
    readers: tuple[ir.Node, ...]
    graph: str = ""
    spelling: Spelling = "decomposed"

    @property
    def name(self) -> str:
        """The user's word for the site: the name of the node that makes the weight."""
        return label(self.chain.nodes[-1])

    @property
    def kind(self) -> WeightKind | None:
        """Which norm of a weight it is."""
        return None if self.form is None else self.form.kind

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the weight over which its statistic is taken; none where there is none."""
        return () if self.form is None else self.form.axes

    @property
    def size(self) -> int | None:
        """The number of elements that share a statistic."""
        shape = self.chain.facts.shape(self.value)
        return None if self.form is None or shape is None else int(np.prod([shape[axis] for axis in self.axes]))

    @property
    def epsilon(self) -> float:
        """ε, as the chain writes it; `variant` says where it stands if not under the root."""
        return 0.0 if self.form is None else self.form.epsilon

    @property
    def variant(self) -> str:
        """What sets it apart from others of its kind."""
        return "" if self.form is None else self.form.variant

    @property
    def scale(self) -> str:
        """Whether it has a gain, in the words of `inspect`."""
        gain = None if self.form is None else self.form.gain
        return "none" if gain is None or (np.abs(gain - 1) <= TOLERANCE).all() else "constant"

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The operators that compute it, in graph order."""
        return self.chain.nodes


def computed_weights(model: ir.Model, facts: Facts) -> list[ComputedWeight]:
    """Every float weight of rank 2 and more that constants are computed into, in the order of its first reader.

    A weight that is quantized anywhere on its way is none, nor one that a caller may replace, nor one that was never
    stored: a mask, say, that folding would make the model larger by.
    """
    paths = dict(graphs(model.graph))
    found = []
    for value, readers in _weights(paths, facts):
        chain = chain_of(value, facts)
        if chain.is_quantized() or not _is_stored(chain):
            continue
        try:
            form = form_of(chain)
            if form is None:
                chain.run()
        except Unexecutable:
            continue
        home = chain.nodes[-1].graph
        path = paths.get(home, "") if isinstance(home, ir.Graph) else ""
        found.append(ComputedWeight(value, chain, form, readers, path))
    return found


def _weights(within: Iterable[ir.Graph], facts: Facts) -> Iterator[tuple[ir.Value, tuple[ir.Node, ...]]]:
    """Constants that arithmetic has made, each with the nodes that read it.

    That is the constant which a node reads, with what layout operators made of the arithmetic's result; but the result
    itself, where several such constants are made of it, or one of several of them.
    """
    frontier = _frontier(within, facts)
    cores = {value: _cores(value) for value in frontier}
    sharing: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for value, behind in cores.items():
        for core in behind:
            sharing[core].append(value)
    done: set[ir.Value] = set()
    for value, behind in cores.items():
        alone = len(behind) == 1 and sharing[behind[0]] == [value] and size(value, facts) <= size(behind[0], facts)
        for weight in (value,) if alone else behind:
            if weight not in done and size(weight, facts) > 1:
                done.add(weight)
                through = [value] if alone else sharing[weight]
                yield weight, tuple(dict.fromkeys(node for item in through for node in frontier[item]))


def _frontier(within: Iterable[ir.Graph], facts: Facts) -> Mapping[ir.Value, list[ir.Node]]:
    """The computed constants that look like weights, by the nodes that are not constant themselves and read them."""
    found: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for graph in within:
        for node in graph:
            if all(facts.is_constant(output) for output in node.outputs):
                continue
            for value in dict.fromkeys(node.inputs):
                if value is not None and _is_weight(value, facts):
                    found[value].append(node)
    return found


def _is_weight(value: ir.Value, facts: Facts) -> bool:
    producer = value.producer()
    if producer is None or producer.op_type == "Constant" or not facts.is_constant(value):
        return False
    return is_float(value, facts) and (facts.rank(value) or 0) >= 2


def _cores(value: ir.Value) -> list[ir.Value]:
    """The values that arithmetic made, and layout operators then made `value` of; none behind a plain weight."""
    found: dict[ir.Value, None] = {}
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        node = current.producer()
        if node is None or node.op_type == "Constant":
            continue
        onnx_own = node.domain in ONNX_DOMAINS
        if onnx_own and node.op_type in LAYOUT:
            data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            pending += [item for item in data if item is not None and item not in seen]
            seen.update(item for item in data if item is not None)
        elif not (onnx_own and node.op_type in CASTS) or (node.inputs[0] is not None and _cores(node.inputs[0])):
            found[current] = None
    return list(found)


def _is_stored(chain: Chain) -> bool:
    """Whether a leaf is as large as the weight."""
    facts = chain.facts
    return any(is_float(leaf, facts) and size(leaf, facts) >= size(chain.value, facts) for leaf in chain.leaves)
