"""Operators that sum or average, and linear layers, pools and products that look like them."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from normswap.averages import averages
from normswap.learn import learn

ROWS = {
    "a pool of everything": ("y = GlobalAveragePool(x)", "2,4,6,6", True),
    "a pool over all of space": ("y = AveragePool <kernel_shape = [6, 6]> (x)", "2,4,6,6", True),
    "a pool of windows": ("y = AveragePool <kernel_shape = [3, 3]> (x)", "2,4,6,6", False),
    "a vector of one value": ("y = MatMul(x, uniform)", "2,6", True),
    "a vector of several": ("y = MatMul(x, several)", "2,6", False),
    "a vector for each of a batch": ("y = MatMul(x, stack)", "2,4,6", True),
    "a matrix for each of a batch": ("y = MatMul(x, stacked)", "2,4,6", False),
    "a sum by Einsum": ('y = Einsum <equation = "btd->bt"> (x)', "2,4,6", True),
    "a sum of squares": ('y = Einsum <equation = "btd,btd->bt"> (x, x)', "2,4,6", True),
    "a mean by Einsum": ('y = Einsum <equation = "btd, d -> bt"> (x, uniform)', "2,4,6", True),
    "a weighted sum": ('y = Einsum <equation = "btd,d->bt"> (x, several)', "2,4,6", False),
    "attention scores": ('y = Einsum <equation = "bqd,bkd->bqk"> (x, x)', "2,4,6", False),
    "a diagonal": ('y = Einsum <equation = "bbd->d"> (x)', "4,4,6", False),
    "another order": ('y = Einsum <equation = "btd->tb"> (x)', "2,4,6", False),
    "two activations": ('y = Einsum <equation = "btd,btd->bt"> (x, z)', "2,4,6", False),
    "a new letter": ('y = Einsum <equation = "btd,e->bt"> (x, uniform)', "2,4,6", False),
    "a mean over channels": ("y = Conv(x, channels)", "2,4,6,6", True),
    "a mean over space for each channel": ("y = Conv <group = 4> (x, spaces)", "2,4,6,6", True),
    "a mean over windows": ("y = Conv <group = 4> (x, windows)", "2,4,6,6", False),
    "a mean over windows of channels": ("y = Conv(x, blocks)", "2,4,6,6", False),
    "another weight for each channel": ("y = Conv(x, weights)", "2,4,6,6", False),
    "several outputs": ("y = Conv(x, layers)", "2,4,6,6", False),
}


def constant(name: str, *shape: int, several: bool = False) -> str:
    size = 1
    for n in shape:
        size *= n
    numbers = ", ".join(str(1 + several * number) for number in range(size))
    return f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}"


CONSTANTS = [
    constant("stack", 2, 6, 1), constant("stacked", 2, 6, 6), constant("uniform", 6), constant("several", 6, several=True), constant("channels", 1, 4, 1, 1),
    constant("spaces", 4, 1, 6, 6), constant("windows", 4, 1, 3, 3), constant("blocks", 1, 4, 3, 3),
    constant("weights", 1, 4, 1, 1, several=True), constant("layers", 2, 4, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize(("line", "shape", "expected"), ROWS.values(), ids=ROWS)
def test_what_sums_or_averages(line, shape, expected):
    source = f"""<ir_version: 8, opset_import: ["" : 17]> main (float[{shape}] x, float[{shape}] z) => (float[] y)
        <{", ".join(CONSTANTS)}> {{ {line} }}"""
    found = ir.from_proto(onnx.parser.parse_model(source))
    assert averages(found.graph[0], learn(found)) == expected
