"""Copies of a region: fingerprinted once where that is enough, and again wherever another vector could tell them apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normswap import fingerprint
from normswap.copies import scales_or_shifts
from normswap.learn import learn
from normswap.norm import Recognition
from normswap.recognize import recognize

WIDTH = 8
RANDOM = np.random.default_rng(3)
LAYER = """
    m{0} = ReduceMean<axes = [-1]>({1})
    d{0} = Sub({1}, m{0})
    q{0} = Mul(d{0}, d{0})
    v{0} = ReduceMean<axes = [-1]>(q{0})
    e{0} = Add(v{0}, {epsilon})
    s{0} = Sqrt(e{0})
    u{0} = Div(d{0}, s{0})
    g{0} = Mul(u{0}, gain{0})
    y{0} = Add(g{0}, bias{0})
    t{0} = {activation}(y{0})
    x{0} = Tanh(t{0})
"""


def looked(
    vectors: dict[str, object], monkeypatch: pytest.MonkeyPatch, epsilon: str = "small", activation: str = "Identity"
) -> tuple[Recognition, int]:
    """What is recognized in three layers, and how often a region was fingerprinted, beyond those of one layer."""
    counts = []
    for layers in (1, 3):
        body = "".join(
            LAYER.format(k, f"x{k - 1}" if k else "x", epsilon=epsilon.format(k), activation=activation)
            for k in range(layers)
        )
        drawn = {f"{name}{k}": RANDOM.uniform(0.5, 2, WIDTH) for name in ("gain", "bias") for k in range(layers)}
        arrays = {**drawn, "small": np.asarray(1e-5), **vectors}
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]>'
            f"main (double[B,T,{WIDTH}] x) => (double[B,T,{WIDTH}] x{layers - 1}) {{ {body} }}"
        )
        for name, array in arrays.items():
            if name in body:
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, np.float64), name))
        calls = []
        real = fingerprint.match

        def counted(region, facts, real=real, calls=calls):
            calls.append(region)
            return real(region, facts)

        with monkeypatch.context() as patch:
            patch.setattr(fingerprint, "match", counted)
            parsed = ir.from_proto(model)
            seen = recognize(parsed, learn(parsed))
        counts.append(len(calls))
    return seen, counts[1] - counts[0]


def kinds(seen: Recognition) -> list[str]:
    return [norm.kind for norm in (*seen.norms, *seen.named)]


def test_a_copy_costs_a_look_up(monkeypatch):
    seen, more = looked({}, monkeypatch)
    assert kinds(seen) == ["LayerNorm"] * 3
    assert more == 0
    gains = [norm.gain.array.sum() for norm in seen.norms if norm.gain is not None]
    assert len(set(gains)) == 3  # each has its own


def test_behind_a_relu_a_gain_still_only_scales_what_was_found(monkeypatch):
    seen, more = looked({}, monkeypatch, activation="Relu")
    assert kinds(seen) == ["LayerNorm"] * 3
    assert more == 0


def test_a_vector_inside_the_root_is_looked_at_in_every_copy(monkeypatch):
    vectors = {f"eps{k}": np.full(WIDTH, 1e-12) for k in range(3)}
    seen, more = looked(vectors, monkeypatch, epsilon="eps{0}")
    assert (kinds(seen), more) == (["LayerNorm"] * 3, 0)
    uneven = {**vectors, "eps2": 1e-12 * np.arange(1, WIDTH + 1)}
    seen, more = looked(uneven, monkeypatch, epsilon="eps{0}")
    assert more > 0
    # the third root is no norm: at ordinary scales nobody sees that
    assert [norm.output.name for norm in (*seen.norms, *seen.named) if norm.kind == "LayerNorm"] == ["y0", "y1"]


def test_a_gain_that_hides_an_element_proves_nothing_for_others(monkeypatch):
    hidden = np.ones(WIDTH)
    hidden[-1] = 0.0
    _, more = looked({"gain0": hidden}, monkeypatch)
    assert more > 0


NODES = {
    "a gain, then a bias": ("y = Mul(u, c)\n z = Add(y, b)", True),
    "divided by": ("y = Div(u, c)", True),
    "summed after": ("y = Mul(u, c)\n z = ReduceSum<keepdims = 1>(y)", True),
    "squared": ("y = Mul(u, c)\n z = Mul(y, y)", False),
    "times itself": ("y = Mul(c, c)\n z = Mul(y, u)", False),
    "divided by twice": ("y = Div(u, c)\n z = Div(y, c)", False),
    "multiplied and divided by": ("y = Mul(u, c)\n z = Div(y, c)", False),
    "its root": ("y = Sqrt(c)\n z = Mul(u, y)", False),
    "the larger": ("y = Max(u, c)", False),
    "under a divisor": ("y = Add(u, c)\n z = Div(u, y)", False),
}


@pytest.mark.parametrize(("lines", "expected"), NODES.values(), ids=NODES)
def test_what_is_affine_in_a_vector(lines, expected):
    text = f'<ir_version: 8, opset_import: ["" : 17]> main (float[8] u, float[8] c, float[8] b) => () {{ {lines} }}'
    graph = ir.from_proto(onnx.parser.parse_model(text)).graph
    assert scales_or_shifts(graph.inputs[1], tuple(graph)) is expected
