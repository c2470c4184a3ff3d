"""The `light_*` models inside the onnx package, with weights: `python -m models.light` lists them.

`python -m models.light NAME FILE` writes one. The fills are initializers there: it has fewer nodes than the original.

They are ImageNet classifiers whose weights the package has replaced by fills of one constant. Here each weight is drawn
from a seed, and the statistics of every BatchNorm are measured on a random image, so that no activation explodes,
vanishes or is the same in all channels.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

FOLDER = Path(onnx.__file__).resolve().parent / "backend" / "test" / "data" / "light"
PREFIX = "light_"

# Trained statistics never match one image: how far the drawn ones are off, in standard deviations and as a factor.
MEAN_OFFSET = 0.2
VARIANCE_FACTOR = (0.5, 1.5)
SMALLEST_VARIANCE = 1e-3  # of a channel that is the same everywhere
LOGITS = 0.1  # the factor on the weights of Gemm, for a Softmax behind it that is not saturated

Array = npt.NDArray[np.float32]


def names() -> list[str]:
    """What `filled` can be given."""
    return sorted(path.stem.removeprefix(PREFIX) for path in FOLDER.glob(f"{PREFIX}*.onnx"))


def filled(name: str) -> onnx.ModelProto:
    """A model with plain initializers of its own, of IR version 3 like the original: each is an input, too."""
    model = onnx.load(FOLDER / f"{PREFIX}{name}.onnx")
    shapes = _take_fills(model.graph)
    readers = {value: reader for value, reader in _readers(model.graph) if value in shapes}
    for value, shape in shapes.items():
        tensor = numpy_helper.from_array(_drawn(value, shape, *readers.get(value, ("", 0))), value)
        model.graph.initializer.append(tensor)
        model.graph.input.append(helper.make_tensor_value_info(value, tensor.data_type, shape))
    _measure_statistics(model)
    onnx.checker.check_model(model)
    return model


def batch_norms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Every BatchNormalization."""
    return [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def image(model: onnx.ModelProto) -> dict[str, Array]:
    """A random image for the inputs that are no initializers."""
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in model.graph.input
        if value.name not in weights
    }
    return {name: _random(name).normal(0.3, 1.0, shape).astype(np.float32) for name, shape in shapes.items()}


def _take_fills(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Remove every float weight, and say which shape it had."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fills = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    shapes = {node.output[0]: arrays[node.input[0]].tolist() for node in fills}
    shapes |= {name: list(array.shape) for name, array in arrays.items() if array.dtype == np.float32}
    gone = {*shapes, *(node.input[0] for node in fills)}
    for node in fills:
        graph.node.remove(node)
    for field in (graph.initializer, graph.input):
        kept = [entry for entry in field if entry.name not in gone]
        del field[:]
        field.extend(kept)
    return shapes


def _readers(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[str, int]]]:
    """Each value with an operator that reads it, and as which input; Unsqueeze hands on what it reads."""
    origins = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Unsqueeze"}
    for node in graph.node:
        for index, value in enumerate(node.input):
            if node.op_type != "Unsqueeze":
                yield origins.get(value, value), (node.op_type, index)


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def _drawn(name: str, shape: list[int], reader: str, index: int) -> Array:
    random = _random(name)
    if len(shape) > 1:  # He et al. 2015: keeps the size of activations through Conv and Relu
        deviation = np.sqrt(2 / np.prod(shape[1:])) * (LOGITS if reader == "Gemm" else 1.0)
        return random.normal(0.0, deviation, shape).astype(np.float32)
    if (reader, index) in (("BatchNormalization", 1), ("Mul", 1)):  # gains: about one in eight is negative
        signs = np.where(random.uniform(size=shape) < 1 / 8, -1, 1)
        return (random.normal(1.0, 0.2, shape) * signs).astype(np.float32)
    return random.normal(0.1, 0.2, shape).astype(np.float32)


def _measure_statistics(model: onnx.ModelProto) -> None:
    """Give each BatchNorm statistics near those of its input.

    Of one image, BatchNorm with its own statistics is InstanceNormalization: with these in place one run gives the
    statistics of all.
    """
    norms = batch_norms(model)
    if not norms:
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for node in batch_norms(probe):
        node.op_type = "InstanceNormalization"
        del node.input[3:]
        del node.attribute[:]
    nodes = list(probe.graph.node)
    del probe.graph.node[:]
    wanted = {node.input[0] for node in norms}
    for node in nodes:
        probe.graph.node.append(node)
        for value in wanted.intersection(node.output):
            square, mean, mean_square = (f"{value}/{kind}" for kind in ("square", "mean", "mean_square"))
            probe.graph.node.append(helper.make_node("Mul", [value, value], [square]))
            for source, result in ((value, mean), (square, mean_square)):
                probe.graph.node.append(helper.make_node("ReduceMean", [source], [result], axes=[0, 2, 3], keepdims=0))
                probe.graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    measured = dict(zip([value.name for value in session.get_outputs()], session.run(None, image(model)), strict=True))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in norms:
        value, mean_name, variance_name = node.input[0], *node.input[3:5]
        mean = measured[f"{value}/mean"]
        variance = np.maximum(measured[f"{value}/mean_square"] - mean**2, SMALLEST_VARIANCE)
        offset = _random(mean_name).normal(0.0, MEAN_OFFSET, mean.shape) * np.sqrt(variance)
        factor = _random(variance_name).uniform(*VARIANCE_FACTOR, variance.shape)
        for name, statistic in ((mean_name, mean + offset), (variance_name, variance * factor)):
            tensors[name].CopyFrom(numpy_helper.from_array(statistic.astype(np.float32), name))


def main() -> None:
    """Write the model that is named, or list them all with their BatchNorms."""
    if len(sys.argv) == 3:
        onnx.save(filled(sys.argv[1]), sys.argv[2])
        return
    for name in names():
        model = onnx.load(FOLDER / f"{PREFIX}{name}.onnx")
        print(f"{name:16} {len(model.graph.node):5} nodes  {len(batch_norms(model)):4} BatchNorm")


if __name__ == "__main__":
    main()
