"""LSTM, GRU and RNN in float64, with sequence lengths, both layouts, peepholes and every activation.

onnx's reference operators ignore `sequence_lens` and the chosen activations. One loop serves the three: a cell maps
(the step's input part, its hidden and cell state) to the new states; a row past its own length keeps its states and
gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from normswap.arrays import Array, Floats, Unexecutable, attribute

Activation = Callable[[Floats], Floats]
# (gates of the step without the recurrent part, hidden, cell) -> (hidden, cell)
Cell = Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]
# Builds one direction's cell from R, the bias of R, the peepholes, its activations and the clip bound.
Build = Callable[[ir.Node, Floats, Floats, Floats, Sequence[Activation], Activation], Cell]


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    match name.lower():
        case "sigmoid":
            return lambda x: 0.5 * (1.0 + np.tanh(0.5 * x))
        case "tanh":
            return lambda x: np.asarray(np.tanh(x))
        case "relu":
            return lambda x: np.maximum(x, 0.0)
        case "affine":
            a, b = given(alpha, 1.0), given(beta, 0.0)
            return lambda x: a * x + b
        case "leakyrelu":
            a = given(alpha, 0.01)
            return lambda x: np.where(x < 0, a * x, x)
        case "thresholdedrelu":
            a = given(alpha, 1.0)
            return lambda x: np.where(x >= a, x, 0.0)
        case "scaledtanh":
            a, b = given(alpha, 1.0), given(beta, 1.0)
            return lambda x: a * np.tanh(b * x)
        case "hardsigmoid":
            a, b = given(alpha, 0.2), given(beta, 0.5)
            return lambda x: np.clip(a * x + b, 0.0, 1.0)
        case "elu":
            a = given(alpha, 1.0)
            return lambda x: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0.0)))
        case "softsign":
            return lambda x: x / (1.0 + np.abs(x))
        case "softplus":
            return lambda x: np.asarray(np.logaddexp(0.0, x))
    raise Unexecutable(f"activation {name} is not defined")


# Activations that take an alpha, and those that take a beta: the lists in the attributes skip the others.
_WITH_ALPHA = frozenset({"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"})
_WITH_BETA = frozenset({"affine", "scaledtanh", "hardsigmoid"})


def _activations(node: ir.Node, default: Sequence[str], directions: int) -> list[Activation]:
    written = node.attributes.get("activations")
    names = list(written.as_strings()) if written is not None else list(default) * directions
    alphas, betas = (
        iter(list(found.as_floats()) if (found := node.attributes.get(name)) is not None else [])
        for name in ("activation_alpha", "activation_beta")
    )
    return [
        _activation(
            name,
            next(alphas, None) if name.lower() in _WITH_ALPHA else None,
            next(betas, None) if name.lower() in _WITH_BETA else None,
        )
        for name in names
    ]


def _lstm_cell(
    node: ir.Node, r: Floats, rb: Floats, peephole: Floats, f: Sequence[Activation], clip: Activation
) -> Cell:
    pi, po, pf = np.split(peephole, 3)
    coupled = attribute(node, "input_forget", 0)

    def cell(gates: Floats, hidden: Floats, state: Floats) -> tuple[Floats, Floats]:
        i, o, forget, c = np.split(gates + hidden @ r.T + rb, 4, axis=-1)
        i = f[0](clip(i + pi * state))
        keep = 1.0 - i if coupled else f[0](clip(forget + pf * state))
        state = keep * state + i * f[1](clip(c))
        return f[0](clip(o + po * state)) * f[2](state), state

    return cell


def _gru_cell(
    node: ir.Node, r: Floats, rb: Floats, peephole: Floats, f: Sequence[Activation], clip: Activation
) -> Cell:
    rz, rr, rh = np.split(r, 3)
    bz, br, bh = np.split(rb, 3)
    linear_first = attribute(node, "linear_before_reset", 0)

    def cell(gates: Floats, hidden: Floats, state: Floats) -> tuple[Floats, Floats]:
        xz, xr, xh = np.split(gates, 3, axis=-1)
        z = f[0](clip(xz + hidden @ rz.T + bz))
        reset = f[0](clip(xr + hidden @ rr.T + br))
        recurrent = reset * (hidden @ rh.T + bh) if linear_first else (reset * hidden) @ rh.T + bh
        return (1.0 - z) * f[1](clip(xh + recurrent)) + z * hidden, state

    return cell


def _rnn_cell(
    node: ir.Node, r: Floats, rb: Floats, peephole: Floats, f: Sequence[Activation], clip: Activation
) -> Cell:
    return lambda gates, hidden, state: (f[0](clip(gates + hidden @ r.T + rb)), state)


def _recurrent(node: ir.Node, arrays: Sequence[Array | None], build: Build, default: Sequence[str]) -> list[Array]:
    """Y [T, directions, N, H], Y_h and Y_c [directions, N, H] (batch first under layout 1)."""

    def operand(index: int, otherwise: Floats) -> Floats:
        found = arrays[index] if index < len(arrays) else None
        return otherwise if found is None else found.astype(np.float64)

    missing = np.zeros(0)
    x, w, r = operand(0, missing), operand(1, missing), operand(2, missing)
    layout = attribute(node, "layout", 0)
    x = x.swapaxes(0, 1) if layout else x
    steps, batch, directions, size = x.shape[0], x.shape[1], w.shape[0], r.shape[2]
    bias = operand(3, np.zeros((directions, 2 * w.shape[1])))
    lengths = operand(4, np.full(batch, float(steps)))
    states = [operand(i, np.zeros((batch, directions, size) if layout else (directions, batch, size))) for i in (5, 6)]
    hidden, state = (s.swapaxes(0, 1) if layout else s for s in states)
    peephole = operand(7, np.zeros((directions, 3 * size)))
    bound = node.attributes.get("clip")
    limit = np.inf if bound is None else bound.as_float()
    activations = _activations(node, default, directions)
    way = node.attributes.get("direction")
    only_backward = way is not None and way.as_string() == "reverse"

    y, last = np.zeros((steps, directions, batch, size)), ([], [])  # type: tuple[Floats, tuple[list[Floats], list[Floats]]]
    for d in range(directions):
        own = activations[d * len(default) : (d + 1) * len(default)]
        input_bias, recurrent_bias = np.split(bias[d], 2)
        cell = build(node, r[d], recurrent_bias, peephole[d], own, lambda v: np.clip(v, -limit, limit))
        gates, h, c = x @ w[d].T + input_bias, hidden[d], state[d]
        order = range(steps) if d == 0 and not only_backward else range(steps - 1, -1, -1)
        for t in order:
            alive = (t < lengths)[:, None]
            new_h, new_c = cell(gates[t], h, c)
            h, c = np.where(alive, new_h, h), np.where(alive, new_c, c)
            y[t, d] = np.where(alive, new_h, 0.0)
        last[0].append(h)
        last[1].append(c)
    final = [np.stack(states) for states in last]
    if layout:
        return [y.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in final)]
    return [y, *final]


def lstm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """LSTM; gates in the order i, o, f, c."""
    return _recurrent(node, arrays, _lstm_cell, ("Sigmoid", "Tanh", "Tanh"))


def gru(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """GRU; gates in the order z, r, h."""
    without_cell = [*arrays[:6]]
    return _recurrent(node, without_cell, _gru_cell, ("Sigmoid", "Tanh"))[:2]


def rnn(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """RNN."""
    return _recurrent(node, [*arrays[:6]], _rnn_cell, ("Tanh",))[:2]
