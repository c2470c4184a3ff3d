"""LSTM, GRU and RNN: what reaches the input is absorbed by W and the input's half of B, per gate and direction.

push    W (s·x + t) + Wb = (W·s) x + (Wb + W t)     the gates see the same numbers, so every output is the same

That holds before any nonlinearity and at every time step, so activations, clip, peepholes, lengths, the recurrent half
of B and whether a GRU resets before or after its product do not matter. Nothing is pulled: the outputs are nonlinear.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from normswap import maps
from normswap.maps import Deferred, Map, Shape
from normswap.reference import Floats, attribute
from normswap.transfer.step import Along, Blocked, Request, Step, on_axis, only_along

# Inputs: X, W [directions, gates · H, I], R, B [directions, 2 · gates · H], sequence_lens, initial_h, initial_c, P.
X, W, B, LENGTHS = 0, 1, 3, 4
# The axis of the batch under layout 0, where an input has one.
BATCH_AXES = {X: 1, LENGTHS: 0, 5: 1, 6: 1}
# A probe of a few steps and rows passes through everything that longer ones do.
STEPS, ROWS = 4, 3


def recurrent(request: Request) -> Step | Blocked:
    """LSTM, GRU and RNN."""
    a_map, weight = request.map, request.value(W)
    if request.pulls:
        return Blocked("opaque-producer", "a recurrent layer")
    if request.at != X:
        return Blocked("does-not-commute", "a map on another input of a recurrent layer than its sequence")
    if weight is None or not request.is_constant(W):
        return Blocked("opaque-producer", "a recurrent layer whose weight is not constant")
    shape, dims = request.facts.shape(weight), request.dims(X)
    if shape is None or dims is None or len(shape) != 3 or len(dims) != 3:
        return Blocked("unknown-shape", "a recurrent layer of unknown shape")
    if not only_along(a_map, [2]):
        return Blocked("does-not-commute", "a map along the steps or the batch of a recurrent layer")
    if a_map.centers and a_map.scales:
        return Blocked("does-not-commute", "a map that both centers and scales the input of a recurrent layer")
    linear = maps.linear(a_map)
    constants = {} if linear.is_identity else {W: on_axis(linear, 2, 3, 2)}
    created: dict[int, Shape] = {}
    if a_map.shifts:
        halves = (shape[0], 2 * shape[1])
        if request.value(B) is None:
            created[B] = halves
        elif not request.is_constant(B):
            return Blocked("overridable-initializer", "a bias that is not constant")
        constants[B] = maps.affine(2, shift=Deferred(halves, lambda: _input_half(a_map, request, weight)))
    lengths = {} if request.value(LENGTHS) is None else {LENGTHS: Along(X, attribute(request.node, "layout", 0))}
    return Step(inputs={X: a_map}, constants=constants, created=created, lengths=lengths, probes=_probes(request))


def _input_half(a_map: Map, request: Request, weight: ir.Value) -> Floats:
    """W t in the input's half of B, nothing in the recurrent half."""
    matrices = request.facts.float64(weight)
    product = matrices @ np.broadcast_to(a_map.offset().reshape(-1), matrices.shape[2:])
    return np.concatenate([product, np.zeros_like(product)], axis=1)


def _probes(request: Request) -> dict[int, Shape]:
    """A few steps; and a few rows of the batch, unless its size is fixed by an input that is not drawn."""
    facts, batch_first = request.facts, attribute(request.node, "layout", 0)
    shapes = {
        index: list(shape)
        for index in BATCH_AXES
        if (value := request.value(index)) is not None and (shape := facts.shape(value)) is not None
    }
    fixed = [
        index
        for index in shapes
        if (value := request.value(index)) is not None
        and (facts.is_constant(value) or facts.derived(value) is not None)
    ]
    shapes[X][batch_first] = min(STEPS, shapes[X][batch_first])
    for index in shapes if not fixed else ():
        axis = 0 if batch_first else BATCH_AXES[index]
        shapes[index][axis] = min(ROWS, shapes[index][axis])
    return {index: tuple(shape) for index, shape in shapes.items()}
