"""What models are timed on: one input per shape that was asked for, accepted by the original, the same for all models.

Inputs are drawn as `normswap check` draws them: token ids inside their table, full masks, floats with a mean. Free
dimensions have the sizes that were asked for, the others the first that onnxruntime accepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normswap.check import files, runtime, sources
from normswap.check.inputs import QUICK, Case, synthesize
from normswap.check.interface import Interface, Port, interface
from normswap.check.ranges import role
from normswap.check.sizes import Binding, attempts, symbols
from normswap.errors import UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Shapes = Mapping[str, Sequence[Sequence[int]]]


def cases(model: Path, session: InferenceSession, shapes: Shapes, given: Path | None, seed: int) -> list[Case]:
    """One input per shape, or the user's own.

    Raises `UsageError` where a shape does not fit, or nothing that was tried is accepted.
    """
    graph = sources.load(model)
    ports = interface(graph)
    if given is not None:
        return list(files.load(given, ports))
    own = {value.name: value for value in graph.graph.inputs}
    roles = [role(own[port.name]) for port in ports.inputs]
    found: list[Case] = []
    for sizes in sweep(model, ports, shapes):
        why = ""
        for binding in _bindings(attempts(symbols(ports.inputs)), sizes):
            case = synthesize(ports.inputs, roles, binding, QUICK[0], seed)
            try:
                runtime.run(session, case.feeds)
            except runtime.Rejected as error:
                why = why or str(error)
            else:
                found.append(case)
                break
        else:
            raise UsageError(f"{model}: no input that was tried is accepted (give it --inputs): {why}")
    return found


def _bindings(candidates: Iterator[Binding], sizes: Mapping[str, int]) -> Iterator[Binding]:
    """The candidates with the sizes that were asked for put in."""
    for binding in candidates:
        kept = tuple((name, size) for name, size in binding.sizes if name not in sizes)
        yield Binding(binding.name, (*sizes.items(), *kept))


def sweep(model: Path, ports: Interface, shapes: Shapes) -> list[dict[str, int]]:
    """The sizes of free dimensions, one set per shape; inputs with several shapes have equally many.

    Raises `UsageError` where a name, a rank or a static size does not fit.
    """
    inputs = {port.name: port for port in ports.inputs}
    if unknown := sorted(shapes.keys() - inputs.keys()):
        raise UsageError(f"{model} has no input `{unknown[0]}`; it has {', '.join(inputs) or 'none'}")
    counts = {len(listed) for listed in shapes.values()}
    if len(counts - {1}) > 1:
        raise UsageError("inputs with several shapes need equally many of them")
    found = []
    for number in range(max(counts, default=1)):
        sizes: dict[str, int] = {}
        for name, listed in shapes.items():
            _bind(model, inputs[name], listed[number if len(listed) > 1 else 0], sizes)
        found.append(sizes)
    return found


def _bind(model: Path, port: Port, shape: Sequence[int], sizes: dict[str, int]) -> None:
    """Add the sizes that make the input `port` this shape."""
    written = "x".join(map(str, shape))
    if port.shape is not None and len(port.shape) != len(shape):
        raise UsageError(f"{model}: input `{port.name}` has {len(port.shape)} dimensions, {written} has {len(shape)}")
    for axis, size in enumerate(shape):
        dimension = None if port.shape is None else port.shape[axis]
        if isinstance(dimension, int):
            if dimension != size:
                raise UsageError(f"{model}: dimension {axis} of input `{port.name}` is always {dimension}, not {size}")
            continue
        name = dimension or f"{port.name}[{axis}]"
        if sizes.setdefault(name, size) != size:
            raise UsageError(f"{model}: `{name}` cannot be both {sizes[name]} and {size} (input `{port.name}`)")


def described(case: Case) -> str:
    """The shapes of all inputs, on one line."""
    return ", ".join(f"{name} {'x'.join(map(str, array.shape)) or 'scalar'}" for name, array in case.feeds.items())
