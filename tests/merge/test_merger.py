"""What a merge rests on: windows against their definition, and proofs that catch whatever is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from normswap.merge import merger, terms
from normswap.merge.window import Window, joined, places
from tests.graphs import Floats
from tests.merge.merging import merged
from tests.merge.test_merge import FOUR, GEMMS, PRODUCTS, RepVGG, pair

# --- windows, by their definition -----------------------------------------------------------------------------------


def taps_of(window: Window) -> list[int]:
    """Where the taps of a window along its one axis are, relative to the first position it is put on."""
    return [window.dilations[0] * tap - window.begins[0] for tap in range(window.kernel[0])]


def positions(window: Window, size: int, stride: int) -> int:
    """How many positions a kernel has on the padded input."""
    room = window.begins[0] + size + window.ends[0] - window.dilations[0] * (window.kernel[0] - 1)
    return len(range(0, room, stride)) if room > 0 else 0


WINDOWS = st.builds(
    lambda begin, taps, end, dilation: Window((begin,), (taps,), (end,), (dilation,)),
    st.integers(0, 5),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(1, 3),
)


@given(WINDOWS, WINDOWS, st.integers(1, 3))
def test_a_joined_window_has_the_taps_and_the_positions_of_both(left: Window, right: Window, stride: int) -> None:
    both = joined(left, right, [None])
    sizes = range(12, 12 + stride)
    alike = all(positions(left, size, stride) == positions(right, size, stride) for size in sizes)
    assert (both is not None) == alike
    if both is None:
        return
    for size in sizes:
        assert positions(both, size, stride) == positions(left, size, stride)
    for window in (left, right):
        found = np.asarray(taps_of(both))[places(window, both)[0]]
        assert found.tolist() == taps_of(window)


TAPS = st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 3))


@given(TAPS, TAPS, st.integers(-3, 1), st.integers(1, 3), st.sampled_from(["W", "14", "15"]))
@settings(max_examples=60, deadline=None)
def test_random_pairs_become_one(
    first: tuple[int, ...], second: tuple[int, ...], slack: int, stride: int, size: str
) -> None:
    convs = []
    for begin, taps, dilation in (first, second):
        end = slack + 1 + dilation * (taps - 1) - begin
        assume(end >= 0)
        convs.append(f"pads = [{begin},{end}], dilations = [{dilation}], strides = [{stride}]>(x, w{taps})")
    kernels = ", ".join(f"double[3,2,{taps}] w{taps}" for taps in range(1, 5))
    text = f"""main (double[N,2,{size}] x) => (double[N,3,J] y) <{kernels}>
        {{ p = Conv<{convs[0]} q = Conv<{convs[1]} [sum] y = Add(p, q) }}"""
    result = merged(text, None)
    assert (len(result.rewrites), result.reasons) == (1, [])


# --- mutants --------------------------------------------------------------------------------------------------------


def shifted(window: Window, inside: Window) -> tuple[slice, ...]:
    """Each kernel one tap to the left of its place, where there is room."""
    found = places(window, inside)
    return tuple(slice(max(at.start - 1, 0), max(at.start - 1, 0) + at.stop - at.start, at.step) for at in found)


def at_the_corner(window: Window, inside: Window) -> tuple[slice, ...]:
    """Each kernel at the first tap."""
    return tuple(slice(0, at.stop - at.start, at.step) for at in places(window, inside))


def without_gain(wanted: merger.Merger) -> Floats:
    """The weight without the Affine."""
    return WEIGHT(replace(wanted, terms=tuple(term for term in wanted.terms if term.gain is None)))


def on_the_wrong_channel(wanted: merger.Merger) -> Floats:
    """The diagonal of each group one channel further."""
    rest = without_gain(wanted)
    return rest + np.roll(WEIGHT(wanted) - rest, 1, axis=1)


def without_groups(wanted: merger.Merger) -> Floats:
    """The diagonal as if there were one group: only the first channels are on it."""
    rest = without_gain(wanted)
    diagonal = WEIGHT(wanted) - rest
    diagonal[wanted.frame.inputs :] = 0
    return rest + diagonal


def without_alpha(wanted: merger.Merger) -> Floats:
    """The weights of Gemms as they are stored."""
    return WEIGHT(wanted) + np.asarray(wanted.terms[0].weight()) * (wanted.node.op_type == "Gemm")  # type: ignore[misc]


def turned(wanted: merger.Merger) -> Floats:
    """A weight whose first two axes are exchanged."""
    return WEIGHT(wanted).swapaxes(0, 1)


def first_bias(wanted: merger.Merger) -> Floats:
    """The bias of the operator that has one, and no other."""
    return BIAS(replace(wanted, terms=[term for term in wanted.terms if term.bias is not None][:1]))  # type: ignore[arg-type]


def mirrored(wanted: merger.Merger) -> Floats:
    """The kernel the other way round."""
    return WEIGHT(wanted)[..., ::-1]


WEIGHT, BIAS = merger.weight, merger.bias
GROUPED = RepVGG(channels=6, group=2, biases=(True, True))
STRIDED = pair("pads = [1,1,1,1], strides = [2,2]>(x, a)", "strides = [2,2]>(x, b)")
MUTANTS = [
    ("places", shifted, RepVGG()),
    ("places", at_the_corner, RepVGG()),
    ("places", at_the_corner, RepVGG("W", kernels=("3", "1"), attributes=("pads = [1,1]", ""))),
    ("places", shifted, FOUR),
    ("places", at_the_corner, STRIDED),
    ("weight", without_gain, RepVGG()),
    ("weight", without_gain, RepVGG(group=4)),
    ("weight", on_the_wrong_channel, RepVGG()),
    ("weight", on_the_wrong_channel, GROUPED),
    ("weight", without_groups, GROUPED),
    ("weight", mirrored, RepVGG()),
    ("weight", mirrored, FOUR),
    ("weight", turned, RepVGG()),
    ("weight", turned, GEMMS),
    ("weight", without_alpha, GEMMS),
    ("bias", lambda wanted: 0 * BIAS(wanted), RepVGG()),
    ("bias", lambda wanted: 0 * BIAS(wanted), FOUR),
    ("bias", lambda wanted: -BIAS(wanted), GROUPED),
    ("bias", first_bias, RepVGG(biases=(True, True))),
    ("bias", first_bias, GROUPED),
    ("bias", first_bias, GEMMS),
    ("bias", first_bias, PRODUCTS.format(sums="s = Add(p, c) t = Add(q, d) [sum] y = Add(s, t)")),
]


@pytest.mark.parametrize(("name", "mutant", "graph"), MUTANTS)
def test_the_proof_catches_a_mutant(
    name: str, mutant: Callable[..., object], graph: RepVGG | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graph.proto() if isinstance(graph, RepVGG) else graph
    assert len(merged(model, None).rewrites) == 1
    monkeypatch.setattr(merger, name, mutant)
    result = merged(model, None)  # and what is left still computes the same
    assert (result.rewrites, result.reasons) == ([], ["proof-failed"])


def test_the_proof_catches_forgotten_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = merger._operator

    def mutant(wanted: merger.Merger, **options: bool) -> ir.Node:
        node = operator(wanted, **options)
        pads = node.attributes["pads"].as_ints()
        node.attributes["pads"] = ir.AttrInt64s("pads", [pads[0] + 1, *pads[1:2], pads[2] - 1, *pads[3:]])
        return node

    monkeypatch.setattr(merger, "_operator", mutant)
    assert merged(RepVGG().proto(), None).reasons == ["proof-failed"]


def test_the_proof_catches_strides_that_were_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    per_axis = terms.per_axis
    ones = {"strides": lambda _, __, count: (1,) * count}
    monkeypatch.setattr(terms, "per_axis", lambda node, name, count: ones.get(name, per_axis)(node, name, count))
    text = pair("pads = [1,1,1,1], strides = [2,2]>(x, a)", "group = 1>(x, a)", x="N,4,4,4")
    assert merged(text, None).reasons == ["proof-failed"]


def test_a_failed_merge_leaves_the_graph_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GROUPED.proto()
    before = ir.to_proto(ir.from_proto(model))
    monkeypatch.setattr(merger, "bias", lambda wanted: 0 * BIAS(wanted))
    after = merged(model, None).proto
    assert after.graph.node == before.graph.node
    assert after.graph.initializer == before.graph.initializer


def test_what_cannot_be_executed_is_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> list[object]:
        raise merger.reference.Unexecutable("no definition")

    monkeypatch.setattr(merger.reference, "run", nothing)
    assert merged(RepVGG(identity=False).proto(), None).reasons == ["proof-failed"]
