"""The first value that diverges, where an error was planted: in a small model, and in real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

import normswap
from normswap.bisect.divergence import Divergence, first_divergence
from normswap.bisect.observation import observe
from normswap.bisect.relation import Sight, agreement
from normswap.check import check
from tests.graphs import parsed, with_weights

MODELS = Path(__file__).parents[2] / "models" / "small"
HEAD = "<float[12,12] w, float[12] b, float[12] g, float[12] t, float[12,12] v, float[12,5] u>"
LAYER_NORM = f"""
g (float[N,S,12] x) => (float[N,S,5] y) {HEAD} {{
    h = MatMul(x, w) c = Add(h, b) n = LayerNormalization<axis = -1>(c, g, t)
    m = MatMul(n, v) a = Erf(m) s = Add(c, a) z = LayerNormalization<axis = -1>(s, g, t) y = MatMul(z, u)
}}"""
"""A residual stream from `c` on, which is read by two norms."""
RMS_NORM = LAYER_NORM.replace("n = Layer", "i = Layer").replace("z = Layer", "j = Layer")
RMS_NORM = RMS_NORM.replace("LayerNormalization<axis = -1>(c, g, t)", "RMSNormalization<axis = -1>(c, g) n = Add(i, t)")
RMS_NORM = RMS_NORM.replace("LayerNormalization<axis = -1>(s, g, t)", "RMSNormalization<axis = -1>(s, g) z = Add(j, t)")


def model(text: str) -> onnx.ModelProto:
    return parsed(text, opset=23, ir_version=10)


def weights() -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model(LAYER_NORM).graph.initializer}


def centered(array: np.ndarray) -> np.ndarray:
    return array - array.mean(axis=-1, keepdims=True)


def right(text: str = RMS_NORM) -> onnx.ModelProto:
    """The same with RMSNorms: the stream is centered, and so is what is added to it, by a product with I − 1/n."""
    text = text.replace("a = Erf(m)", "e = Erf(m) a = MatMul(e, center)").replace(
        "float[12,5] u", "float[12,5] u, float[12,12] center"
    )
    w = weights()
    return with_weights(model(text), w=centered(w["w"]), b=centered(w["b"]), center=centered(np.eye(12)))


def diverge(original: onnx.ModelProto | Path, converted: onnx.ModelProto | Path, folder: Path) -> Divergence | None:
    result = check(original, converted, quick=True)
    assert result.verdict == "fail"
    assert result.case is not None
    paths = [folder / "original.onnx", folder / "converted.onnx"]
    for path, given in zip(paths, (original, converted), strict=True):
        onnx.save(onnx.load(given) if isinstance(given, Path) else given, path)
    looks = observe(*paths, result.case, folder / "values", provider="cpu")
    return next((found for look in looks if (found := first_divergence(look)) is not None), None)


def test_a_right_rewrite_agrees_everywhere_though_its_stream_is_centered(tmp_path: Path) -> None:
    result = check(model(LAYER_NORM), right(), quick=True)
    assert result.verdict == "pass", result.reason
    assert result.case is None
    onnx.save(model(LAYER_NORM), tmp_path / "a.onnx")
    onnx.save(right(), tmp_path / "b.onnx")
    case = check(model(LAYER_NORM), model(RMS_NORM), quick=True).case
    assert case is not None
    for look in observe(tmp_path / "a.onnx", tmp_path / "b.onnx", case, tmp_path / "values", provider="cpu"):
        assert first_divergence(look) is None
        assert {name: look.agreement(name) for name in look.pair.names} == {
            **dict.fromkeys(("h", "c", "a", "s"), (2,)),
            **dict.fromkeys(("n", "m", "z", "y"), ()),
        }


PLANTED: Mapping[str, tuple[str, dict[str, str], str, tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    # name: (what is wrong, texts to replace, first, its axes, what agrees)
    "bias not centered": ("b", {}, "c", (2,), {"h": (2,)}),
    "weight not centered": ("w", {}, "c", (2,), {"h": ()}),
    "wrong constant": ("v", {}, "m", (), {"n": ()}),
    "ε": ("", {"RMSNormalization<axis = -1>(c": "RMSNormalization<axis = -1, epsilon = 0.01>(c"}, "n", (), {"c": (2,)}),
    "swapped Sub": ("", {"n = Add(i, t)": "n = Sub(t, i)"}, "n", (), {"c": (2,)}),
    "branch not centered": ("center", {}, "s", (2,), {"c": (2,), "a": ()}),
    "last norm": ("", {"z = Add(j, t)": "z = Sub(j, t)"}, "z", (), {"s": (2,)}),
    "head": ("u", {}, "y", (), {"z": ()}),
    "stream": ("", {"s = Add(c, a)": "s = Sub(c, a)"}, "s", (2,), {"c": (2,), "a": (2,)}),
}


@pytest.mark.parametrize("name", list(PLANTED))
def test_planted_errors(name: str, tmp_path: Path) -> None:
    wrong, texts, first, axes, agree = PLANTED[name]
    text = RMS_NORM
    for old, new in texts.items():
        assert old in text
        text = text.replace(old, new)
    changed = right(text)
    if wrong:
        spoiled = {**weights(), "center": np.eye(12), "v": 1.01 * weights()["v"], "u": 1.01 * weights()["u"]}
        changed = with_weights(changed, **{wrong: spoiled[wrong]})
    found = diverge(model(LAYER_NORM), changed, tmp_path)
    assert found is not None
    assert (found.first, found.axes, dict(found.agree)) == (first, axes, agree)
    assert found.observation.arithmetic == "float64"


def test_an_output_that_may_differ_is_a_value_like_others(tmp_path: Path) -> None:
    """Beside `y` the stream is delivered, centered, and that was accepted."""
    texts = [text.replace("float[N,S,5] y)", "float[N,S,5] y, float[N,S,12] s)") for text in (LAYER_NORM, RMS_NORM)]
    one, other = model(texts[0]), with_weights(right(texts[1]), u=1.01 * weights()["u"])
    onnx.save(one, tmp_path / "a.onnx")
    onnx.save(other, tmp_path / "b.onnx")
    unjudged = frozenset({"s"})
    case = check(one, other, quick=True, changed_outputs=unjudged).case
    assert case is not None
    looks = observe(tmp_path / "a.onnx", tmp_path / "b.onnx", case, tmp_path / "v", provider="cpu", unjudged=unjudged)
    found = first_divergence(next(looks))
    assert found is not None
    assert (found.first, dict(found.agree)) == ("y", {"z": ()})


def test_of_two_errors_the_first_is_found(tmp_path: Path) -> None:
    changed = with_weights(right(), v=1.01 * weights()["v"], u=0.99 * weights()["u"])
    found = diverge(model(LAYER_NORM), changed, tmp_path)
    assert found is not None
    assert found.first == "m"


def test_a_norm_that_is_not_centered_is_found_at_the_norm(tmp_path: Path) -> None:
    found = diverge(model(LAYER_NORM), model(RMS_NORM), tmp_path)
    assert found is not None
    assert (found.first, dict(found.agree)) == ("n", {"c": ()})


def test_overflow_shows_in_onnxruntime_only(tmp_path: Path) -> None:
    """e⁵⁰ squared is finite in float64, and infinite in float32."""
    text = "g (float[N] x) => (float[N] y) <float c = {{50.0}}> {{ a = Abs(x) b = Add(a, c) d = {} y = Log(d) }}"
    one, other = model(text.format("Exp(b)")), model(text.format("Exp(b) p = Mul(d, d) q = Mul(d, p) r = Div(q, p)"))
    other.graph.node[-1].input[0] = "r"
    found = diverge(one, other, tmp_path)
    assert found is not None
    assert found.observation.arithmetic == "onnxruntime"
    assert (found.first, dict(found.agree)) == ("y", {"d": ()})


def test_a_value_of_another_shape_diverges(tmp_path: Path) -> None:
    text = "g (float[2,2] x) => (float[M,2] y) {{ a = Neg(x) b = {} c = Abs(b) y = Sqrt(c) }}"
    found = diverge(model(text.format("Identity(a)")), model(text.format("Concat<axis = 0>(a, a)")), tmp_path)
    assert found is not None
    assert dict(found.agree) == {"a": ()}


def test_ids_diverge_exactly(tmp_path: Path) -> None:
    text = "g (float[N,9] x) => (float[N,4] y) <float[9,4] table> {{ {} i = ArgMax<axis = 1, keepdims = 0>(s) e = Gather(table, i) y = Erf(e) }}"
    found = diverge(model(text.format("s = Neg(x)")), model(text.format("s = Abs(x)")), tmp_path)
    assert found is not None
    assert (found.first, dict(found.agree)) == ("s", {"x": ()})


def damaged(path: Path, weight: str, folder: Path) -> Path:
    """A converted file with one percent more in one of its weights."""
    proto = onnx.load(path)
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == weight)
    array = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.01), weight))
    onnx.save(proto, folder / "damaged.onnx")
    return folder / "damaged.onnx"


REAL = {
    # model, target, weight: the first value, what agrees
    ("gpt2_dynamo18", "rmsnorm", "model.transformer.h.1.attn.c_proj.bias"): ("addmm_5", {"view_17": ()}),
    ("gpt2_dynamo18", "rmsnorm", "model.transformer.h.0.mlp.c_fc.weight"): ("addmm_2", {"add_268": (2,)}),
    ("convnext_dynamo18", "rmsnorm", "model.convnext.embeddings.patch_embeddings.bias"): (
        "conv2d",
        {"pixel_values": ()},
    ),
    ("resnet_torchscript17", "folded", "model.0.weight"): ("/model/model.2/Relu_output_0", {"pixel_values": ()}),
    ("vit_torchscript14", "folded", "onnx::MatMul_307"): (
        "/model/vit/layers.0/attention/k_proj/MatMul_output_0",
        {"/model/vit/embeddings/Add_output_0": ()},
    ),
}


@pytest.mark.parametrize("which", list(REAL), ids="-".join)
def test_one_damaged_weight_in_a_real_model(which: tuple[str, str, str], tmp_path: Path) -> None:
    name, target, weight = which
    source = MODELS / f"{name}.onnx"
    normswap.convert(source, target, check=False).save(tmp_path / "right.onnx")
    found = diverge(source, damaged(tmp_path / "right.onnx", weight, tmp_path), tmp_path)
    assert found is not None
    assert (found.first, dict(found.agree)) == REAL[which]


def sights() -> Iterator[tuple[np.ndarray, tuple[int, ...] | None]]:
    value = np.random.default_rng(0).normal(0.5, 1.0, (3, 4, 5))
    yield value, ()
    yield value - value.mean(axis=2, keepdims=True), (2,)
    yield value - value.mean(axis=1, keepdims=True), (1,)
    yield value - value.mean(axis=(1, 2), keepdims=True), (1, 2)
    yield value - value.mean(axis=0, keepdims=True), None  # over the batch
    yield 1.001 * value, None
    yield value[:2], None


@pytest.mark.parametrize(("seen", "axes"), list(sights()))
def test_agreement(seen: np.ndarray, axes: tuple[int, ...] | None) -> None:
    value = np.random.default_rng(0).normal(0.5, 1.0, (3, 4, 5))
    assert agreement(Sight(value, value, value, seen, eps=1e-7)) == axes
    assert agreement(Sight(value, value, value, seen + 1e-6, eps=1e-7, exact=True)) is None


@pytest.mark.parametrize("mask", [-1e4, -3.4e38, -np.inf])
def test_masked_logits_do_not_hide_the_others(mask: float) -> None:
    value = np.where(np.arange(12).reshape(3, 4) % 2, mask, np.linspace(-3, 3, 12).reshape(3, 4))
    assert agreement(Sight(value, value, value, value, eps=1e-7)) == ()
    assert agreement(Sight(value, value, value, 1.001 * value, eps=1e-7)) is None
    assert agreement(Sight(value, value, value, value + 1e-4, eps=1e-7)) is None
