"""Correct rewrites: by normswap on whole models, whose steps are proved; and equations that everybody knows.

Among them are those that no fixed tolerance can judge: values that cancel, that are large, or that are float16.
"""

from __future__ import annotations

import numpy as np

from benchmarks.verdicts.pairs import Pair, converted_model, converted_text, normal, replaced, texts

WIDTH = 64

CONV_BATCH_NORM = """(float[2, 8, 12, 12] x) => (float[2, 16, 10, 10] y) {
  h = Conv(x, w, b)
  y = BatchNormalization(h, gain, shift, mean, variance)
}"""
CONV = {"w": normal("w", 16, 8, 3, 3, deviation=0.1), "gain": normal("gain", 16, mean=1), "shift": normal("shift", 16)}

# At a mean of 1e4, what is normalized has lost three of its seven digits before it is.
FAR_LAYER_NORM = """(float[2, 16, 64] x) => (float[2, 16, 64] y) {
  h = Add(x, far)
  mean = ReduceMean<axes = [-1]>(h)
  d = Sub(h, mean)
  squares = Mul(d, d)
  variance = ReduceMean<axes = [-1]>(squares)
  e = Add(variance, epsilon)
  root = Sqrt(e)
  normalized = Div(d, root)
  scaled = Mul(normalized, gain)
  y = Add(scaled, shift)
}"""

LINEAR = """(float[2, 16, 64] x) => (float[2, 16, 64] y) {
  h = MatMul(x, w)
  y = Mul(h, scale)
}"""
SQUARE = normal("square", WIDTH, WIDTH, deviation=WIDTH**-0.5)
LARGE = np.array(1e6, np.float32)

GELU = """(float[2, 16, 64] x) => (float[2, 16, 64] y) {
  h = MatMul(x, w)
  r = Div(h, root)
  e = Erf(r)
  e1 = Add(e, one)
  p = Mul(h, e1)
  y = Mul(p, half)
}"""
GELU_WEIGHTS = {
    "w": SQUARE,
    "root": np.array(2**0.5, np.float32),
    "one": np.array(1, np.float32),
    "half": np.array(0.5, np.float32),
}

NOT_A_NUMBER = """(float[2, 16, 64] x) => (float[2, 16, 64] y) {
  h = Log(x)
  p = Add(h, b)
  y = Mul(p, gain)
}"""

HALF_BATCH_NORM = """(float16[2, 8, 12, 12] x) => (float16[2, 16, 10, 10] y) {
  h = Conv(x, w, b)
  y = BatchNormalization(h, gain, shift, mean, variance)
}"""


def _models() -> list[Pair]:
    """Every kind of rewrite, on models of many exporters."""
    listed = [
        ("gpt2_torchscript17", ("rmsnorm",), "LayerNorms to RMSNorms, the residual stream centred"),
        ("gpt2_dynamo18", ("rmsnorm",), "LayerNorms to RMSNorms"),
        ("bert_torchscript14", ("rmsnorm",), "LayerNorms behind the residual Add"),
        ("vit_torchscript17", ("rmsnorm",), "LayerNorms to RMSNorms, patches by Conv"),
        ("gpt2_torchscript17", ("rmsnorm", "folded"), "LayerNorms to RMSNorms, then gains folded"),
        ("resnet_torchscript17", ("folded",), "BatchNorms folded into Conv"),
        ("preact_resnet_torchscript17", ("folded",), "BatchNorms in front of Conv"),
        ("mobilenet_torchscript17", ("folded",), "BatchNorms folded into depthwise Conv"),
        ("unet_torchscript17", ("folded",), "BatchNorms folded into Conv and ConvTranspose"),
        ("repvgg_torchscript17", ("folded",), "BatchNorms of parallel branches folded"),
        ("bn_lstm_torchscript17", ("folded",), "a BatchNorm folded into an LSTM"),
        ("llama_dynamo18", ("folded",), "gains of RMSNorms folded into projections"),
        ("llama_half_dynamo18", ("folded",), "the same in float16"),
        ("llama_dynamo18", ("weightnorm",), "weights computed as g·v/‖v‖"),
        ("resnet_torchscript17", ("weightnorm", "folded"), "weights computed as g·v/‖v‖, and back"),
        ("vit_torchscript14", ("standard",), "decomposed LayerNorms written as one operator"),
        ("gpt2_dynamo18", ("primitive",), "LayerNormalization operators decomposed"),
    ]
    return [
        Pair(f"{name} to {', then '.join(to)}", truth, True, converted_model(name, *to)) for name, to, truth in listed
    ]


