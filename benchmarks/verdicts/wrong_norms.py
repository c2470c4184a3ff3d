"""Wrong norms: what converters and recognizers of spelled-out norms got wrong, one thing each."""

from __future__ import annotations

import numpy as np

from benchmarks.verdicts.pairs import Array, Pair, normal, replaced, texts
from benchmarks.verdicts.weights import MODEL_WIDTH, ONE_GAIN, SHIFT, SQUARE, WIDTH

ROWS = 100
RMS_NORM_OPSET = 23

NORM_WEIGHTS: dict[str, Array] = {"epsilon": np.array(1e-5, np.float32), "gain": ONE_GAIN, "shift": SHIFT}

LAYER_NORM = """(float[2, 64, 64] x) => (float[2, 64, 64] y) {
  mean = ReduceMean<axes = [-1]>(x)
  d = Sub(x, mean)
  squares = Mul(d, d)
  variance = ReduceMean<axes = [-1]>(squares)
  e = Add(variance, epsilon)
  root = Sqrt(e)
  normalized = Div(d, root)
  scaled = Mul(normalized, gain)
  y = Add(scaled, shift)
}"""

BLOCK = """(float[2, 16, 64] x) => (float[2, 16, 64] y) {
  a = MatMul(x, w)
  h = Add(a, b)
  n = LayerNormalization<axis = -1>(h, gain)
  y = Add(n, shift)
}"""
CENTRED = SQUARE - SQUARE.mean(axis=1, keepdims=True)
BIAS = normal("bias", WIDTH, mean=0.5)

GROUP_NORM = """(float[2, 16, 12, 12] x) => (float[2, 16, 12, 12] y) {
  grouped = Reshape(x, groups)
  n = InstanceNormalization(grouped, ones, zeros)
  y = Reshape(n, whole)
}"""
GROUPS = 4

NORMS = [
    Pair(
        "bias left uncentred",
        "LayerNorm to RMSNorm: the weights in front are centred, their bias is not",
        False,
        texts(
            BLOCK,
            {"w": SQUARE, "b": BIAS, "gain": ONE_GAIN, "shift": SHIFT},
            BLOCK.replace("LayerNormalization", "RMSNormalization"),
            {"w": CENTRED},
            RMS_NORM_OPSET,
        ),
    ),
    Pair(
        "mean subtraction forgotten",
        "LayerNorm to RMSNorm and nothing centred, on an input",
        False,
        replaced(
            f"(float[2, 16, {MODEL_WIDTH}] x) => (float[2, 16, {MODEL_WIDTH}] y)"
            "{ y = LayerNormalization<axis = -1>(x, gain) }",
            {"gain": normal("gain", MODEL_WIDTH, mean=1, deviation=0.2)},
            "LayerNormalization",
            "RMSNormalization",
            RMS_NORM_OPSET,
        ),
    ),
    Pair(
        "mean subtraction forgotten, zero-mean data",
        "the same behind an embedding whose rows have a mean of about 0.04 at deviation 1",
        False,
        replaced(
            f"(int64[2, 16] ids) => (float[2, 16, {MODEL_WIDTH}] y)"
            "{ h = Gather(table, ids)  y = LayerNormalization<axis = -1>(h, gain) }",
            {
                "table": normal("table", ROWS, MODEL_WIDTH),
                "gain": normal("gain", MODEL_WIDTH, mean=1, deviation=0.2),
            },
            "LayerNormalization",
            "RMSNormalization",
            RMS_NORM_OPSET,
        ),
    ),
    Pair(
        "swapped Sub",
        "mean − x instead of x − mean",
        False,
        replaced(LAYER_NORM, NORM_WEIGHTS, "Sub(x, mean)", "Sub(mean, x)"),
    ),
    Pair(
        "hard-coded ε",
        "1e-5 where the model has 1e-12",
        False,
        texts(
            LAYER_NORM,
            {**NORM_WEIGHTS, "epsilon": np.array(1e-12, np.float32)},
            changed={"epsilon": NORM_WEIGHTS["epsilon"]},
        ),
    ),
    Pair(
        "ε outside the root",
        "√v + ε instead of √(v + ε)",
        False,
        replaced(
            LAYER_NORM,
            NORM_WEIGHTS,
            "e = Add(variance, epsilon)\n  root = Sqrt(e)",
            "e = Sqrt(variance)\n  root = Add(e, epsilon)",
        ),
    ),
    Pair(
        "wrong axis",
        "the next to last axis, of the same size",
        False,
        replaced(LAYER_NORM, NORM_WEIGHTS, "[-1]", "[-2]"),
    ),
    Pair(
        "variance over N − 1",
        "the unbiased variance: 0.07 % of the scale at 768",
        False,
        replaced(
            LAYER_NORM.replace("64]", f"{MODEL_WIDTH}]"),
            {
                "epsilon": NORM_WEIGHTS["epsilon"],
                "gain": normal("gain", MODEL_WIDTH, mean=1, deviation=0.2),
                "shift": normal("shift", MODEL_WIDTH),
                "bessel": np.array(MODEL_WIDTH / (MODEL_WIDTH - 1), np.float32),
            },
            "e = Add(variance, epsilon)",
            "unbiased = Mul(variance, bessel)\n  e = Add(unbiased, epsilon)",
        ),
    ),
    Pair(
        "variance as E[x²] − E[x]²",
        "equal on paper; in float32 nothing is left of it at a large mean, and the root of a negative number is NaN",
        False,
        replaced(
            LAYER_NORM,
            NORM_WEIGHTS,
            "squares = Mul(d, d)\n  variance = ReduceMean<axes = [-1]>(squares)",
            "squares = Mul(x, x)\n  raw = ReduceMean<axes = [-1]>(squares)\n"
            "  of_mean = Mul(mean, mean)\n  variance = Sub(raw, of_mean)",
        ),
    ),
    Pair(
        "group dropped",
        "GroupNorm with one group instead of four",
        False,
        texts(
            GROUP_NORM,
            {
                "groups": np.array([2, GROUPS, -1]),
                "whole": np.array([2, 16, 12, 12]),
                "ones": np.ones(GROUPS, np.float32),
                "zeros": np.zeros(GROUPS, np.float32),
            },
            changed={
                "groups": np.array([2, 1, -1]),
                "ones": np.ones(1, np.float32),
                "zeros": np.zeros(1, np.float32),
            },
        ),
    ),
]
