"""A chain of norms, each of which converts by itself; it can be converted wrongly at chosen places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx
import pytest

from normswap import rewrite, session
from normswap.norm import Norm
from tests.graphs import parsed

NORMS = 5
SIZE = 12


def chain(names: list[str] | None = None) -> onnx.ModelProto:
    """x → [MatMul, Add, LayerNorm, Erf] × 5 → MatMul; the norms are called `ln_1` ... or `names`."""
    names = names or [f"ln_{index}" for index in range(1, NORMS + 1)]
    floats, lines, last = [], [], "x"
    for index in range(1, NORMS + 1):
        floats += [f"float[{SIZE},{SIZE}] w{index}", *(f"float[{SIZE}] {name}{index}" for name in "bgt")]
        lines += [
            f"p{index} = MatMul({last}, w{index})",
            f"h{index} = Add(p{index}, b{index})",
            f"n{index} = LayerNormalization<axis = -1>(h{index}, g{index}, t{index})",
            f"e{index} = Erf(n{index})",
        ]
        last = f"e{index}"
    text = f"chain (float[N,S,{SIZE}] x) => (float[N,S,{SIZE}] y) <{', '.join(floats)}, float[{SIZE},{SIZE}] head>"
    model = parsed(f"{text} {{ {' '.join(lines)} y = MatMul({last}, head) }}", opset=23, ir_version=10)
    for node, name in zip((n for n in model.graph.node if n.op_type == "LayerNormalization"), names, strict=True):
        node.name = name
    return model


@pytest.fixture
def misspell(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`misspell("ln_3")`: whenever this norm is written, its ε is a hundred times too large, which no proof sees."""
    right = rewrite.canonical

    def wrong(*names: str) -> None:
        def canonical(emitter, norm: Norm, source):
            changed = replace(norm, epsilon=1e3 * norm.epsilon) if norm.name in names else norm
            return right(emitter, changed, source)

        monkeypatch.setattr(rewrite, "canonical", canonical)

    return wrong


@pytest.fixture
def forget_bias(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`forget_bias("b2")`: the transfer at the Add of this constant leaves it as it is, and nothing is proved."""
    right = session.rewrite.replace_constants

    def forget(name: str) -> None:
        def replace_constants(plan, emitter):
            for node, step in list(plan.steps.items()):
                if any(value is not None and value.name == name for value in node.inputs):
                    plan.steps[node] = replace(step, constants={})
            return right(plan, emitter)

        monkeypatch.setattr(session.rewrite, "replace_constants", replace_constants)
        monkeypatch.setattr(session, "prove", lambda scene, plan: ())

    return forget
