"""Families of inputs: reproducible, in range, and different from each other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from normswap.check import sizes
from normswap.check.inputs import FULL, QUICK, families, synthesize
from normswap.check.interface import Port
from normswap.check.ranges import Ids, Mask, Numbers, Positions


def port(name: str, *shape: int | str | None, dtype: ir.DataType = ir.DataType.FLOAT) -> Port:
    return Port(name, dtype, shape)


def test_families_are_reproducible_and_differ():
    x = port("x", "n", 50)
    binding = sizes.Binding("odd", (("n", 20),))
    drawn = {f.name: synthesize([x], [Numbers()], binding, f, seed=3).feeds["x"] for f in FULL}
    again = {f.name: synthesize([x], [Numbers()], binding, f, seed=3).feeds["x"] for f in FULL}
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)
    assert abs(drawn["shifted mean"].mean() - 1) < 0.1
    assert abs(drawn["large mean"].mean() - 100) < 1
    assert abs(drawn["zero mean"].mean()) < 0.1
    assert not np.ptp(drawn["constant rows"], axis=1).any()
    assert not drawn["zeros"].any()
    assert len(QUICK) >= 2


def test_ids_reach_the_whole_table():
    ids = port("ids", "n", dtype=ir.DataType.INT64)
    drawn = synthesize([ids], [Ids(7)], sizes.Binding("odd", (("n", 500),)), QUICK[0], seed=0).feeds["ids"]
    assert set(drawn.tolist()) == set(range(7))


def test_positions_follow_each_other_inside_the_table():
    ids = port("position_ids", "n", "s", dtype=ir.DataType.INT64)
    binding = sizes.Binding("odd", (("n", 3), ("s", 5)))
    starts = set()
    for seed in range(20):
        drawn = synthesize([ids], [Positions(8)], binding, QUICK[0], seed).feeds["position_ids"]
        assert drawn.shape == (3, 5)
        assert (np.diff(drawn) == 1).all()
        assert drawn.min() >= 0
        assert drawn.max() < 8
        starts.add(int(drawn[0, 0]))
    assert starts == {0, 1, 2, 3}
    short = synthesize([ids], [Positions(2)], binding, QUICK[0], 0).feeds["position_ids"]
    assert set(short.ravel().tolist()) == {0, 1}


def test_every_row_of_a_mask_attends_to_something():
    mask = port("mask", "n", "s", dtype=ir.DataType.INT64)
    binding = sizes.Binding("odd", (("n", 30), ("s", 5)))
    for family in FULL:
        rows = synthesize([mask], [Mask()], binding, family, seed=0).feeds["mask"]
        assert set(np.unique(rows)) <= {0, 1}
        assert rows.any(axis=1).all()


def test_families_fit_the_dtype():
    half = port("x", 4, dtype=ir.DataType.FLOAT16)
    assert "huge mean" not in [f.name for f in families([half], [Numbers()], quick=False)]
    assert "huge mean" in [f.name for f in families([port("x", 4)], [Numbers()], quick=False)]
