"""Right numbers behind an interface that is no longer the same, or that holds less than it says."""

from __future__ import annotations

import numpy as np

from benchmarks.verdicts.pairs import Pair, replaced, texts
from benchmarks.verdicts.weights import ONE_GAIN, SQUARE

FREE = """(float[batch, 16, 64] x) => (float[batch, 1024] y) { h = MatMul(x, w)  y = Reshape(h, shape) }"""


TWO_OUTPUTS = "(float[2, 16, 64] x) => (float[2, 16, 64] a, float[2, 16, 64] b) { a = MatMul(x, w)  b = Relu(x) }"
OVERRIDABLE = (
    "(float[2, 16, 64] x, float[64] gain) => (float[2, 16, 64] y) { y = LayerNormalization<axis = -1>(x, gain) }"
)

INTERFACES = [
    Pair(
        "a lost input",
        "an input that no output depends on is gone; callers still feed it",
        False,
        replaced(
            "(float[2, 16, 64] x, int64[2, 16] token_types) => (float[2, 16, 64] y) { y = MatMul(x, w) }",
            {"w": SQUARE},
            ", int64[2, 16] token_types",
            "",
        ),
    ),
    Pair(
        "a lost default",
        "a gain that callers may replace has become a constant",
        False,
        replaced(OVERRIDABLE, {"gain": ONE_GAIN}, ", float[64] gain", ""),
    ),
    Pair(
        "outputs in another order",
        "callers that take them by position get the other",
        False,
        replaced(
            TWO_OUTPUTS,
            {"w": SQUARE},
            "float[2, 16, 64] a, float[2, 16, 64] b",
            "float[2, 16, 64] b, float[2, 16, 64] a",
        ),
    ),
    Pair(
        "another dtype",
        "the same numbers as float64",
        False,
        texts(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { y = MatMul(x, w) }",
            {"w": SQUARE},
            "(float[2, 16, 64] x) => (double[2, 16, 64] y) { h = MatMul(x, w)  y = Cast<to = 11>(h) }",
        ),
    ),
    Pair(
        "a free size fixed",
        "a Reshape to one row: right for a batch of one only",
        False,
        texts(
            FREE,
            {"w": SQUARE, "shape": np.array([-1, 1024])},
            changed={"shape": np.array([1, 1024])},
        ),
    ),
]
