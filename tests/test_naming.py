"""Names of norms: what they compute decides, and the operator only where two names are one function."""

from __future__ import annotations

import numpy as np
import pytest

from normswap.forms import Form
from normswap.naming import kind_of, size_of
from normswap.norm import Parameter

IMAGE, TOKENS = (None, 12, 6, 10), (None, None, 12)


def parameter(*shape: int, value: float = 2.0) -> Parameter:
    return Parameter(np.full(shape, value))


@pytest.mark.parametrize(
    ("form", "dims", "gain", "bias", "operator", "kind"),
    [
        (Form(True, (2,)), TOKENS, parameter(12), parameter(12), "", "LayerNorm"),
        (Form(True, (2,)), TOKENS, parameter(12), parameter(12), "InstanceNormalization", "InstanceNorm"),
        (Form(True, (2,)), TOKENS, None, parameter(5, 1), "", "InstanceNorm"),
        (Form(True, (2,)), TOKENS, None, parameter(5, 12), "", "LayerNorm"),
        (Form(True, (2, 3)), IMAGE, None, None, "", "InstanceNorm"),
        (Form(True, (2, 3)), IMAGE, parameter(10), None, "", "LayerNorm"),
        (Form(True, (3,)), IMAGE, None, None, "", "LayerNorm"),
        (Form(True, (1, 2, 3)), IMAGE, parameter(12, 1, 1), None, "", "LayerNorm"),
        (Form(True, (1, 2, 3)), IMAGE, parameter(12, 1, 1), None, "GroupNormalization", "GroupNorm"),
        (Form(True, (1, 2, 3), groups=4), IMAGE, parameter(12, 1, 1), None, "", "GroupNorm"),
        (Form(True, (1,)), (None, 12), parameter(12), None, "", "LayerNorm"),
        (Form(True, (0, 2, 3), 1e-9, "outside"), IMAGE, None, None, "", "MeanVarianceNorm"),
        (Form(False, (2,)), TOKENS, parameter(12), None, "", "RMSNorm"),
        (Form(False, (2,)), TOKENS, None, None, "", "RMSNorm"),
        (Form(False, (2,)), TOKENS, parameter(1), None, "", "ScaleNorm"),
        (Form(False, (2,)), TOKENS, parameter(1), parameter(12), "", "RMSNorm"),
        (Form(False, (2,)), TOKENS, parameter(1, value=12**-0.5), None, "", "L2Norm"),
        (Form(False, (2,), 1e-6, "floor"), TOKENS, parameter(1, value=12**-0.5), None, "", "L2Norm"),
        (Form(False, (2,)), TOKENS, parameter(12, value=12**-0.5), None, "", "RMSNorm"),
        (Form(False, (2,)), TOKENS, parameter(1, value=-(12**-0.5)), None, "", "ScaleNorm"),
        (Form(False, (1,), total=True), TOKENS, None, None, "", "L2Norm"),
        (Form(False, (2,), groups=2), TOKENS, parameter(12), None, "", "RMSNorm"),
        (Form(False, (2,), groups=2), TOKENS, parameter(12), parameter(12), "", "PowerNorm"),
        (Form(False, (2,), elements=3), TOKENS, parameter(12), None, "", "PartialRMSNorm"),
    ],
)
def test_names(form, dims, gain, bias, operator, kind):
    assert kind_of(form, dims, gain, bias, operator) == kind


def test_sizes():
    assert size_of(Form(True, (1, 2, 3), groups=4), IMAGE) == 180
    assert size_of(Form(True, (0, 2)), IMAGE) is None
    assert size_of(Form(False, (2,), elements=5), TOKENS) == 5