RIGHT = [
    *_models(),
    Pair(
        "bias 1e4, variance 1e-4",
        "the folded model is far closer to the truth: the original cancels 1e4 and multiplies by 100",
        True,
        converted_text(
            CONV_BATCH_NORM,
            {
                **CONV,
                "b": normal("b", 16, mean=1e4),
                "mean": normal("mean", 16, mean=1e4),
                "variance": np.full(16, 1e-4, np.float32),
            },
            "folded",
        ),
    ),
    Pair(
        "LayerNorm at mean 1e4",
        "one operator instead of ten; both err alike, since the input has lost its digits",
        True,
        converted_text(
            FAR_LAYER_NORM,
            {
                "far": np.array(1e4, np.float32),
                "epsilon": np.array(1e-5, np.float32),
                "gain": normal("gain", WIDTH, mean=1),
                "shift": normal("shift", WIDTH),
            },
            "standard",
        ),
    ),
    Pair(
        "float16 BatchNorm folded, values around 5000",
        "one rounding at 5000 is 4 in float16; the fold rounds elsewhere",
        True,
        converted_text(
            HALF_BATCH_NORM,
            {
                "w": CONV["w"].astype(np.float16),
                "b": normal("b", 16).astype(np.float16),
                "gain": normal("gain", 16, mean=50).astype(np.float16),
                "shift": normal("shift", 16, mean=5000).astype(np.float16),
                "mean": normal("mean", 16).astype(np.float16),
                "variance": np.full(16, 0.5, np.float16),
            },
            "folded",
        ),
    ),
    Pair(
        "a scale of 1e6 multiplied into weights",
        "W·1e6 rounds as x·W does; only the unit of the output is large",
        True,
        texts(
            LINEAR,
            {"w": SQUARE, "scale": LARGE},
            LINEAR.replace("Mul(h, scale)", "Identity(h)"),
            {"w": SQUARE * LARGE},
        ),
    ),
    Pair(
        "three terms in another order",
        "(a + b) + c = a + (b + c)",
        True,
        replaced(
            """(float[2, 16, 64] x) => (float[2, 16, 64] y) { a = MatMul(x, w)  h = Add(a, b)  y = Add(h, x) }""",
            {"w": SQUARE, "b": normal("b", WIDTH, mean=3)},
            "h = Add(a, b)  y = Add(h, x)",
            "h = Add(b, x)  y = Add(a, h)",
        ),
    ),
    Pair(
        "Gelu as one operator",
        "h·(1 + erf(h/√2))/2 is what Gelu is",
        True,
        texts(
            GELU,
            GELU_WEIGHTS,
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { h = MatMul(x, w)  y = Gelu(h) }",
            opset=20,
        ),
    ),
    Pair(
        "NaN and −inf in the same places",
        "the logarithm of what is not positive is none in both; a·(h + b) = a·h + a·b",
        True,
        texts(
            NOT_A_NUMBER,
            {"b": normal("b", WIDTH), "gain": normal("gain", WIDTH, mean=2, deviation=0.1)},
            NOT_A_NUMBER.replace("p = Add(h, b)", "p = Mul(h, gain)").replace("y = Mul(p, gain)", "y = Add(p, b)"),
            {"b": normal("b", WIDTH) * normal("gain", WIDTH, mean=2, deviation=0.1)},
        ),
    ),
    Pair(
        "Pow(x, 2) as a product",
        "x² = x·x",
        True,
        replaced(
            """(float[2, 16, 64] x) => (float[2, 16, 1] y) { s = Pow(x, two)  y = ReduceMean<axes = [-1]>(s) }""",
            {"two": np.array(2, np.float32)},
            "Pow(x, two)",
            "Mul(x, x)",
        ),
    ),
]
"""All pairs that are right."""
