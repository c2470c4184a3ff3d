"""Graphs that nobody thought of: whatever is drawn, the converted model computes the same, and every proof holds."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from tests.graphs import converted, counts, parsed, reasons, run

# kind of the result, kinds of the operands, text. A kind is a shape: B batch, S sequence, D = 8, H·E = 2·4, F = 12.
# `w[...]` is a new constant, `{0}` the result, `{1}` and on the operands; a name with a quote is local.
BRANCH = "p' = MatMul({1}, w[8,8])\n {0} = Add(p', w[8])"
WAYS: tuple[tuple[str, str, str], ...] = (
    ("BSD", "BSD", "{0} = MatMul({1}, w[8,8])"),
    ("BSD", "BSD", BRANCH),
    ("BSD", "BSD", BRANCH),
    ("BSD", "BSD", "h' = MatMul({1}, w[8,12])\n a' = Add(h', w[12])\n t' = Tanh(a')\n {0} = MatMul(t', w[12,8])"),
    ("BSD", "BSD", "p' = MatMul({1}, w[8,8])\n q' = Add(w[8], p')\n f' = Mul(q', w[8])\n {0} = Add({1}, f')"),
    ("BSD", "BSD BSD", "{0} = Add({1}, {2})"),
    ("BSD", "BSD BSD", "{0} = Add({1}, {2})"),
    ("BSD", "BSD BSD", "{0} = Sub({1}, {2})"),
    ("BSD", "BSD BSD", "{0} = Sum({1}, w[1,1,8], {2})"),
    ("BSD", "BSD", "{0} = Sub(w[8], {1})"),
    ("BSD", "BSD", "{0} = Mul(w[1], {1})"),
    ("BSD", "BSD", "{0} = Div({1}, w[1])"),
    ("BSD", "BSD", "{0} = Mul({1}, w[8])"),
    ("BSD", "BSD", "{0} = Neg({1})"),
    ("BSD", "BSD", "{0} = Dropout({1})"),
    ("BSD", "BSD", "{0} = Tanh({1})"),
    ("BSD", "BSD", "{0} = Mul({1}, per_token)"),
    ("BSD", "BSD BSD", "{0} = Where(per_row, {1}, {2})"),
    ("BSD", "BSD", "{0} = Where(per_element, {1}, w[8])"),
    ("BSD", "BSD BSD", "c' = Concat<axis = 1>({1}, {2})\n {0} = Slice(c', zero, length, one)"),
    ("BSD", "BSD BSD", "c' = Concat<axis = 2>({1}, {2})\n {0} = MatMul(c', w[16,8])"),
    ("BSD", "BSD", "f' = Reshape({1}, flat)\n g' = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(f', w[8,8], w[8])\n"
     " {0} = Reshape(g', shape)"),
    ("BSD", "BSD", "f' = Reshape({1}, flat)\n g' = Gemm<beta = 3.0>(f', w[8,8])\n {0} = Reshape(g', shape)"),
    ("BSD", "BSD", "t' = Transpose<perm = [0, 2, 1]>({1})\n c' = Conv<pads = [1, 1]>(t', w[8,8,3], w[8])\n"
     " {0} = Transpose<perm = [0, 2, 1]>(c')"),
    ("BSD", "BSD", "t' = Transpose<perm = [0, 2, 1]>({1})\n c' = Conv<group = 8>(t', w[8,1,1])\n"
     " {0} = Transpose<perm = [0, 2, 1]>(c')"),
    ("BSD", "BSD BSD", "m' = ReduceMean<axes = [1]>({1})\n {0} = Add({2}, m')"),
    ("BSD", "BSD", "{0} = Softmax<axis = 2>({1})"),
    ("BSD", "", "{0} = Expand(w[1,1,8], shape)"),
    ("BHSE", "BSD", "r' = Reshape({1}, heads)\n {0} = Transpose<perm = [0, 2, 1, 3]>(r')"),
    ("BHSE", "BHSE BHSE BHSE", "k' = Transpose<perm = [0, 1, 3, 2]>({1})\n s' = MatMul({2}, k')\n"
     " a' = Softmax<axis = -1>(s')\n {0} = MatMul(a', {3})"),
    ("BSD", "BHSE", "r' = Transpose<perm = [0, 2, 1, 3]>({1})\n {0} = Reshape(r', joined)"),
    ("BHSE", "BHSE", "[norm'] {0} = LayerNormalization({1}, w[4])"),
    ("BSD", "BSD", "[norm'] {0} = LayerNormalization({1}, w[8], w[8])"),
    ("BSD", "BSD", "[norm'] n' = LayerNormalization({1}, w[8], w[8])\n" + BRANCH.replace("{1}", "n'")),
    ("BSD", "BSD BSD", "[norm'] n' = LayerNormalization({1}, w[8], w[8])\n t' = MatMul(n', w[8,8])\n"
     " u' = Tanh(t')\n f' = MatMul(u', w[8,8])\n {0} = Add({2}, f')"),
)  # fmt: skip
TEXT = """
    main (double[B,S,8] x, double[B,S,1] per_token, bool[B,S,1] per_row, bool[B,S,8] per_element) => ({outputs})
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[2] flat = {{-1, 8}}, int64[4] heads = {{0, 0, 2, 4}},
     int64[3] joined = {{0, 0, 8}}, {weights}> {{
        shape = Shape(x)
        length = Shape<start = 1, end = 2>(x)
        {body}
    }}"""
STEPS, RECENT = (6, 16), 3


def drawn(seed: int) -> str:
    """The text of a model; it ends in norms, and has nothing that no output needs."""
    random = np.random.default_rng(seed)
    values: dict[str, list[str]] = {"BSD": [], "BHSE": []}
    parts: list[tuple[str, str]] = []  # the value that a part makes, and its text
    weights: dict[str, str] = {}

    def add(way: tuple[str, str, str]) -> str:
        kind, operands, text = way
        result = f"v{len(parts)}"
        wanted = Counter(operands.split())
        chosen = {of: list(random.choice(values[of][-RECENT:], count, replace=False)) for of, count in wanted.items()}
        near = [str(chosen[of].pop()) for of in operands.split()]

        def weight(found: re.Match[str]) -> str:
            name = f"w{len(weights)}"
            weights[name] = found[1]
            return name

        written = re.sub(r"w\[([\d,]+)\]", weight, text.format(result, *near)).replace("'", f"_{len(parts)}")
        parts.append((result, written))
        values[kind].append(result)
        return result

    add(("BSD", "", BRANCH.replace("{1}", "x")) if random.random() < 0.8 else ("BSD", "", "{0} = Tanh(x)"))
    for _ in range(random.integers(*STEPS)):
        possible = [way for way in WAYS if all(len(values[of]) >= n for of, n in Counter(way[1].split()).items())]
        add(possible[random.integers(len(possible))])
    norm = "[norm'] n' = LayerNormalization({1}, w[8], w[8])\n" + BRANCH.replace("{1}", "n'")
    outputs = [add(("BSD", "BSD", norm)) for _ in range(random.integers(1, 3))]
    if random.random() < 0.15:
        outputs.append(values["BSD"][random.integers(len(values["BSD"]))])
    needed = set(outputs)
    kept = []
    for result, text in reversed(parts):
        if result in needed:
            kept.append(text)
            needed |= set(re.findall(r"\bv\d+\b", text))
    body = "\n".join(reversed(kept))
    used = set(re.findall(r"\bw\d+\b", body))
    return TEXT.format(
        outputs=", ".join(f"double[J,K,8] {name}" for name in dict.fromkeys(outputs)),
        weights=", ".join(f"double[{shape}] {name}" for name, shape in weights.items() if name in used),
        body=body,
    )


SEEDS = range(60)
# A norm of what is the same along its axis is rounding noise over the root of epsilon, and no two programs agree on it.
SIGNAL = 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_the_graph_the_function_stays(seed: int) -> None:
    model = parsed(drawn(seed))
    assert min(np.abs(array).max() for array in run(model).values()) > SIGNAL
    result = converted(model)
    assert "proof-failed" not in reasons(result).values()
    assert counts(result)[0] + len(reasons(result)) == result.before.norms["LayerNorm"]


def test_the_graphs_are_worth_drawing() -> None:
    done: Counter[str] = Counter()
    for seed in SEEDS[:25]:
        result = converted(parsed(drawn(seed)))
        done.update(rewrite.rule for rewrite in result.rewrites)
        done.update(refusal.reason_id for refusal in result.refused)
    assert {
        "center-up",
        "bias-down",
        "center-up/explicit",
        "foreign-reader",
        "post-norm",
        "opaque-producer",
    } <= done.keys()
