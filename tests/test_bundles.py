"""Bundled operators read as their pieces: converted where that can be, put back as they were where not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import normswap
from normswap.bundles import rebundle, unbundle
from normswap.check.truth import Evaluator
from normswap.model import open_model, to_proto
from normswap.regroup import write
from normswap.session import Session
from normswap.taken_apart import BUNDLES
from tests.graphs import feeds, filled

SKIP = """
<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
skip (float[N,4] x) => (float[N,3] y{EXTRA})
<float[4,6] w0, float[6,6] w1, float[6] g, float[6] c, float[6] b, float[6,3] head>
{{
  h = MatMul(x, w0)
  [first] n = LayerNormalization <axis = -1> (h, g, c)
  a = MatMul(n, w1)
  [skip] m, mean, deviation, s = com.microsoft.SkipLayerNormalization <epsilon = 0.01> (a, h, g, c, b)
  y = MatMul(m, head)
  {MORE}
}}
"""


def model(extra: str = "", more: str = "") -> onnx.ModelProto:
    return filled(onnx.parser.parse_model(SKIP.format(EXTRA=extra, MORE=more)))


def test_both_norms_convert_and_the_check_passes():
    result = normswap.convert(model())
    operators = [node.op_type for node in result.model.graph.node]
    assert operators.count("RMSNormalization") == 2
    assert "SkipLayerNormalization" not in operators
    assert result.check is not None
    assert result.check.verdict == "pass"


def test_a_bundle_beside_a_converted_norm_keeps_its_form():
    """The stream of `skip` is read by a nonlinearity, so only a norm elsewhere converts."""
    more = "u = Exp(s)  k = MatMul(x, w0)  [other] o = LayerNormalization <axis = -1> (k, g, c)  v = MatMul(o, head)"
    result = normswap.convert(model(", float[N,6] u, float[N,3] v", more), check=False)
    operators = [node.op_type for node in result.model.graph.node]
    assert operators.count("RMSNormalization") == 1
    assert operators.count("SkipLayerNormalization") == 1
    assert {refusal.site for refusal in result.refused} == {"first", "skip"}


# --- every bundle ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One bundle called `b`: its inputs besides weights, its outputs, the weights, the node, and its pieces' operators."""

    inputs: str
    outputs: str
    weights: str
    node: str
    pieces: tuple[str, ...]
    kind: str
    norm_input: str
    opset: int = 17

    def proto(self) -> onnx.ModelProto:
        header = f'<ir_version: 8, opset_import: ["": {self.opset}, "com.microsoft": 1]>'
        text = f"{header} main ({self.inputs}) => ({self.outputs}) <{self.weights}> {{ [b] {self.node} }}"
        return filled(onnx.parser.parse_model(text))


