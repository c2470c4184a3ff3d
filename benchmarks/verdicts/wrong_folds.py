"""Wrong weights: folds that forget, repeat or overflow, and weights that are not what they were."""

from __future__ import annotations

import numpy as np

from benchmarks.verdicts.pairs import Array, Pair, edited, normal, replaced, texts
from benchmarks.verdicts.weights import ONE_GAIN, SHIFT, SQUARE, WIDTH

CONV_BATCH_NORM = """(float[2, 8, 12, 12] x) => (float[2, 16, 12, 12] y) {
  h = Conv<pads = [1, 1, 1, 1]>(x, w)
  y = BatchNormalization(h, gain, shift, mean, variance)
}"""
BATCH_NORM_CONV = """(float[2, 8, 12, 12] x) => (float[2, 16, 12, 12] y) {
  h = BatchNormalization(x, gain, shift, mean, variance)
  y = Conv<pads = [1, 1, 1, 1]>(h, w, b)
}"""
CONV = """(float[2, 8, 12, 12] x) => (float[2, 16, 12, 12] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }"""
KERNEL = normal("kernel", 16, 8, 3, 3, deviation=0.1)


def _statistics(channels: int) -> dict[str, Array]:
    return {
        "gain": normal("gain", channels, mean=1, deviation=0.2),
        "shift": normal("shift", channels),
        "mean": normal("mean", channels),
        "variance": np.exp(normal("variance", channels, deviation=0.2)),
    }


def _scale(statistics: dict[str, Array]) -> Array:
    return np.asarray(statistics["gain"] / np.sqrt(statistics["variance"] + np.float32(1e-5)))


OUT, IN = _statistics(16), _statistics(8)

HALF_BLOCK = """(float16[2, 16, 64] x) => (float16[2, 16, 64] y) {
  t = Tanh(x)
  small = Mul(t, hundredth)
  a = Mul(small, gain)
  y = MatMul(a, w)
}"""
HALF_GAIN = np.where(np.arange(WIDTH) == 5, 3000, 1).astype(np.float16)
HALF_SQUARE = np.where(np.arange(WIDTH)[:, None] == 5, 30 + SQUARE, SQUARE).astype(np.float16)
with np.errstate(over="ignore"):
    OVERFLOWN = (HALF_SQUARE * HALF_GAIN[:, None]).astype(np.float16)

HALF_RMS_NORM = """(float16[2, 16, 64] x) => (float16[2, 16, 64] y) {
  h = Mul(x, eight)
  wide = Cast<to = 1>(h)
  squares = Mul(wide, wide)
  mean = ReduceMean<axes = [-1]>(squares)
  root = Sqrt(mean)
  floor = Max(root, least)
  n = Div(wide, floor)
  y = Cast<to = 10>(n)
}"""
NARROW_RMS_NORM = """(float16[2, 16, 64] x) => (float16[2, 16, 64] y) {
  h = Mul(x, eight)
  squares = Mul(h, h)
  mean = ReduceMean<axes = [-1]>(squares)
  root = Sqrt(mean)
  wide = Cast<to = 1>(root)
  floor = Max(wide, least)
  narrow = Cast<to = 10>(floor)
  y = Div(h, narrow)
}"""


def _last_bias(arrays: dict[str, Array]) -> dict[str, Array]:
    name = [name for name in arrays if name.endswith("bias") and arrays[name].ndim == 1][-1]
    return {name: np.zeros_like(arrays[name])}


def _one_element(array: Array) -> Array:
    result = array.copy()
    result[1234] *= np.float32(1.01)
    return result


FOLDS = [
    Pair(
        "gain folded twice",
        "into the weights behind the norm, and left in the norm",
        False,
        texts(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y)"
            "{ n = LayerNormalization<axis = -1>(x, gain)  y = MatMul(n, w) }",
            {"gain": ONE_GAIN, "w": SQUARE},
            changed={"w": ONE_GAIN[:, None] * SQUARE},
        ),
    ),
    Pair(
        "bias forgotten",
        "the shift of a LayerNorm is gone, and not in the bias behind it",
        False,
        replaced(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y)"
            "{ n = LayerNormalization<axis = -1>(x, gain, shift)  y = MatMul(n, w) }",
            {"gain": ONE_GAIN, "shift": SHIFT, "w": SQUARE},
            "gain, shift)",
            "gain)",
        ),
    ),
    Pair(
        "running mean ignored",
        "a BatchNorm folded as if its mean were 0",
        False,
        texts(
            CONV_BATCH_NORM,
            {"w": KERNEL, **OUT},
            CONV,
            {"w": np.asarray(KERNEL * _scale(OUT)[:, None, None, None]), "b": OUT["shift"]},
        ),
    ),
    Pair(
        "border of a padded Conv",
        "the shift of a BatchNorm in front is added at the border too, where the padding is 0",
        False,
        texts(
            BATCH_NORM_CONV,
            {"w": KERNEL, "b": np.zeros(16, np.float32), **IN},
            CONV,
            {
                "w": np.asarray(KERNEL * _scale(IN)[:, None, None]),
                "b": np.asarray(KERNEL.sum(axis=(2, 3)) @ (IN["shift"] - IN["mean"] * _scale(IN))),
            },
        ),
    ),
    Pair(
        "float16 weight overflows",
        "gain 3000 times weight 30 is ∞ in float16",
        False,
        texts(
            HALF_BLOCK,
            {"hundredth": np.array(0.01, np.float16), "gain": HALF_GAIN, "w": HALF_SQUARE},
            HALF_BLOCK.replace("Mul(small, gain)", "Identity(small)"),
            {"w": OVERFLOWN},
        ),
    ),
    Pair(
        "float16 square overflows",
        "RMSNorm without the Cast to float32 around its square: 800² is ∞ in float16",
        False,
        texts(
            HALF_RMS_NORM,
            {"eight": np.array(8, np.float16), "least": np.array(1e-3, np.float32)},
            NARROW_RMS_NORM,
        ),
        missed="onnxruntime's CPU provider computes float16 in float32, and the truth is float64: the check warns that "
        "a GPU may not do so, and passes",
    ),
    Pair(
        "weights rounded to float16",
        "float32 weights with 11 bits left of 24",
        False,
        texts(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { y = MatMul(x, w) }",
            {"w": SQUARE},
            changed={"w": SQUARE.astype(np.float16).astype(np.float32)},
        ),
    ),
    Pair(
        "weights transposed",
        "a square matrix",
        False,
        texts(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { y = MatMul(x, w) }",
            {"w": SQUARE},
            changed={"w": np.ascontiguousarray(SQUARE.T)},
        ),
    ),
    Pair(
        "one wrong element",
        "one bias of 2048 is 1 % too large",
        False,
        texts(
            "(float[64, 256] x) => (float[64, 2048] y) { y = Gemm(x, w, b) }",
            {"w": normal("wide", 256, 2048, deviation=256**-0.5), "b": normal("wide bias", 2048)},
            changed={"b": _one_element(normal("wide bias", 2048))},
        ),
    ),
    Pair("GPT-2, a bias dropped", "that of the last norm is 0", False, edited("gpt2_torchscript17", _last_bias)),
]
