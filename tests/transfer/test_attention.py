"""Products of two activations pass maps along free axes; a softmax forgets what is the same along its axis."""

from __future__ import annotations

import pytest

from tests.steps import Case, all_at_once, blocks, center, passes, scale, scale_and_shift, shift, uniform


def product(left: str = "B,2,S,T", right: str = "B,2,T,8") -> str:
    return f"main (double[{left}] a, double[{right}] b) => (double[K,L,M,N] y) {{ [n] y = MatMul(a, b) }}"


def attention(between: str = "q = Identity(p)", axis: int = -1) -> str:
    """Rows of a softmax as weights of b's rows."""
    return f"""
        main (double[B,2,S,T] a, double[B,2,T,8] b, double[B,1,S,T] mask) => (double[B,2,S,8] y) {{
            p = Softmax<axis = {axis}>(a)
            {between}
            [n] y = MatMul(q, b)
        }}"""


def softmax(operator: str = "Softmax", x: str = "B,S,8", axis: int = -1) -> str:
    return f"main (double[{x}] x) => (double[K,L,M] y) {{ [n] y = {operator}<axis = {axis}>(x) }}"


PASSES = {
    "MatMul pull columns to the right": Case(product(), center(4, 3, 8)),
    "MatMul pull scale of columns": Case(product(), scale(4, 3, 8)),
    "MatMul pull rows to the left": Case(product("B,2,6,T"), center(4, 2, 6)),
    "MatMul pull to a right of lower rank": Case(product(right="T,8"), center(4, 3, 8)),
    "MatMul push columns": Case(product(), center(4, 3, 8), 1),
    "MatMul push columns from lower rank": Case(product(right="T,8"), scale(2, 1, 8), 1),
    "MatMul push rows": Case(product("B,2,6,T"), scale(4, 2, 6), 0),
    "MatMul pull shift through attention": Case(attention(), all_at_once(4, 3, 8)),
    "MatMul push shift through attention": Case(attention(), scale_and_shift(4, 3, 8), 1),
    "Softmax push shift": Case(softmax(), shift(3, 1, 5), 0),
    "Softmax push center": Case(softmax(), center(3, 2, 8), 0),
    "Softmax push another axis": Case(softmax(axis=1, x="B,6,8"), center(3, 1, 6), 0),
    "Softmax push before opset 13": Case(softmax(axis=2), center(3, 2, 8), 0, opset=11),
    "LogSoftmax push center": Case(softmax("LogSoftmax"), center(3, 2, 8), 0),
}
BLOCKS = {
    "MatMul pull shift": (Case(product(), shift(4, 3, 8)), "no-bias"),
    "MatMul pull shift through rows of another sum": (Case(attention("q = Mul(p, mask)"), shift(4, 3, 8)), "no-bias"),
    "MatMul pull shift through a softmax over columns": (Case(attention(axis=2), shift(4, 3, 8)), "no-bias"),
    "MatMul pull shift through a dropout that may train": (
        Case(
            attention("q = Dropout(p, ratio, train)").replace(
                "(double[B,2,S,T] a", "(double ratio, bool train, double[B,2,S,T] a"
            ),
            shift(4, 3, 8),
        ),
        "no-bias",
    ),
    "MatMul push along what is summed": (Case(product("B,2,S,6", "B,2,6,8"), scale(4, 3, 6), 0), "does-not-commute"),
    "MatMul push rows of the right": (Case(product("B,2,S,6", "B,2,6,8"), scale(4, 2, 6), 1), "does-not-commute"),
    "MatMul pull over heads": (Case(product(), center(4, 1, 2)), "does-not-commute"),
    "MatMul pull rows to a left that lacks the batch": (Case(product("T", "T,8"), scale(1, 0, 8)), "unknown-shape"),
    "Softmax pull": (Case(softmax(), center(3, 2, 8)), "opaque-producer"),
    "Softmax push scale": (Case(softmax(), uniform(3, 2.0), 0), "does-not-commute"),
    "Softmax push shift along its axis": (Case(softmax(), shift(3, 2, 8), 0), "does-not-commute"),
    "Softmax push center off its axis": (Case(softmax(x="B,6,8"), center(3, 1, 6), 0), "does-not-commute"),
    "Softmax push before opset 13, over several axes": (
        Case(softmax(axis=1, x="B,6,8"), center(3, 2, 8), 0, opset=11),
        "unknown-shape",
    ),
    "LogSoftmax pull": (Case(softmax("LogSoftmax"), center(3, 2, 8)), "opaque-producer"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


@pytest.mark.parametrize("axis", [-1, 3])
def test_rows_that_are_masked_before_the_softmax_sum_to_one(axis: int) -> None:
    text = attention("q = Identity(p)", axis).replace("Softmax<", "Softmax <").replace("(a)\n", "(s)\n")
    passes(Case(text.replace("p = Softmax", "s = Add(a, mask)\n p = Softmax"), shift(4, 3, 8)))
