"""Real architectures: how far each is converted, with what, and that the function stays, in float64, to rounding."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import normswap
from models import wheels
from tests.graphs import AGREEMENT, Array, disagreement, run
from tests.test_models import SMALL, rows

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
SIZES = {"batch": 2, "sequence": 7, "past": 3, "height": 6, "width": 10}
IDS = 97  # the smallest vocabulary


@dataclass(frozen=True)
class Row:
    """LayerNorms before, RMSNorms after, explicit Centers, scales moved up, and why the rest was refused."""

    before: int
    after: int
    centers: int = 0
    scales: int = 0
    refused: tuple[tuple[str, int], ...] = ()


POST_NORM = Row(5, 1, refused=(("post-norm", 4),))
GOLDEN = {
    "beit_torchscript17": Row(5, 5, scales=4),
    "bert_dynamo18": POST_NORM,
    "bert_torchscript14": POST_NORM,
    "bloom_dynamo18": Row(6, 6, centers=1),
    "clip_vision_dynamo18": Row(6, 6, centers=1),
    "convnext_dynamo18": Row(6, 1, refused=(("foreign-reader", 2), ("grouped-weights", 3))),
    "deit_dynamo18": Row(5, 5),
    "dinov2_dynamo18": Row(5, 5, scales=4),
    "gpt2_cache_dynamo18": Row(5, 5),
    "gpt2_dynamo18": Row(5, 5),
    "gpt2_dynamo23": Row(5, 5),
    "gpt2_inputs_embeds_dynamo18": Row(5, 5, centers=1),
    "gpt2_torchscript14": Row(5, 5),
    "gpt2_torchscript17": Row(5, 5),
    "llama_dynamo18": Row(0, 0),
    "llama_dynamo23": Row(0, 0),
    "opt_dynamo18": Row(5, 5),
    "swin_dynamo18": Row(11, 6, refused=(("coarser-groups", 1), ("foreign-reader", 4))),
    "vit_dynamo18": Row(5, 5),
    "vit_torchscript14": Row(5, 5),
    "vit_torchscript17": Row(5, 5),
    "whisper_dynamo18": Row(10, 10, centers=2),
}
WHEELS = {name: Row(0, 0) for name in wheels.MODELS} | {
    "ch_PP-OCRv4_rec_infer.onnx": Row(5, 5, centers=1),
    "magika_standard_v3_3.onnx": Row(2, 0, refused=(("does-not-commute", 2),)),
}
# In float64 a copy weighs twice as much, which turns no decision here, and casts that are left do nothing.
small = pytest.mark.parametrize("name", GOLDEN)


def row(path: Path) -> Row:
    """What `--to rmsnorm` makes of a file."""
    result = normswap.convert(path, "rmsnorm", check=False)
    rules = Counter(rewrite.rule for rewrite in result.rewrites)
    refused = Counter(refusal.reason_id for refusal in result.refused)
    kinds = result.before.norms, result.after.norms
    before = kinds[0].get("LayerNorm", 0)
    after = before - kinds[1].get("LayerNorm", 0)
    assert (
        kinds[1].get("RMSNorm", 0)
        == kinds[0].get("RMSNorm", 0) + after
        == kinds[0].get("RMSNorm", 0) + rules["center-up"]
    )
    centers, scales = rules["center-up/explicit"], rules["scale-up"]
    return Row(before, after, centers, scales, tuple(sorted(refused.items())))


def test_every_small_model_has_a_row() -> None:
    described = rows("Exported")
    assert {f"{name}.onnx" for name in GOLDEN} == {
        name for name, cells in described.items() if "BatchNorm" not in cells["norms"]
    }


@small
def test_it_is_converted_as_far_as_its_architecture_allows(name: str) -> None:
    assert row(SMALL[f"{name}.onnx"]) == GOLDEN[name]


@small
def test_the_golden_row_is_what_the_architecture_has(name: str) -> None:
    described, golden = rows("Exported")[f"{name}.onnx"]["norms"], GOLDEN[name]
    total = re.match(r"(\d+) LayerNorm", described)
    assert golden.before == (int(total[1]) if total else 0)
    assert golden.after + sum(count for _, count in golden.refused) == golden.before
    promised = re.search(r"(\d+) of (\d+)", described)
    if promised:
        assert (golden.after, golden.before) == (int(promised[1]), int(promised[2]))
    if "4 refused" in described:
        assert sum(count for _, count in golden.refused) == 4


@pytest.mark.network
@pytest.mark.parametrize("name", WHEELS)
def test_a_pretrained_model_is_converted_as_far_as_it_goes(name: str) -> None:
    assert row(fetched(name)) == WHEELS[name]


def fetched(name: str) -> Path:
    try:
        return wheels.fetch(name)
    except wheels.Unreachable as error:
        pytest.skip(str(error))


# --- in float64 -----------------------------------------------------------------------------------------------------


def promoted(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` that computes in float64 throughout."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _promote(copy.graph)
    return copy


def _promote(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros in float32
            _set(node, "value", numpy_helper.from_array(np.zeros(1)))
        if node.op_type == "GroupNormalization":  # its definition computes in this type
            _set(node, "stash_type", int(TensorProto.DOUBLE))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _promote(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                array = np.asarray(onnx.helper.get_attribute_value(attribute), dtype=np.float64)
                attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))


def _set(node: onnx.NodeProto, name: str, value: object) -> None:
    others = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, onnx.helper.make_attribute(name, value)])


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in FLOATS:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def feeds(model: onnx.ModelProto) -> dict[str, Array]:
    """Inputs for an exported model: ids of its vocabulary, positions in order, nothing masked, floats with a mean."""
    random = np.random.default_rng(0)
    result: dict[str, Array] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        sizes = [dim.dim_value or SIZES.get(dim.dim_param) for dim in kind.shape.dim]
        shape = [
            size or sum(SIZES[part] for part in dim.dim_param.split(" + "))
            for size, dim in zip(sizes, kind.shape.dim, strict=True)
        ]
        if kind.elem_type == TensorProto.DOUBLE:
            result[value.name] = random.normal(0.3, 1.0, shape)
        elif value.name == "attention_mask":
            result[value.name] = np.ones(shape, dtype=np.int64)
        elif value.name == "position_ids":
            result[value.name] = np.array(np.broadcast_to(np.arange(shape[1]), shape))
        else:
            result[value.name] = random.integers(0, IDS, shape)
    return result


@small
def test_in_float64_the_function_stays_the_same(name: str) -> None:
    model = promoted(onnx.load(SMALL[f"{name}.onnx"]))
    result = normswap.convert(model, "rmsnorm", check=False)
    assert isinstance(result.model, onnx.ModelProto)
    given = feeds(model)
    before, after = run(model, given), run(result.model, given)
    assert {output: error for output, error in disagreement(before, after).items() if error > AGREEMENT} == {}
    assert result.before.norms.get("LayerNorm", 0) - result.after.norms.get("LayerNorm", 0) == GOLDEN[name].after


@pytest.mark.network
def test_in_float64_the_pretrained_recognizer_stays_the_same() -> None:
    model = promoted(onnx.load(fetched("ch_PP-OCRv4_rec_infer.onnx")))
    result = normswap.convert(model, "rmsnorm", check=False)
    assert isinstance(result.model, onnx.ModelProto)
    assert result.after.norms == {"RMSNorm": 5, "BatchNorm": 6}
    image = {model.graph.input[0].name: np.random.default_rng(1).normal(0.1, 0.5, (1, 3, 48, 64))}
    before, after = run(model, image), run(result.model, image)
    assert max(disagreement(before, after).values()) < AGREEMENT
