"""Real architectures: every norm that is recognized in them, by kind, axes and epsilon, and every reduction that is none.

The rows are counted from the definitions in models/*.py and in transformers, not copied from what comes out. They do
not depend on the exporter: one row stands for all spellings of a model, and `DIFFERENT` says where exporters differ.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import normswap
from tests.graphs import AGREEMENT, disagreement, run
from tests.inspected import inspected
from tests.test_models import EXPORTED as EXPORTED_FILES
from tests.test_models import OTHER, SMALL, nodes
from tests.test_real_models import feeds, fetched, promoted

Fact = tuple[str, tuple[int, ...], float, int, str, str]  # kind, axes, epsilon, groups, scale, bias


@dataclass(frozen=True)
class Row:
    """How often each norm is there, and how many reductions are none, by reason."""

    norms: Counter[Fact]
    others: Counter[str]


def norms(count: int, kind: str, axes: tuple[int, ...], epsilon: float, *, groups: int = 1, parts: str = "") -> Row:
    """Some norms that are alike; `parts` are their scale and bias, if they are not those of their kind."""
    usual = (
        "constant none"
        if kind in ("RMSNorm", "ScaleNorm", "PartialRMSNorm", "Affine", "WeightNorm")
        else ("none none" if kind == "L2Norm" else "constant constant")
    )
    scale, bias = (parts or usual).split()
    return Row(Counter({(kind, axes, epsilon, groups, scale, bias): count}), Counter())


def none(count: int, reason_id: str) -> Row:
    """Some reductions that are no norm, for this reason."""
    return Row(Counter(), Counter({reason_id: count}))


def row(*parts: Row) -> Row:
    """All of them."""
    found, others = Counter[Fact](), Counter[str]()
    for part in parts:
        found.update(part.norms)
        others.update(part.others)
    return Row(found, others)


TOKENS, LAST_OF_IMAGES, SPACE = (2,), (3,), (2, 3)
MEAN_TOKEN = none(1, "not-a-norm")  # the mean of all tokens or pixels, for a classifier or as an embedding
POOLED = none(1, "not-a-norm")
# Two layers with a norm before attention and one before the MLP, and one in the end.
TWO_LAYERS = 2 * 2 + 1
LAYER_SCALES = norms(2 * 2, "Affine", TOKENS, 0.0)  # one on either branch of two layers

GROUP_NORMS = row(  # of the residual block, and between the others
    norms(1, "GroupNorm", (1, 2, 3), 1e-5, groups=4),
    norms(1, "GroupNorm", (1, 2, 3), 1e-6, groups=6),
    norms(1, "InstanceNorm", SPACE, 1e-5),  # as many groups as channels
)
DECODER_GEMMA3 = row(  # before and after either branch, in the end; of queries and keys [batch, head, token, channel]
    norms(4 + 1, "RMSNorm", TOKENS, 1e-6), norms(2, "RMSNorm", (3,), 1e-6)
)
STYLE = norms(3, "InstanceNorm", SPACE, 1e-5, parts="runtime runtime")
PARTIAL = norms(2 * 2, "PartialRMSNorm", TOKENS, 1e-5)
VOCODER = row(norms(2, "LayerNorm", (1,), 1e-5), norms(1, "LayerNorm", (1,), 1e-4))

# By model, whoever exported it; epsilons are the defaults of transformers where models/*.py gives none.
MODELS: dict[str, Row] = {
    "beit": row(norms(4, "LayerNorm", TOKENS, 1e-12), norms(1, "LayerNorm", (1,), 1e-12), LAYER_SCALES, MEAN_TOKEN),
    "bert": norms(1 + 2 * 2, "LayerNorm", TOKENS, 1e-12),
    "bloom": norms(1 + TWO_LAYERS, "LayerNorm", TOKENS, 1e-5),
    # The last norm is that of the class token alone.
    "clip_vision": row(norms(1 + 2 * 2, "LayerNorm", TOKENS, 1e-5), norms(1, "LayerNorm", (1,), 1e-5)),
    # Channels first in the stem and before the second stage; last in the three blocks; of pooled channels in the end.
    "convnext": row(
        norms(2, "LayerNorm", (1,), 1e-6),
        norms(3, "LayerNorm", LAST_OF_IMAGES, 1e-6),
        norms(1, "LayerNorm", (1,), 1e-12),
        norms(3, "Affine", LAST_OF_IMAGES, 0.0),
        POOLED,
    ),
    "convnext_authors": row(
        norms(2 + 1, "LayerNorm", (1,), 1e-6),
        norms(2, "LayerNorm", LAST_OF_IMAGES, 1e-6),
        norms(2, "Affine", LAST_OF_IMAGES, 0.0),
        POOLED,
    ),
    "deit": norms(TWO_LAYERS, "LayerNorm", TOKENS, 1e-12),
    "dinov2": row(norms(TWO_LAYERS, "LayerNorm", TOKENS, 1e-6), LAYER_SCALES, MEAN_TOKEN),
    "gpt2": norms(TWO_LAYERS, "LayerNorm", TOKENS, 1e-5),
    "gpt2_cache": norms(TWO_LAYERS, "LayerNorm", TOKENS, 1e-5),
    "gpt2_inputs_embeds": norms(TWO_LAYERS, "LayerNorm", TOKENS, 1e-5),
    # OPT puts the tokens of all rows in one line before the norm of its MLP.
    "opt": row(norms(2 + 1, "LayerNorm", TOKENS, 1e-5), norms(2, "LayerNorm", (1,), 1e-5)),
    # After the patches, in four blocks, at the merging, in the end.
    "swin": row(norms(1 + 4 * 2 + 1 + 1, "LayerNorm", TOKENS, 1e-5), POOLED),
    "vit": norms(TWO_LAYERS, "LayerNorm", TOKENS, 1e-12),
    # One layer in the encoder, two in the decoder, which have cross-attention; and one in the end of each.
    "whisper": norms(2 + 1 + 2 * 3 + 1, "LayerNorm", TOKENS, 1e-5),
    "llama": norms(TWO_LAYERS, "RMSNorm", TOKENS, 1e-6),
    "llama_half": norms(TWO_LAYERS, "RMSNorm", TOKENS, 1e-6),
    # Encoder: attention, MLP, end. Decoder: attention, cross-attention, MLP, end.
    "t5": norms(3 + 4, "RMSNorm", TOKENS, 1e-6),
    "t5_half": norms(3 + 4, "RMSNorm", TOKENS, 1e-6),
    "gemma2": norms(4 + 1, "RMSNorm", TOKENS, 1e-6),
    "gemma3": DECODER_GEMMA3,
    "gemma3_half": DECODER_GEMMA3,
    "gemma3_unevaluated": DECODER_GEMMA3,
    "qwen3": row(norms(2 + 1, "RMSNorm", TOKENS, 1e-6), norms(2, "RMSNorm", (3,), 1e-6)),
    # An InstanceNorm in Reshapes: of one group it is a LayerNorm of the whole image; the last has no parameters.
    "group_norm": row(
        GROUP_NORMS,
        norms(1, "LayerNorm", (1, 2, 3), 1e-5),
        norms(1, "GroupNorm", (1, 2, 3), 1e-5, groups=3, parts="none none"),
    ),
    "vocoder": VOCODER,
    "dit": norms(TWO_LAYERS, "LayerNorm", TOKENS, 1e-6, parts="runtime runtime"),
    "stylegan": row(STYLE, norms(1, "RMSNorm", (1,), 1e-8, parts="none none")),
    # The sample variance of 8 × 8 pixels: ε · 63/64. The style's own mean and variance normalize nothing of its own:
    # its variance (two reductions, of x and of its deviation) and its mean go to the content.
    "adain": row(
        norms(1, "InstanceNorm", SPACE, float(f"{np.float32(1e-5) * 63 / 64:.5g}"), parts="runtime runtime"),
        *(none(1, reason_id) for reason_id in ("center-only", "other-value", "not-a-norm")),
    ),
    "ln_lstm": norms(4 * 3, "LayerNorm", (1,), 1e-5),
    "ln_lstm_loop": norms(3, "LayerNorm", (1,), 1e-5),  # once, in the body
    "scale_norm": row(
        norms(TWO_LAYERS, "ScaleNorm", TOKENS, 1e-5),
        norms(2 * 2, "L2Norm", (3,), 1e-12),  # queries and keys of two layers
        norms(1, "L2Norm", (1,), 1e-12),  # the embedding
        MEAN_TOKEN,
    ),
    "power_norm": norms(2 * 2, "PowerNorm", TOKENS, 1e-5, groups=4),
    "partial_rms_norm": row(PARTIAL, norms(1, "PartialRMSNorm", TOKENS, 1e-8)),
}
# Where exporters write something else.
DIFFERENT: dict[str, Row] = {
    # It folds LayerNorm's unit parameters, but writes those of a GroupNorm, as its operator wants some.
    "group_norm_dynamo18": row(
        GROUP_NORMS,
        norms(1, "LayerNorm", (1, 2, 3), 1e-5),
        norms(1, "GroupNorm", (1, 2, 3), 1e-5, groups=3),
    ),
    # The operator says GroupNorm, where a LayerNorm of all channels and pixels is the same function.
    "group_norm_dynamo21": row(
        GROUP_NORMS,
        norms(1, "GroupNorm", (1, 2, 3), 1e-5),
        norms(1, "GroupNorm", (1, 2, 3), 1e-5, groups=3),
    ),
    # It takes an epsilon of up to 1e-8 for nothing (models/README.md).
    "stylegan_dynamo18": row(STYLE, norms(1, "RMSNorm", (1,), 0.0, parts="none none")),
    "partial_rms_norm_dynamo18": row(PARTIAL, norms(1, "PartialRMSNorm", TOKENS, 0.0)),
    # Constant folding is off: two in the gated layer, one in front of and one in the residual branch of the generator.
    "vocoder_torchscript17": row(VOCODER, norms(4, "WeightNorm", (1, 2), 0.0)),
}
# Of pretrained models: tokens of 120 channels in two layers, with another epsilon in the end; BatchNorm that Conv does not
# take in; what a squeeze-and-excite gate or a classifier pools. silero-vad has no norm: it takes a mean over time.
WHEELS = {
    "ch_PP-OCRv4_rec_infer.onnx": row(
        norms(2 * 2, "LayerNorm", TOKENS, 1e-5),
        norms(1, "LayerNorm", TOKENS, 1e-6),
        norms(6, "BatchNorm", (1,), 1e-5),
        none(2, "not-a-norm"),
    ),
    "ch_PP-OCRv4_det_infer.onnx": row(norms(3, "BatchNorm", (1,), 1e-5), none(10, "not-a-norm")),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": row(norms(35, "BatchNorm", (1,), 1e-5), none(10, "not-a-norm")),
    # What divides the exponentials of a softmax is no norm.
    "magika_standard_v3_3.onnx": row(norms(2, "LayerNorm", (1,), 1e-6), none(1, "not-a-norm")),
    "silero_vad.onnx": none(2, "not-a-norm"),  # one in each branch of an If
    "silero_vad_16k_op15.onnx": none(1, "not-a-norm"),
    "silero_vad_16k_sequence.onnx": row(),
    "silero_vad_half.onnx": none(1, "not-a-norm"),
    "silero_vad_op18_ifless.onnx": none(2, "not-a-norm"),
    "silero_vad_openvino_16k.onnx": none(1, "not-a-norm"),
}
OF_CONSTANTS = {"Affine", "WeightNorm"}  # which no norm operator writes
NAMES = [
    name.removesuffix(".onnx") for name, cells in (EXPORTED_FILES | OTHER).items() if "BatchNorm" not in cells["norms"]
]
# One of each architecture whose norms onnx has operators for, which onnxruntime runs in float64.
STANDARD = [
    "convnext_authors_torchscript14",
    "dit_torchscript14",
    "gemma3_half_dynamo18",
    "ln_lstm_loop_torchscript14",
    "stylegan_dynamo18",
    "t5_dynamo18",
    "vocoder_torchscript17",
]
small = pytest.mark.parametrize("name", NAMES)


def expected(name: str) -> Row:
    return DIFFERENT.get(name) or MODELS[re.sub(r"_(dynamo|torchscript)\d+$", "", name)]


def recognized(path: Path) -> Row:
    """What is recognized in a file; epsilons to five digits, as they are given."""
    found = inspected(path)
    facts = (
        (item.kind, item.axes, float(f"{item.epsilon:.5g}"), item.groups, item.scale, item.bias) for item in found.norms
    )
    return Row(Counter(facts), Counter(item.reason_id for item in found.unrecognized))


def test_every_row_is_of_a_model() -> None:
    assert DIFFERENT.keys() <= set(NAMES)
    assert MODELS.keys() == {re.sub(r"_(dynamo|torchscript)\d+$", "", name) for name in NAMES}


@small
def test_every_norm_is_recognized_and_nothing_else(name: str) -> None:
    assert recognized(SMALL[f"{name}.onnx"]) == expected(name)


@pytest.mark.parametrize("name", OTHER)
def test_the_readme_counts_what_is_to_be_recognized(name: str) -> None:
    kinds = Counter[str]()
    for fact, count in expected(name.removesuffix(".onnx")).norms.items():
        kinds[fact[0]] += count
    described = re.findall(r"(\d+) (\w+)", OTHER[name]["norms"].partition(":")[0])
    assert {kind: int(count) for count, kind in described} == kinds


@pytest.mark.parametrize("name", STANDARD)
def test_every_norm_is_written_as_an_operator_and_the_function_stays_the_same(name: str) -> None:
    model = promoted(onnx.load(SMALL[f"{name}.onnx"]))
    result = normswap.convert(model, "standard", check=False)
    assert isinstance(result.model, onnx.ModelProto)
    assert result.refused == ()
    operators = sum(node.op_type.endswith("Normalization") for node in nodes(result.model.graph))
    assert operators == sum(count for fact, count in expected(name).norms.items() if fact[0] not in OF_CONSTANTS)
    given = feeds(model)
    with np.errstate(divide="ignore", invalid="ignore"):  # T5 takes the logarithm of distances before it looks at them
        assert max(disagreement(run(model, given), run(result.model, given)).values()) < AGREEMENT


@pytest.mark.network
@pytest.mark.parametrize("name", WHEELS)
def test_a_pretrained_model_is_recognized(name: str) -> None:
    assert recognized(fetched(name)) == WHEELS[name]
