"""Conditioning: what `inspect` says of the gains of a fold and of the weights it was moved into."""

from __future__ import annotations

import numpy as np
import pytest

import normswap
from tests.test_fold import UP, proto

CONV = UP["Conv 1-D"][0]


def test_gains_and_weights() -> None:
    gains = np.asarray([0.0, 1e-9, 0.5, -2.0, 1.0, 3.0])
    variance = np.full(6, 1.0 - 1e-5)
    model = proto(CONV, bn_s=gains, bn_v=variance)
    (row,) = normswap.inspect(model).norms
    fold = row.conditioning
    assert fold is not None
    assert (fold.smallest_gain, fold.largest_gain) == (0.0, pytest.approx(3.0))
    assert (fold.channels, fold.dead, fold.nearly_dead) == (6, 1, 1)
    (after,) = normswap.convert(model, "folded", check=False).model.graph.initializer[:1]
    assert after.name == "w"
    weights = normswap.convert(model, "folded", check=False).model.graph.initializer
    largest = max(np.abs(np.frombuffer(tensor.raw_data, np.float64)).max() for tensor in weights)
    assert fold.largest_weight_after == pytest.approx(largest)
    assert fold.float16_headroom == pytest.approx(65504 / largest)


def test_a_norm_without_a_gain_has_none() -> None:
    model = proto(CONV, bn_s=np.ones(6), bn_v=np.full(6, 1.0), bn_m=np.zeros(6))
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.add(name="epsilon", type=1, f=0.0)
    (row,) = normswap.inspect(model).norms
    assert row.conditioning is None
