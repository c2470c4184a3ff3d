"""A small pair of models that fails the check: what computes the first divergence, from values that still agree.

The inputs are the original's own values. Where the converted model has them centered, its part begins with a Center;
integers and booleans, most of them shapes and masks, are constants of both parts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from normswap.bisect.divergence import Divergence
from normswap.bisect.relation import Axes
from normswap.errors import UsageError, WriteError
from normswap.model import open_model, save
from normswap.reference import Array

ORIGINAL, CONVERTED, INPUTS, README = "original.onnx", "converted.onnx", "inputs.npz", "README.txt"
TITLE = "A minimal reproducer, written by normswap"
COMMAND = f"normswap check {ORIGINAL} {CONVERTED} --inputs {INPUTS}"


class Unwritable(Exception):
    """The values cannot be the inputs of a model of their own; the message says why."""


def build(divergence: Divergence, folder: Path) -> tuple[Path, Path]:
    """Write both parts, and their inputs, into `folder`; the parts' files. Raises `Unwritable`."""
    pair, own = divergence.observation.pair, divergence.observation.own
    given = divergence.observation.case.feeds
    arrays = {name: np.asarray(given[name] if name in given else own.read(name)) for name in divergence.agree}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise Unwritable(f"`{name}` is {array.dtype}, which no .npz file holds")
    inputs = {name: array for name, array in arrays.items() if name in given or array.dtype.kind == "f"}
    inputs = inputs or arrays  # of a part that only looks something up, integers are what can vary
    if not inputs:
        raise Unwritable(f"`{divergence.first}` depends on no values that agree")
    paths = []
    for model, name, centers in (
        (pair.original.model, ORIGINAL, {divergence.first: divergence.axes} if divergence.axes else {}),
        (pair.converted.model, CONVERTED, {end: axes for end, axes in divergence.agree.items() if axes}),
    ):
        part = _part(model, divergence.first, arrays, set(inputs), centers)
        paths.append(folder / name)
        document = open_model(_typed(part, own.read(divergence.first)))
        save(document, document.model, paths[-1])
    np.savez(folder / INPUTS, **inputs)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options
    return paths[0], paths[1]


def _part(
    model: ir.Model, target: str, arrays: Mapping[str, Array], inputs: set[str], centers: Mapping[str, Axes]
) -> ir.Model:
    """The nodes of `model` between `arrays` and `target`, those in `centers` less their means.

    Of the arrays, `inputs` are inputs of the part, the others constants in it.
    """
    known = {value.name for value in model.graph.inputs} | {v.name for node in model.graph for v in node.outputs}
    graph = ir.convenience.extract(model.graph, [name for name in arrays if name in known], [target])
    graph.name = "reproducer"
    graph.metadata_props.clear()
    bound = {value.name or "": value for value in graph.inputs}
    graph.inputs.clear()
    for name, array in arrays.items():
        value = bound.get(name, ir.Value(name=name))
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
        if name not in inputs:
            value.const_value = ir.tensor(array, name=name)
            graph.register_initializer(value)
            continue
        graph.inputs.append(value)
        if name in centers:
            _center_input(graph, value, centers[name])
    if target in centers:
        value = graph.outputs[0]
        value.name = f"{target}/uncentered"
        nodes = _center(graph, value, target, centers[target])
        graph.extend(nodes)
        graph.outputs[0] = nodes[-1].outputs[0]
    return ir.Model(graph, ir_version=model.ir_version)


def _center_input(graph: ir.Graph, value: ir.Value, axes: Axes) -> None:
    readers = list(value.uses())
    nodes = _center(graph, value, f"{value.name}/centered", axes)
    for use in readers:
        use.node.replace_input_with(use.idx, nodes[-1].outputs[0])
    graph.insert_before(graph[0], nodes)


def _center(graph: ir.Graph, value: ir.Value, name: str, axes: Axes) -> list[ir.Node]:
    """Nodes, in no graph yet, that make a value called `name`: `value` less its mean."""
    attributes, operands = [ir.AttrInt64("keepdims", 1)], [value]
    if graph.opset_imports.get("", 1) < 18:  # from opset 18 on, axes are an input
        attributes.append(ir.AttrInt64s("axes", list(axes)))
    else:
        tensor = ir.tensor(np.asarray(axes, np.int64), name=f"{name}/axes")
        operands.append(ir.Value(name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype)))
        graph.register_initializer(operands[1])
    mean = ir.Node("", "ReduceMean", operands, attributes, outputs=[ir.Value(name=f"{name}/mean")])
    return [mean, ir.Node("", "Sub", [value, mean.outputs[0]], outputs=[ir.Value(name=name, type=value.type)])]


def _typed(part: ir.Model, own: Array) -> ir.Model:
    """The part with the type and rank of its output: what follows from the inputs', else the original's."""
    inferred = ShapeInferencePass()(part).model
    output = inferred.graph.outputs[0]
    if output.type is None:
        output.type = ir.TensorType(ir.DataType.from_numpy(own.dtype))
    if output.shape is None:
        output.shape = ir.Shape([None] * own.ndim)
    return inferred


def publish(built: Path, readme: str, destination: Path) -> None:
    """Move a built folder to `destination`, which is new or holds an older reproducer.

    Raises `UsageError` where it holds anything else, `WriteError` where it cannot be written.
    """
    names = (ORIGINAL, CONVERTED, f"{ORIGINAL}.data", f"{CONVERTED}.data", INPUTS, README)
    (built / README).write_text(readme, encoding="utf-8")
    try:
        if destination.exists() and not destination.is_dir():
            raise UsageError(f"{destination} is not a folder: name another with --reproduce")
        if destination.exists() and not _is_ours(destination, names):
            raise UsageError(f"{destination} holds other things than a reproducer: name another folder")
        destination.mkdir(exist_ok=True)
        for name in names:
            (destination / name).unlink(missing_ok=True)
        for file in built.iterdir():
            os.replace(file, destination / file.name)
    except OSError as error:
        raise WriteError(f"{destination}: not written ({error.strerror or error})") from error


def _is_ours(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder is empty, or holds an older reproducer and nothing else."""
    found = {file.name for file in folder.iterdir()}
    text = (folder / README).read_text(encoding="utf-8", errors="replace") if README in found else ""
    return not found or (found <= set(names) and text.startswith(TITLE))


def beside(destination: Path) -> TemporaryDirectory[str]:
    """A folder to build in, on the file system of `destination`, which vanishes whatever happens."""
    try:
        return TemporaryDirectory(prefix=".normswap-", dir=destination.parent)
    except OSError as error:
        raise WriteError(f"{destination}: not written ({error.strerror or error})") from error