STREAM, ROWS = "float[2,4,6] x, float[2,4,6] s", "float[6] g, float[6] c, float[6] e"
SKIP_NORM, SKIP_ROOT = "com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization"
IDS = "int32[2,4] ids, int32[2,4] seg"
TABLES = "float[9,6] w, float[7,6] p, float[5,6] t, float[6] g, float[6] c"
EMBED = "com.microsoft.EmbedLayerNormalization <epsilon = 0.01>"
COUNTED = ("Shape", "Constant", "Gather", "Constant", "Constant", "Range")
THREE_ROWS = ("Gather", "Gather", "Gather", "Add", "Add", "LayerNormalization")
MASK = ("Constant", "Equal", "Cast", "Constant", "ReduceSum")
SILU = ("Sigmoid", "Mul")
GATED = "float[2,3,6] x, float[2,3,6] s"
IMAGE, CHANNELS = "float[2,3,5,4] x", "float[4] g, float[4] c, float[4] e"
CASES = {
    "skip": Case(STREAM, "float[2,4,6] y", ROWS, f"y = {SKIP_NORM} (x, s, g, c, e)",
                 ("Add", "Add", "LayerNormalization"), "LayerNorm", "b/sum_1"),
    "skip without bias and beta": Case(STREAM, "float[2,4,6] y", ROWS, f"y = {SKIP_NORM} <epsilon = 0.5> (x, s, g)",
                                       ("Add", "LayerNormalization"), "LayerNorm", "b/sum"),
    "skip of all rows": Case("float[2,4,6] x, float[4,6] s", "float[2,4,6] y", ROWS, f"y = {SKIP_NORM} (x, s, g, c)",
                             ("Add", "LayerNormalization"), "LayerNorm", "b/sum"),
    "skip, its sum delivered": Case(
        STREAM, "float[2,4,6] y, float[2,4,6] z", ROWS, f'y, "", "", z = {SKIP_NORM} (x, s, g, c, e)',
        ("Add", "Add", "LayerNormalization"), "LayerNorm", "z",
    ),
    "skip, its statistics delivered": Case(
        STREAM, "float[2,4,6] y, float[2,4,1] m, float[2,4,1] i", ROWS, f"y, m, i = {SKIP_NORM} (x, s, g, c)",
        ("Add", "LayerNormalization"), "LayerNorm", "b/sum",
    ),
    "skip without a mean": Case(
        STREAM, "float[2,4,6] y, float[2,4,6] z", ROWS, f'y, "", "", z = {SKIP_ROOT} (x, s, g, e)',
        ("Add", "Add", "SimplifiedLayerNormalization"), "RMSNorm", "z",
    ),
    "skip without a mean, its root delivered": Case(
        STREAM, "float[2,4,6] y, float[2,4,1] i", ROWS, f'y, "", i = {SKIP_ROOT} (x, s, g)',
        ("Add", "SimplifiedLayerNormalization"), "RMSNorm", "b/sum",
    ),
    "embedding": Case(IDS, "float[2,4,6] y", TABLES, f"y, n = {EMBED} (ids, seg, w, p, t, g, c)",
                      COUNTED + THREE_ROWS, "LayerNorm", "b/sum_1"),
    "embedding with positions": Case(
        IDS + ", int32[2,4] pos", "float[2,4,6] y", TABLES, f'y = {EMBED} (ids, seg, w, p, t, g, c, "", pos)',
        THREE_ROWS, "LayerNorm", "b/sum_1",
    ),
    "embedding without segments": Case(
        IDS, "float[2,4,6] y, float[2,4,6] z", TABLES, f'y, "", z = {EMBED} (ids, "", w, p, "", g, c)',
        (*COUNTED, "Gather", "Gather", "Add", "LayerNormalization"), "LayerNorm", "z",
    ),
    "embedding with a mask": Case(
        IDS + ", int32[2,4] mask", "float[2,4,6] y, int32[2] n", TABLES, f"y, n = {EMBED} (ids, seg, w, p, t, g, c, mask)",
        COUNTED + THREE_ROWS + MASK, "LayerNorm", "b/sum_1",
    ),
    "embedding with a mask, opset 11": Case(
        IDS + ", int32[2,4] mask", "float[2,4,6] y, int32[2] n", TABLES, f"y, n = {EMBED} (ids, seg, w, p, t, g, c, mask)",
        COUNTED + THREE_ROWS + ("Constant", "Equal", "Cast", "ReduceSum"), "LayerNorm", "b/sum_1", opset=11,
    ),
    "embedding with a mask that nobody counts": Case(
        IDS + ", int32[2,4] mask", "float[2,4,6] y", TABLES, f"y, n = {EMBED} (ids, seg, w, p, t, g, c, mask)",
        COUNTED + THREE_ROWS, "LayerNorm", "b/sum_1",
    ),
    "embedding, counting no mask": Case(
        IDS, "float[2,4,6] y, int32[2] n", TABLES, f"y, n = {EMBED} (ids, seg, w, p, t, g, c)",
        (*COUNTED, *THREE_ROWS, "Shape", "Constant", "Gather", "ConstantOfShape"), "LayerNorm", "b/sum_1",
    ),
    "gated": Case(
        GATED, "float[2,3,6] y", "float[6] g", "y = com.microsoft.GatedRMSNorm <epsilon = 0.125> (x, g, s)",
        ("SimplifiedLayerNormalization", "Sigmoid", "Mul", "Mul"), "RMSNorm", "x",
    ),
    "gated in runs": Case(
        GATED, "float[2,3,6] y", "float[2] g", 'y = com.microsoft.GatedRMSNorm <activation = "sigmoid"> (x, g, s)',
        ("BranchwiseRMSNorm", "Sigmoid", "Mul"), "RMSNorm", "x",
    ),
    "group norm with SiLU": Case(
        IMAGE, "float[2,3,5,4] y", CHANNELS, "y = com.microsoft.GroupNorm <activation = 1, groups = 2> (x, g, c)",
        ("GroupNorm", *SILU), "GroupNorm", "x",
    ),
    "group norm with SiLU, channels second": Case(
        "float[2,4,3,5] x", "float[2,4,3,5] y", CHANNELS,
        "y = com.microsoft.GroupNorm <activation = 1, groups = 2, channels_last = 0, epsilon = 0.5> (x, g, c)",
        ("GroupNorm", *SILU), "GroupNorm", "x",
    ),
    "skip of a group norm": Case(
        IMAGE + ", float[2,3,5,4] s", "float[2,3,5,4] y, float[2,3,5,4] z", CHANNELS,
        "y, z = com.microsoft.SkipGroupNorm <activation = 0, groups = 2> (x, g, c, s, e)",
        ("Add", "Add", "GroupNorm"), "GroupNorm", "z",
    ),
    "skip of a group norm, the same all over space": Case(
        IMAGE + ", float[2,4] s", "float[2,3,5,4] y", CHANNELS,
        "y = com.microsoft.SkipGroupNorm <activation = 1, groups = 2, epsilon = 0.5> (x, g, c, s)",
        ("Constant", "Reshape", "Add", "GroupNorm", *SILU), "GroupNorm", "b/sum",
    ),
}  # fmt: skip


