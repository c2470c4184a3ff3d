"""The sizes that shapes on the command line give to free dimensions, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from normswap.bench.feeds import sweep
from normswap.check.interface import Interface, Port
from normswap.errors import UsageError

PORTS = Interface(
    (
        Port("ids", ir.DataType.INT64, ("batch", "sequence")),
        Port("mask", ir.DataType.INT64, ("batch", "sequence")),
        Port("image", ir.DataType.FLOAT, ("batch", 3, None, None)),
    ),
    (),
    (),
)
MODEL = Path("model.onnx")


def test_every_shape_of_a_sweep_binds_the_dimensions_of_its_input() -> None:
    assert sweep(MODEL, PORTS, {"ids": [(1, 128), (8, 512)]}) == [
        {"batch": 1, "sequence": 128},
        {"batch": 8, "sequence": 512},
    ]
    assert sweep(MODEL, PORTS, {"ids": [(1, 8), (1, 16)], "image": [(1, 3, 32, 64)]}) == [
        {"batch": 1, "sequence": 8, "image[2]": 32, "image[3]": 64},
        {"batch": 1, "sequence": 16, "image[2]": 32, "image[3]": 64},
    ]
    assert sweep(MODEL, PORTS, {}) == [{}]


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        ({"idz": [(1, 8)]}, "no input `idz`; it has ids, mask, image"),
        ({"ids": [(8,)]}, "input `ids` has 2 dimensions, 8 has 1"),
        ({"image": [(1, 4, 8, 8)]}, "dimension 1 of input `image` is always 3, not 4"),
        ({"ids": [(1, 8)], "mask": [(2, 8)]}, "`batch` cannot be both 1 and 2"),
        ({"ids": [(1, 8), (1, 9)], "image": [(1, 3, 8, 8)] * 3}, "equally many"),
    ],
)
def test_what_does_not_fit_is_named(shapes: dict[str, list[tuple[int, ...]]], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint.replace("?", r"\?")):
        sweep(MODEL, PORTS, shapes)
