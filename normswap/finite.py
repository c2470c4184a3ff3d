"""Whether the new constants of a plan are finite in the types they are stored in: one more obligation of a plan."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from normswap import maps
from normswap.emit import EAGER, NotFinite, rounded
from normswap.facts import Facts
from normswap.plan import Plan
from normswap.prove import Obligation

# No weight that a factor up to this takes out of the range of float32 is usual.
WILD = 2.0**64


def not_finite(plan: Plan, facts: Facts, *, eager: bool) -> Iterator[Obligation]:
    """New constants that would not be finite in their type: all of narrow types, which overflow, and small ones.

    Large ones of wide types are only looked at where a factor is so large that usual weights overflow.
    """
    for node, step in plan.steps.items():
        for index, a_map in step.constants.items():
            old = node.inputs[index] if index not in step.created else None
            dtype = facts.dtype(node.outputs[0] if old is None else old) or ir.DataType.FLOAT
            shape = step.created[index] if old is None else facts.shape(old) or ()
            narrow = dtype.bitwidth < ir.DataType.FLOAT.bitwidth
            wild = eager and np.abs(a_map.scale).max(initial=0.0) > WILD
            if not (narrow or wild or (eager and int(np.prod(shape)) <= EAGER)):
                continue
            array = maps.apply(a_map, np.zeros(shape) if old is None else facts.float64(old))
            try:
                rounded(array, dtype, f"{node.name or node.op_type}, input {index}")
            except NotFinite as error:
                values = frozenset(value for value in (*node.inputs, *node.outputs) if value is not None)
                yield Obligation(node.name or node.op_type, np.inf, f"is not possible: {error}", values, "not-finite")