def test_every_bundle_has_a_case() -> None:
    assert {case.node.split("com.microsoft.")[1].split()[0] for case in CASES.values()} == BUNDLES.keys()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_bundle_is_read_as_its_pieces_which_compute_the_same(case: Case) -> None:
    proto = case.proto()
    apart = ir.from_proto(proto)
    assert len(unbundle(apart)) == 1
    assert tuple(node.op_type for node in apart.graph) == case.pieces
    given = feeds(proto)
    for one, other in zip(
        Evaluator.open(ir.from_proto(proto)).run(given), Evaluator.open(apart).run(given), strict=True
    ):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < 1e-12


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_its_norm_is_recognized(case: Case) -> None:
    session = Session.of(ir.from_proto(case.proto()))
    (norm,) = (*session.norms, *session.named)
    assert (norm.kind, norm.input.name, norm.name) == (case.kind, case.norm_input, "b")
    used = any(name in case.outputs for name in ("] m", "] i"))
    assert (norm in session.norms) == (case.kind != "GroupNorm" and norm.groups == 1 and not used)
    assert session.unrecognized == ()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_untouched_bundle_is_put_back_as_it_was(case: Case) -> None:
    proto = case.proto()
    document = open_model(proto)
    session = Session.of(document.model)
    assert session.inventory().nodes == 1
    assert session.inventory().bytes == sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    write(session)
    restored = to_proto(document, session.model)
    assert [node.SerializeToString() for node in restored.graph.node] == [
        node.SerializeToString() for node in proto.graph.node
    ]
    assert list(restored.graph.output) == list(proto.graph.output)


def test_unused_outputs_keep_their_names() -> None:
    proto = model()
    document = open_model(proto)
    session = Session.of(document.model)
    assert [norm.name for norm in session.norms] == ["first", "skip"]
    write(session)
    assert list(to_proto(document, session.model).graph.node[3].output) == ["m", "mean", "deviation", "s"]


