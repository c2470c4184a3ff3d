"""ONNX text for norms in many spellings: a body over x, wrapped into a model whose constants have fixed names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

# A width that no float holds the inverse of, and that no free dimension is bound to.
WIDTH = 12
RANDOM = np.random.default_rng(7)
# As float32 holds them.
GAIN = RANDOM.normal(1, 0.4, WIDTH).astype(np.float32).astype(np.float64)
BIAS = RANDOM.normal(0, 1, WIDTH).astype(np.float32).astype(np.float64)
EPSILON = float(np.float32(1e-5))

DTYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
FLOATS: Mapping[str, object] = {
    "zero": 0, "half": 0.5, "minus_half": -0.5, "one": 1, "two": 2, "three": 3, "four": 4,
    "n": WIDTH, "n_minus_1": WIDTH - 1, "inverse_n": 1 / WIDTH,
    "eps": 1e-5, "small": 1e-12, "large": 1e4, "low": -65504, "high": 65504,
    "gain": GAIN, "gain_row": GAIN[None, None], "gain_column": GAIN[:, None, None], "gain_4": GAIN[None, None, None],
    "bias": BIAS, "nothing": np.zeros(WIDTH),
    "sum_matrix": np.ones((WIDTH, 1)), "mean_matrix": np.full((WIDTH, 1), 1 / WIDTH),
    "center_matrix": np.eye(WIDTH) - 1 / WIDTH, "mean_vector": np.full(WIDTH, 1 / WIDTH),
    "mean_kernel": np.full((1, WIDTH, 1, 1), 1 / WIDTH), "space_kernel": np.full((WIDTH, 1, 6, 8), 1 / 48),
}  # fmt: skip
INTEGERS: Mapping[str, object] = {
    "last": [-1], "first": [1], "start": [0], "third": [4], "middle": [6], "i1": 1, "i2": 2,
    "halves": [0, 0, 2, 6], "whole": [0, 0, 12], "wide": [1, 1, 1, 6], "pairs": [0, 0, 6, 2], "tall": [1, 1, 6, 1],
}  # fmt: skip


def literal(name: str, value: object, dtype: str) -> str:
    """An initializer in ONNX text; the 16-bit floats are written as their bits."""
    array = np.asarray(value).astype(DTYPES.get(dtype, np.int64))
    if array.dtype.itemsize == 2:
        array = array.view(np.uint16)
    shape = f"[{','.join(map(str, array.shape))}]" if array.ndim else ""
    return f"{dtype}{shape} {name} = {{{', '.join(repr(item.item()) for item in array.reshape(-1))}}}"


def text(
    body: str, shape: str = "B,T,12", opset: int = 17, dtype: str = "float", more: str = "", initial: str = ""
) -> str:
    """The text of a model that makes y from x, both of `dtype` and `shape`; `more` declares inputs, `initial` constants."""
    words = set(body.replace(",", " ").replace("(", " ").replace(")", " ").split())
    constants = [literal(name, value, dtype) for name, value in FLOATS.items() if name in words]
    constants += [literal(name, value, "int64") for name, value in INTEGERS.items() if name in words]
    constants += [initial] if initial else []
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    inputs = f"{dtype}[{shape}] x" + (f", {more}" if more else "")
    return f"{header} main ({inputs}) => ({dtype}[{shape}] y) <{', '.join(constants)}> {{\n{body}\n}}"


def model(body: str | Sequence[str], **options: object) -> ir.Model:
    """The model of a body, as `text` writes it."""
    lines = body if isinstance(body, str) else "\n".join(body)
    return ir.from_proto(onnx.parser.parse_model(text(lines, **options)))  # type: ignore[arg-type]


MEAN = {
    "ReduceMean": ["m = ReduceMean <axes = [-1]> (x)", "d = Sub(x, m)"],
    "sum times 1/n": ["t = ReduceSum(x, last)", "m = Mul(t, inverse_n)", "d = Sub(x, m)"],
    "1/n times sum": ["t = ReduceSum(x, last)", "m = Mul(inverse_n, t)", "d = Sub(x, m)"],
    "sum of x/n": ["t = Div(x, n)", "m = ReduceSum(t, last)", "d = Sub(x, m)"],
    "sum over n": ["t = ReduceSum(x, last)", "m = Div(t, n)", "d = Sub(x, m)"],
    "minus mean": ["m = ReduceMean <axes = [2]> (x)", "k = Neg(m)", "d = Add(k, x)"],
    "mean matrix": ["m = MatMul(x, mean_matrix)", "d = Sub(x, m)"],
    "sum matrix": ["t = MatMul(x, sum_matrix)", "m = Mul(t, inverse_n)", "d = Sub(x, m)"],
    "center matrix": ["d = MatMul(x, center_matrix)"],
}
MEAN_SQUARE = {
    "Pow": ["q = Pow(d, two)", "v = ReduceMean <axes = [-1]> (q)"],
    "Mul": ["q = Mul(d, d)", "v = ReduceMean <axes = [-1]> (q)"],
    "two Subs": [
        "o = ReduceMean <axes = [-1]> (x)",
        "c = Sub(x, o)",
        "q = Mul(c, d)",
        "v = ReduceMean <axes = [-1]> (q)",
    ],
    "sum times 1/n": ["q = Mul(d, d)", "w = ReduceSum(q, last)", "v = Mul(w, inverse_n)"],
    "ReduceSumSquare": ["w = ReduceSumSquare <axes = [-1]> (d)", "v = Div(w, n)"],
    "ReduceL2": ["l = ReduceL2 <axes = [-1]> (d)", "w = Mul(l, l)", "v = Mul(inverse_n, w)"],
    "mean matrix": ["q = Pow(d, two)", "v = MatMul(q, mean_matrix)"],
}
STABLE = {
    "right": ["e = Add(v, eps)"],
    "left": ["e = Add(eps, v)"],
    "absent": ["e = Identity(v)"],
}
QUOTIENT = {
    "Div": ["s = Sqrt(e)", "u = Div(d, s)"],
    "Reciprocal": ["s = Sqrt(e)", "r = Reciprocal(s)", "u = Mul(d, r)"],
    "Pow": ["r = Pow(e, minus_half)", "u = Mul(r, d)"],
    "Pow and Div": ["s = Pow(e, half)", "u = Div(d, s)"],
    "one over": ["s = Sqrt(e)", "r = Div(one, s)", "u = Mul(d, r)"],
    "root of inverse": ["i = Reciprocal(e)", "r = Sqrt(i)", "u = Mul(r, d)"],
    "logarithm": ["a = Log(e)", "b = Mul(a, minus_half)", "r = Exp(b)", "u = Mul(d, r)"],
}
AFFINE = {
    "gain and bias": ["g = Mul(u, gain)", "y = Add(g, bias)"],
    "bias and gain, left": ["g = Mul(gain, u)", "y = Add(bias, g)"],
    "gain as a row": ["y = Mul(u, gain_row)"],
    "gain by division": ["y = Div(u, gain)"],
    "one number": ["y = Mul(u, three)"],
    "none": ["y = Identity(u)"],
}
