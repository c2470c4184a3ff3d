"""Models with BatchNorm: how many are folded, why the others stay, and that the function is the same in float64."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest

import normswap
from models import light
from tests.graphs import AGREEMENT, disagreement, run
from tests.test_models import SMALL, nodes, rows
from tests.test_real_models import feeds, fetched, promoted


@dataclass(frozen=True)
class Row:
    """BatchNormalizations before and after, and why the norms that stay were refused."""

    before: int
    after: int
    refused: tuple[tuple[str, int], ...] = ()


GOLDEN = {
    "bn_lstm_torchscript17": Row(1, 0),
    "densenet_torchscript17": Row(15, 8, (("foreign-reader", 7), ("negative-scale", 1))),
    "mobilenet_torchscript17": Row(11, 0),
    "nfnet_torchscript17": Row(7, 0),
    "preact_resnet_torchscript17": Row(7, 3, (("foreign-reader", 4),)),
    "recurrent_bn_loop_torchscript17": Row(2, 0),
    "recurrent_bn_per_step_torchscript17": Row(12, 4, (("elementwise-scale", 1), ("foreign-reader", 3))),
    "recurrent_bn_torchscript17": Row(12, 4, (("elementwise-scale", 1), ("foreign-reader", 3))),
    "repvgg_torchscript17": Row(10, 0),
    "resnet_torchscript17": Row(8, 0),
    "unet_torchscript17": Row(12, 0),
    "vit_bn_torchscript17": Row(4, 0),
}
WHEELS = {
    "ch_PP-OCRv4_det_infer.onnx": Row(3, 0),
    "ch_PP-OCRv4_rec_infer.onnx": Row(6, 0),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": Row(35, 0),
}
small = pytest.mark.parametrize("name", GOLDEN)


def row(model: onnx.ModelProto) -> Row:
    """What `--to folded` makes of a model."""
    result = normswap.convert(model, "folded", check=False)
    assert isinstance(result.model, onnx.ModelProto)
    before, after = (
        Counter(node.op_type for node in nodes(one.graph))["BatchNormalization"] for one in (model, result.model)
    )
    return Row(before, after, tuple(sorted(Counter(refusal.reason_id for refusal in result.refused).items())))


def test_every_small_model_with_batch_norm_has_a_row() -> None:
    described = rows("Exported")
    assert {f"{name}.onnx" for name in GOLDEN} == {
        name for name, cells in described.items() if "BatchNorm" in cells["norms"]
    }


@small
def test_it_is_folded_as_far_as_its_architecture_allows(name: str) -> None:
    assert row(onnx.load(SMALL[f"{name}.onnx"])) == GOLDEN[name]


@small
def test_the_golden_row_is_what_the_architecture_has(name: str) -> None:
    described, golden = rows("Exported")[f"{name}.onnx"]["norms"], GOLDEN[name]
    assert described.startswith(f"{golden.before} BatchNorm")
    promised = re.search(r"(\d+) of (\d+)", described)
    if promised:
        assert (golden.before - golden.after, golden.before) == (int(promised[1]), int(promised[2]))


@small
def test_in_float64_the_function_stays_the_same(name: str) -> None:
    model = promoted(onnx.load(SMALL[f"{name}.onnx"]))
    result = normswap.convert(model, "folded", check=False)
    assert isinstance(result.model, onnx.ModelProto)
    given = feeds(model)
    before, after = run(model, given), run(result.model, given)
    assert {output: error for output, error in disagreement(before, after).items() if error > AGREEMENT} == {}


@pytest.mark.network
@pytest.mark.parametrize("name", WHEELS)
def test_a_pretrained_model_is_folded(name: str) -> None:
    assert row(onnx.load(fetched(name))) == WHEELS[name]


def test_a_shuffle_net_that_nobody_here_built_is_folded() -> None:
    assert row(light.filled("shufflenet")) == Row(49, 0)


def test_filled_weights_make_outputs_that_depend_on_the_image() -> None:
    model = light.filled("shufflenet")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = light.image(model)
    (first,), (second,) = (session.run(None, {key: k * image for key, image in given.items()}) for k in (1.0, 0.5))
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 0.01
    assert first.max() < 0.9  # a Softmax that is saturated would hide errors