# --- what changed stays apart ---------------------------------------------------------------------------------------


def taken_apart(name: str) -> tuple[ir.Model, tuple, dict[str, ir.Node]]:
    found = ir.from_proto(CASES[name].proto())
    bundles = unbundle(found)
    return found, bundles, {node.name or "": node for node in found.graph}


def test_a_changed_epsilon_and_a_changed_weight_go_back_into_the_bundle() -> None:
    found, bundles, nodes = taken_apart("skip")
    nodes["b"].attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.25)
    other = found.graph.initializers["e"]
    nodes["b"].replace_input_with(2, other)
    rebundle(bundles)
    (node,) = found.graph
    assert node.op_type == "SkipLayerNormalization"
    assert node.attributes["epsilon"].as_float() == 0.25
    assert [value.name for value in node.inputs] == ["x", "s", "g", "e", "e"]


def test_a_bias_that_was_created_goes_back_into_the_bundle() -> None:
    found, bundles, nodes = taken_apart("skip without bias and beta")
    nodes["b"].resize_inputs(3)
    nodes["b"].replace_input_with(2, found.graph.initializers["c"])
    rebundle(bundles)
    (node,) = found.graph
    assert [value.name for value in node.inputs] == ["x", "s", "g", "c"]


CHANGES = {
    "another operand of the sum": ("skip", lambda nodes, graph: nodes["b/sum_1"].replace_input_with(0, graph.inputs[0])),
    "another input of the norm": ("skip", lambda nodes, graph: nodes["b"].replace_input_with(0, graph.inputs[0])),
    "a reader of what is hidden": (
        "skip", lambda nodes, graph: graph.append(ir.node("Identity", [nodes["b/sum"].outputs[0]]))
    ),
    "an output of what is hidden": ("skip", lambda nodes, graph: graph.outputs.append(nodes["b/sum"].outputs[0])),
    "another attribute": (
        "skip of a group norm",
        lambda nodes, graph: nodes["b"].attributes.update(groups=ir.AttrInt64("groups", 4)),
    ),
    "ids that only some read": (
        "embedding", lambda nodes, graph: nodes["b/words"].replace_input_with(1, graph.inputs[1])
    ),
    "a norm that is gone": ("group norm with SiLU", lambda nodes, graph: replaced(nodes["b"], graph)),
}  # fmt: skip


def replaced(node: ir.Node, graph: ir.Graph) -> None:
    other = ir.node("Identity", [graph.inputs[0]])
    graph.insert_after(node, other)
    node.outputs[0].replace_all_uses_with(other.outputs[0])
    graph.remove(node, safe=True)


@pytest.mark.parametrize(("name", "change"), CHANGES.values(), ids=CHANGES)
def test_a_bundle_whose_pieces_changed_stays_apart(name, change) -> None:
    found, bundles, nodes = taken_apart(name)
    change(nodes, found.graph)
    before = len(found.graph)
    rebundle(bundles)
    assert len(found.graph) == before > 2


def test_a_mask_whose_maker_is_gone_is_not_read_again() -> None:
    case = CASES["embedding with a mask that nobody counts"]
    proto = case.proto()
    proto.graph.node.insert(0, onnx.helper.make_node("Identity", ["mask"], ["masked"]))
    proto.graph.node[1].input[7] = "masked"
    found = ir.from_proto(proto)
    bundles = unbundle(found)
    found.graph.remove(found.graph[0], safe=True)
    rebundle(bundles)
    assert "EmbedLayerNormalization" not in [node.op_type for node in found.graph]


def test_names_that_are_taken_are_not_taken_again() -> None:
    proto = CASES["skip"].proto()
    proto.graph.input[1].name = proto.graph.node[0].input[1] = "b/sum"
    found = ir.from_proto(proto)
    unbundle(found)
    assert [node.outputs[0].name for node in found.graph] == ["b/sum_1", "b/sum_2", "y"]


