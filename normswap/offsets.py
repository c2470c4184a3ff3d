"""Probes far from zero: there alone a bound on a multiple of the mean bites, as on mean · γ/σ in a folded LayerNorm.

What is subtracted there leaves rounding noise, more or less of it as a norm is spelled. How much is seen by running the
region on inputs that differ by a few units in the last place: an error is one where it is larger than that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normswap import probes
from normswap.forms import TOLERANCE, Form
from normswap.reference import Floats
from normswap.setting import Setting

# How far from zero, in units of the spread, the nearest first.
OFFSETS = tuple(sign * 10.0**exponent for exponent in range(3, 13) for sign in (1, -1))
# Units in the last place by which the inputs differ; how many times as large as what that makes an error may be; and
# the noise, relative to the value, from which on nothing can be said.
STEPS = (1, -2, 2)
AMPLIFIED = 1e3
DEAF = 1e-3


def bent(setting: Setting, form: Form, affines: Mapping[ir.Value, tuple[Floats, Floats]]) -> set[ir.Value]:
    """Those targets that are not gain · form + bias where x is far from zero. Raises `Unexecutable`."""
    random, found, heard = probes.generator(), set[ir.Value](), set(affines)
    for offset in OFFSETS:
        x = random.standard_normal(setting.shape) + offset
        core, values = form.core(x), setting.run(x)
        others = [setting.run(x + step * np.spacing(x) * random.integers(0, 2, x.shape)) for step in STEPS]
        for target in sorted(heard, key=lambda value: value.name or ""):
            gain, bias = affines[target]
            value, expected = np.asarray(values[target], np.float64), gain * core + bias
            loudest = float(np.abs(gain * core).max())
            moved = max(float(np.abs(np.asarray(other[target], np.float64) - value).max()) for other in others)
            if not moved <= DEAF * max(loudest, float(np.abs(value - bias).max())):
                heard.discard(target)
            elif not np.abs(value - expected).max() <= TOLERANCE * loudest + AMPLIFIED * moved:
                found.add(target)
    return found
