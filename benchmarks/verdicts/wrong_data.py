"""Wrong where only some data go: ids, signs, magnitudes, ties, masks and branches."""

from __future__ import annotations

import numpy as np

from benchmarks.verdicts.pairs import Array, Pair, edited, normal, replaced, texts
from benchmarks.verdicts.weights import ONE_GAIN, SHIFT, SQUARE, WIDTH

ROWS = 100
TOKENS = """(int64[2, 16] ids) => (float[2, 16, 64] y) {
  h = Gather(table, ids)
  y = LayerNormalization<axis = -1>(h, gain, shift)
}"""
TABLE = normal("table", ROWS, WIDTH)
TOKEN_WEIGHTS: dict[str, Array] = {"table": TABLE, "gain": ONE_GAIN, "shift": SHIFT}

GATED = """(float[2, 16, 64] x) => (float[2, 16, 64] y) { h = MatMul(x, w)  y = ACTIVATION(h) }"""

BRANCHES = """(float[2, 16, 64] x) => (float[2, 16, 64] y) {
  total = ReduceMean<keepdims = 0>(x)
  positive = Greater(total, zero)
  y = If (positive) <
    then_branch = t () => (float[2, 16, 64] a) { a = Mul(x, w) },
    else_branch = e () => (float[2, 16, 64] b) { b = Sub(x, w) }
  >
}"""
SWAPPED = BRANCHES.replace("a = Mul(x, w)", "a = Sub(x, w)").replace("b = Sub(x, w) }", "b = Mul(x, w) }")

ATTENTION = """(float[2, 16, 64] x, bool[2, 16, 16] attend) => (float[2, 16, 64] y) {
  k = Transpose<perm = [0, 2, 1]>(x)
  s = MatMul(x, k)
  t = Mul(s, scale)
  m = Where(attend, t, masked)
  p = Softmax(m)
  y = MatMul(p, x)
}"""


def _repeated_rows(arrays: dict[str, Array]) -> dict[str, Array]:
    """The token table of GPT-2, of whose rows only the first two are right."""
    (name,) = (name for name in arrays if name.endswith("wte.weight"))
    table = arrays[name].copy()
    table[2:] = table[1]
    return {name: table}


DATA = [
    Pair(
        "embedding wrong beyond id 1",
        "row 2 and all behind it are 1.5 times too large",
        False,
        texts(
            TOKENS.replace("LayerNormalization<axis = -1>(h, gain, shift)", "MatMul(h, w)"),
            {"table": TABLE, "w": SQUARE},
            changed={"table": np.where(np.arange(ROWS)[:, None] > 1, np.float32(1.5) * TABLE, TABLE)},
        ),
    ),
    Pair(
        "GPT-2, embedding wrong beyond id 1",
        "row 2 and all behind it are row 1",
        False,
        edited("gpt2_torchscript17", _repeated_rows),
    ),
    Pair(
        "embedding wrong in one row",
        "row 77 of 100 is that of 76",
        False,
        texts(TOKENS, TOKEN_WEIGHTS, changed={"table": np.where(np.arange(ROWS)[:, None] == 77, TABLE[76], TABLE)}),
        missed="ids are drawn at random, 32 for a run, and 77 is in none",
    ),
    Pair(
        "a constant output",
        "every token is read as id 0",
        False,
        replaced(
            TOKENS,
            {**TOKEN_WEIGHTS, "none": np.array(0)},
            "h = Gather(table, ids)",
            "first = Mul(ids, none)  h = Gather(table, first)",
        ),
    ),
    Pair(
        "Relu for LeakyRelu",
        "equal on what is positive",
        False,
        replaced(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { a = LeakyRelu(x)  y = Mul(a, gain) }",
            {"gain": ONE_GAIN},
            "LeakyRelu",
            "Relu",
        ),
    ),
    Pair(
        "upper bound of Clip lost",
        "Relu for Relu6: equal on what is small",
        False,
        replaced(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { a = Clip(x, low, high)  y = Mul(a, gain) }",
            {"low": np.array(0, np.float32), "high": np.array(6, np.float32), "gain": ONE_GAIN},
            "Clip(x, low, high)",
            "Clip(x, low)",
        ),
    ),
    Pair(
        "NaN made",
        "√x for the root of the magnitude of x: equal on what is positive",
        False,
        texts(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { a = Abs(x)  y = Sqrt(a) }",
            {},
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { y = Sqrt(x) }",
        ),
    ),
    Pair(
        "Softmax without its maximum",
        "equal on paper; exp(100) is ∞ in float32",
        False,
        texts(
            "(float[2, 16, 64] x) => (float[2, 16, 64] y) { y = Softmax(x) }",
            {},
            "(float[2, 16, 64] x) => (float[2, 16, 64] y){ e = Exp(x)  s = ReduceSum(e, axis)  y = Div(e, s) }",
            {"axis": np.array([-1])},
        ),
    ),
    Pair(
        "Gelu by tanh",
        "the approximation for the exact one: off by at most 5e-4",
        False,
        replaced(
            GATED.replace("ACTIVATION", 'Gelu<approximate = "none">'),
            {"w": SQUARE},
            '"none"',
            '"tanh"',
            20,
        ),
    ),
    Pair(
        "ties the other way",
        "ArgMax takes the last of equal values instead of the first",
        False,
        replaced(
            "(float[2, 16, 64] x) => (int64[2, 16, 1] y) { y = ArgMax<axis = -1, select_last_index = 0>(x) }",
            {},
            "index = 0",
            "index = 1",
        ),
    ),
    Pair(
        "mask ignored",
        "what must not be attended to is",
        False,
        replaced(
            ATTENTION,
            {"scale": np.array(0.02, np.float32), "masked": np.array(-1e4, np.float32)},
            "Where(attend, t, masked)",
            "Identity(t)",
        ),
    ),
    Pair(
        "branches of If swapped",
        "else is then",
        False,
        texts(BRANCHES, {"zero": np.array(0, np.float32), "w": SHIFT}, SWAPPED),
    ),
    Pair(
        "one branch of If wrong",
        "the branch that positive data never take has another sign",
        False,
        replaced(
            BRANCHES,
            {"zero": np.array(0, np.float32), "w": SHIFT},
            "b = Sub(x, w)",
            "b = Sub(w, x)",
        ),
    ),
]
