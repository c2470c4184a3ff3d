"""Learn the facts of a model: one forward walk per binding of the free dimensions.

Free dimensions are bound to distinct primes, twice. The walk infers shapes operator by operator with onnx's own
inference, fed with everything that derives from shapes and small constants, so that computed Reshape targets are known.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normswap import loops, reference
from normswap.facts import NOT_DETERMINISTIC, SMALL, Facts, has_subgraph
from normswap.infer import infer, subgraphs
from normswap.maps import Shape
from normswap.reference import Array, Floats

# Two sets of distinct primes for the free dimensions: small, so that probes are cheap, and the second larger in every
# place, with other differences, so that a dimension on which both bindings agree is static: sums, products and
# differences of free dimensions are not.
PRIMES = ((3, 5, 7, 11, 13, 17, 19), (5, 11, 19, 29, 37, 43, 47))
# Images shrink by strides, so a free dimension behind the second of a rank-4 input starts larger, and stays different
# after five halvings; which sizes fit a model is not written anywhere. These are tried in turn until inference leaves
# nothing open: primes; a height that four halvings bring to 3, as text recognizers want it; multiples of 32.
SPATIAL_SIZES = (
    ((97, 163, 223), (131, 229, 307)),
    ((41, 163, 223), (43, 229, 307)),
    ((96, 160, 224), (128, 224, 320)),
)

# Strides may bring two sizes to one all the same. No stride brings these there, which are only inferred, never drawn.
FAR_PRIMES = (10007, 10009, 10037, 10039, 10061, 10067, 10069)
FAR_SIZES = (10016, 12032, 14048)  # multiples of 32, which most models of images ask for


def bind(
    inputs: Iterable[ir.Value], small: Sequence[int], spatial: Sequence[int], *, by_axis: bool = False
) -> dict[ir.Value, Shape]:
    """Shapes for graph inputs with each free dimension bound to one of the sizes; the same symbol always to the same.

    `spatial` sizes go to the third and later dimensions of inputs of rank 4 and more. A symbol that is an expression
    of others (`past + sequence`) is evaluated. Inputs of unknown rank are left out. With `by_axis`, free dimensions
    are the same where their axis is the same, whatever they are called: exporters name equal dimensions differently.
    """
    small_sizes, spatial_sizes = iter(small), iter(spatial)
    sizes: dict[str, int] = {}
    shapes: dict[ir.Value, Shape] = {}
    known = [value for value in inputs if value.shape is not None]
    for value in known:
        assert value.shape is not None
        for axis, dim in enumerate(value.shape):
            if not isinstance(dim, int) and not _is_expression(dim):
                name = str(axis) if by_axis else _symbol(dim, f"{value.name}:{axis}")
                if name not in sizes:
                    is_spatial = len(value.shape) >= 4 and axis >= 2
                    sizes[name] = next(spatial_sizes, spatial[-1]) if is_spatial else next(small_sizes, small[-1])
    for value in known:
        assert value.shape is not None
        shapes[value] = tuple(
            sizes[str(axis)]
            if by_axis and not isinstance(dim, int) and not _is_expression(dim)
            else _size(dim, f"{value.name}:{axis}", sizes)
            for axis, dim in enumerate(value.shape)
        )
    return shapes


def _symbol(dim: ir.SymbolicDim, default: str) -> str:
    return default if dim.value in (None, "?") else str(dim.value)


def _is_expression(dim: ir.SymbolicDim) -> bool:
    """Whether the name is arithmetic on other names, as exporters write `past_sequence_length + sequence_length`."""
    return dim.value is not None and bool(re.search(r"\w\s*[-+*/]\s*\w", str(dim.value)))


def _size(dim: int | ir.SymbolicDim, default: str, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if not _is_expression(dim):
        return sizes[_symbol(dim, default)]
    size = dim.evaluate(sizes)
    return size if isinstance(size, int) and size > 0 else PRIMES[0][0]


def learn(model: ir.Model) -> Facts:
    """All facts that shape inference and constants give; `observe` fills what they leave open."""
    best, fewest = Facts(model), -1
    for by_axis, spatial in itertools.product((False, True), SPATIAL_SIZES):
        facts = Facts(model, by_axis=by_axis)
        for binding in range(2):
            shapes = bind(model.graph.inputs, PRIMES[binding], spatial[binding], by_axis=by_axis)
            facts.shapes[binding].update(shapes)
            walk(facts, model.graph, binding)
        missing = len(unknown(facts))
        if fewest < 0 or missing < fewest:
            best, fewest = facts, missing
        if not missing:
            break
    if best.has_free_sizes():
        _look_far(best)
    return best


def _look_far(facts: Facts) -> None:
    """Infer the shapes under a binding that is far from both others."""
    far = Facts(facts.model, by_axis=facts.by_axis)
    far.shapes[0].update(bind(facts.model.graph.inputs, FAR_PRIMES, FAR_SIZES, by_axis=facts.by_axis))
    walk(far, facts.model.graph, 0)
    facts.far.update(far.shapes[0])


def walk(facts: Facts, graph: ir.Graph, binding: int) -> None:
    """Infer and derive what follows from what `facts` know under `binding`, in the order of `graph`."""
    for node in graph:
        for subgraph in subgraphs(node):
            for value in subgraph.inputs:
                if value.shape is not None and all(isinstance(dim, int) for dim in value.shape):
                    facts.shapes[binding][value] = tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]
            carried = loops.enter(facts, node, subgraph, binding)
            walk(facts, subgraph, binding)
            if not loops.keeps_shapes(facts, carried, binding):
                loops.forget(facts, subgraph, binding)
                walk(facts, subgraph, binding)
        infer(facts, node, binding)
        for value in node.outputs:
            facts.is_constant(value)  # asked in the order of the graph, it never recurses through the whole of it
        _derive(facts, node, binding)


def _derive(facts: Facts, node: ir.Node, binding: int) -> None:
    """Evaluate `node` where its small outputs follow from shapes and constants alone."""
    known = facts.known[binding]
    if node.op_type in NOT_DETERMINISTIC or has_subgraph(node) or not node.outputs:
        return
    if node.op_type in ("Shape", "Size") and node.inputs[0] is not None:
        shape = facts.shape(node.inputs[0], binding)
        if shape is not None:
            part = slice(reference.attribute(node, "start", 0), _end(node, len(shape)))
            whole = np.asarray(shape, dtype=np.int64)
            known[node.outputs[0]] = whole[part] if node.op_type == "Shape" else np.asarray(whole.prod(), np.int64)
            _note(facts, node.outputs[0], known[node.outputs[0]], binding)
        return
    shape = facts.shape(node.outputs[0], binding)
    if not node.inputs or (shape is not None and math.prod(shape) > SMALL):
        return
    if all(value is None or facts.is_constant(value) for value in node.inputs):
        return  # `constant` evaluates these, and only when somebody asks
    arrays: list[Array | None] = []
    for value in node.inputs:
        array = None if value is None else known[value] if value in known else _small_constant(facts, value)
        if value is not None and array is None:
            return
        arrays.append(array)
    if shape is None and _size_asked(node.op_type, arrays) > SMALL:
        return
    try:
        outputs = reference.run(node, arrays, facts.opset(node))
    except reference.Unexecutable:
        return
    for value, output in zip(node.outputs, outputs, strict=False):
        if output.size <= SMALL:
            known[value] = output
            _note(facts, value, output, binding)


def _size_asked(op_type: str, arrays: Sequence[Array | None]) -> float:
    """How many elements an operand asks for, of an operator that makes a large output from small inputs; else 0."""
    first, *others = [_numbers(array) for array in arrays] or [np.zeros(0)]
    if op_type == "ConstantOfShape":
        return float(np.prod(first, dtype=np.float64))
    if op_type in ("Expand", "Tile") and others:
        return max(1, first.size) * float(np.prod(others[0], dtype=np.float64))
    if op_type == "Range" and len(others) == 2 and others[1]:
        return float(abs((others[0] - first) / others[1]))
    return 0.0


def _numbers(array: Array | None) -> Floats:
    """The array in float64; nothing where there is none, and zeros for what is no number."""
    if array is None:
        return np.zeros(0)
    return array.astype(np.float64) if array.dtype.kind in "biuf" else np.zeros(array.shape)


def _small_constant(facts: Facts, value: ir.Value) -> Array | None:
    shape = facts.shape(value)
    if not facts.is_constant(value) or shape is None or math.prod(shape) > SMALL:
        return None
    return facts.constant(value)


def _end(node: ir.Node, rank: int) -> int:
    return reference.attribute(node, "end", rank)


def _note(facts: Facts, value: ir.Value, array: Array, binding: int) -> None:
    facts.shapes[binding][value] = array.shape
    if facts.dtype(value) is None:
        facts.types[value] = ir.DataType.from_numpy(array.dtype)


def unknown(facts: Facts) -> list[ir.Value]:
    """Values of the main graph whose shape inference left open under either binding."""
    return [
        value
        for node in facts.model.graph
        for value in node.outputs
        if value.name and (facts.shape(value, 0) is None or facts.shape(value, 1) is None)
    ]