# --- converted ------------------------------------------------------------------------------------------------------

EMBEDDED = """
<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
main (int32[B,S] ids, int32[B,S] seg, int32[B,S] mask{INPUT}) => (float[B,S,3] y, int32[B] n)
<float[9,6] w, float[43,6] p, float[5,6] t, float[6] g, float[6] c, float[6,3] head>
{{
  [embed] e, n = com.microsoft.EmbedLayerNormalization <epsilon = 0.01> (ids, seg, w, p, t, g, c, mask{PLACES})
  y = MatMul(e, head)
}}
"""


@pytest.mark.parametrize("places", ["", "pos"])
@pytest.mark.parametrize("to", ["rmsnorm", "folded"])
def test_the_norm_of_an_embedding_converts_and_the_mask_is_counted_as_before(to: str, places: str) -> None:
    pieces = {"INPUT": ", int32[B,S] pos", "PLACES": ", pos"} if places else {"INPUT": "", "PLACES": ""}
    result = normswap.convert(filled(onnx.parser.parse_model(EMBEDDED.format(**pieces))), to=[to])
    operators = [node.op_type for node in result.model.graph.node]
    assert ("RMSNormalization" in operators) == (to == "rmsnorm")
    assert result.rewrites
    assert result.check is not None
    assert result.check.verdict == "pass"


# --- not taken apart ------------------------------------------------------------------------------------------------

WHOLE = {
    "a gate that is not defined": (
        GATED, "float[2,3,6] y", "float[2] g", 'y = com.microsoft.GatedRMSNorm <activation = "tanh"> (x, g, s)', 17,
        "RMSNorm",
    ),
    "a mean that the norm does not take": (
        STREAM, "float[2,4,6] y, float[2,4,1] m", ROWS, f"y, m = {SKIP_ROOT} (x, s, g)", 17, "RMSNorm",
    ),
    "segments without ids": (
        IDS, "float[2,4,6] y", TABLES, f'y = {EMBED} (ids, "", w, p, t, g, c)', 17, "LayerNorm",
    ),
    "before there was a Range": (
        IDS, "float[2,4,6] y", TABLES, f"y = {EMBED} (ids, seg, w, p, t, g, c)", 10, "LayerNorm",
    ),
    "a skip of unknown layout": (
        "float[2,4,3,5] x, float[2,4,3,5] s", "float[2,4,3,5] y", CHANNELS,
        "y = com.microsoft.SkipGroupNorm <activation = 0, channels_last = 0, groups = 2> (x, g, c, s)", 17, "GroupNorm",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("inputs", "outputs", "weights", "node", "opset", "kind"), WHOLE.values(), ids=WHOLE)
def test_a_bundle_that_cannot_be_taken_apart_is_named_whole(
    inputs: str, outputs: str, weights: str, node: str, opset: int, kind: str
) -> None:
    proto = Case(inputs, outputs, weights, node, (), kind, "", opset).proto()
    session = Session.of(ir.from_proto(proto))
    assert len(session.model.graph) == 1
    assert session.norms == []
    found = {(norm.kind, norm.name, norm.obstacle and norm.obstacle.reason_id) for norm in session.named}
    assert found == {(kind, "b", "bundled-operator")}
    assert {row.can["folded"]["reason_id"] for row in normswap.inspect(proto).norms} == {"bundled-operator"}


def test_a_norm_behind_an_activation_that_is_not_defined_is_not_recognized() -> None:
    node = "y = com.microsoft.GroupNorm <activation = 7, groups = 2> (x, g, c)"
    session = Session.of(ir.from_proto(Case(IMAGE, "float[2,3,5,4] y", CHANNELS, node, (), "", "").proto()))
    assert session.named == ()
    assert [item.reason_id for item in session.unrecognized] == ["bundled-operator"]
