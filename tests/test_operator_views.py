"""Every norm operator, in every domain and opset: named as what it is, or not named, with the reason."""

from __future__ import annotations

import inspect as python
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

import normswap
from normswap import reference
from normswap.forms import value_of
from normswap.learn import learn
from normswap.norm import Norm, Recognition, Unrecognized
from normswap.operator_views import ROWS, of_operator, operator_kind
from normswap.reasons import REASONS
from normswap.recognize import recognize
from normswap.taken_apart import BUNDLES
from tests.graphs import drawn, filled

HEADER = '<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1, "ai.onnx.ml": 2]>'
EPSILON = float(np.float32(1e-5))
EIGHTH = " <epsilon = 0.125{}>"


@dataclass(frozen=True)
class Case:
    """One node of `x` of a shape, with vectors `g` and `b`, and what it is."""

    node: str
    shape: str
    vectors: str
    opset: int
    kind: str
    axes: tuple[int, ...]
    size: int | None
    groups: int = 1
    epsilon: float = 0.125
    place: str = "inside"
    gain: tuple[int, ...] | None = None
    bias: tuple[int, ...] | None = None
    has_kernel: bool = True

    def of(self, vectors: str) -> Case:
        """The same with other vectors."""
        return replace(self, vectors=vectors)


def layer(node: str, opset: int, axes: tuple[int, ...] = (2,), vectors: str = "float[6] g, float[6] b") -> Case:
    biased = "b)" in node
    shape = (6,) if len(axes) == 1 else (4, 6)
    return Case(
        node,
        "2,4,6",
        vectors,
        opset,
        "LayerNorm",
        axes,
        int(np.prod(shape)),
        gain=shape,
        bias=shape if biased else None,
    )


def root(node: str, opset: int, *, has_kernel: bool = True) -> Case:
    return Case(node, "2,4,6", "float[6] g", opset, "RMSNorm", (2,), 6, gain=(6,), has_kernel=has_kernel)


def image(node: str, opset: int, kind: str, axes: tuple[int, ...], size: int | None, **more: object) -> Case:
    return Case(node, "2,4,3,5", "float[4] g, float[4] b", opset, kind, axes, size, **more)  # type: ignore[arg-type]


CHANNELS = {"gain": (4, 1, 1), "bias": (4, 1, 1)}
MEAN_VARIANCE = {"epsilon": float(np.float32(1e-9)), "place": "outside"}
LENGTH = {"epsilon": 0.0, "place": "floor"}
E8 = EIGHTH.format("")
CASES = {
    "LayerNormalization": layer(f"y = LayerNormalization{E8}(x, g, b)", 17),
    "LayerNormalization without a bias": layer(f"y = LayerNormalization{E8}(x, g)", 17),
    "LayerNormalization over two axes": layer(
        f"y = LayerNormalization{EIGHTH.format(', axis = 1')}(x, g, b)", 17, (1, 2), "float[4,6] g, float[4,6] b"
    ),
    "LayerNormalization, axis from the end": layer(
        f"y = LayerNormalization{EIGHTH.format(', axis = -2')}(x, g, b)", 22, (1, 2), "float[4,6] g, float[4,6] b"
    ),
    "LayerNormalization before its opset": layer(f"y = LayerNormalization{E8}(x, g, b)", 9),
    "LayerNormalization, stash_type": layer(f"y = LayerNormalization{EIGHTH.format(', stash_type = 1')}(x, g, b)", 17),
    "RMSNormalization": root(f"y = RMSNormalization{E8}(x, g)", 23),
    "SimplifiedLayerNormalization": root(f"y = SimplifiedLayerNormalization{E8}(x, g)", 13),
    "SimplifiedLayerNormalization of com.microsoft": root(
        f"y = com.microsoft.SimplifiedLayerNormalization{E8}(x, g)", 13, has_kernel=False
    ),
    **{
        f"InstanceNormalization {opset}": image(
            f"y = InstanceNormalization{E8}(x, g, b)", opset, "InstanceNorm", (2, 3), 15, **CHANNELS, has_kernel=opset > 1
        )
        for opset in (1, 6, 17, 22)
    },
    "InstanceNormalization of a sequence": Case(
        f"y = InstanceNormalization{E8}(x, g, b)", "2,4,T", "float[4] g, float[4] b", 17, "InstanceNorm", (2,), None,
        gain=(4, 1), bias=(4, 1),
    ),
    "InstanceNormalization of a volume": Case(
        f"y = InstanceNormalization{E8}(x, g, b)", "2,4,3,2,5", "float[4] g, float[4] b", 17, "InstanceNorm", (2, 3, 4),
        30, gain=(4, 1, 1, 1), bias=(4, 1, 1, 1),
    ),
    "LayerNormalization over space with a gain for each channel": image(
        f"y = LayerNormalization{EIGHTH.format(', axis = 2')}(x, g, b)",
        17,
        "InstanceNorm",
        (2, 3),
        15,
        **CHANNELS,
    ).of("float[4,1,1] g, float[4,1,1] b"),
    "GroupNormalization 21": image(
        f"y = GroupNormalization{EIGHTH.format(', num_groups = 2, stash_type = 1')}(x, g, b)", 21, "GroupNorm",
        (1, 2, 3), 30, groups=2, **CHANNELS,
    ),
    "GroupNormalization 18, a gain for each group": Case(
        f"y = GroupNormalization{EIGHTH.format(', num_groups = 2')}(x, g, b)", "2,4,3,5", "float[2] g, float[2] b", 18,
        "GroupNorm", (1, 2, 3), 30, 2, **CHANNELS,
    ),
    "GroupNormalization of one group": image(
        f"y = GroupNormalization{EIGHTH.format(', num_groups = 1')}(x, g, b)", 21, "GroupNorm", (1, 2, 3), 60, **CHANNELS
    ),
    "GroupNormalization of single channels": image(
        f"y = GroupNormalization{EIGHTH.format(', num_groups = 4')}(x, g, b)", 21, "InstanceNorm", (2, 3), 15, **CHANNELS
    ),
    "GroupNormalization of a matrix": Case(
        f"y = GroupNormalization{EIGHTH.format(', num_groups = 2')}(x, g, b)", "3,4", "float[4] g, float[4] b", 21,
        "GroupNorm", (1,), 2, 2, gain=(4,), bias=(4,),
    ),
    "GroupNorm, channels last": Case(
        f"y = com.microsoft.GroupNorm{EIGHTH.format(', groups = 2, activation = 0')}(x, g, b)", "2,3,5,4",
        "float[4] g, float[4] b", 17, "GroupNorm", (3, 1, 2), 30, 2, gain=(4,), bias=(4,), has_kernel=False,
    ),
    "GroupNorm, channels second": image(
        f"y = com.microsoft.GroupNorm{EIGHTH.format(', groups = 2, activation = 0, channels_last = 0')}(x, g, b)", 17,
        "GroupNorm", (1, 2, 3), 30, groups=2, **CHANNELS, has_kernel=False,
    ),
    "GroupNorm of single channels": Case(
        f"y = com.microsoft.GroupNorm{EIGHTH.format(', groups = 4, activation = 0')}(x, g, b)", "2,3,5,4",
        "float[4] g, float[4] b", 17, "InstanceNorm", (1, 2), 15, gain=(4,), bias=(4,), has_kernel=False,
    ),
    "MeanVarianceNormalization": image("y = MeanVarianceNormalization(x)", 13, "MeanVarianceNorm", (0, 2, 3), 30,
                                       **MEAN_VARIANCE),
    "MeanVarianceNormalization over named axes": image(
        "y = MeanVarianceNormalization <axes = [-1, 1]>(x)", 9, "MeanVarianceNorm", (1, 3), 20, **MEAN_VARIANCE
    ),
    "MeanVarianceNormalization of onnxruntime": image(
        "y = MeanVarianceNormalization(x)", 8, "MeanVarianceNorm", (0, 2, 3), 30, **MEAN_VARIANCE
    ),
    "MeanVarianceNormalization of onnxruntime, across channels": image(
        "y = MeanVarianceNormalization <across_channels = 1>(x)", 8, "MeanVarianceNorm", (0, 1, 2, 3), 120,
        **MEAN_VARIANCE,
    ),
    "LpNormalization": image("y = LpNormalization(x)", 17, "L2Norm", (3,), 5, **LENGTH),
    "LpNormalization along channels": image("y = LpNormalization <axis = 1, p = 2>(x)", 22, "L2Norm", (1,), 4, **LENGTH),
    "Normalizer": Case('y = ai.onnx.ml.Normalizer <norm = "L2">(x)', "3,4", "", 17, "L2Norm", (1,), 4, **LENGTH),
    "BranchwiseRMSNorm": Case(
        f"y = com.microsoft.BranchwiseRMSNorm{EIGHTH.format(', num_branches = 3')}(x, g)", "2,4,6", "float[6] g", 17,
        "RMSNorm", (2,), 2, 3, gain=(6,),
    ),
    "BranchwiseRMSNorm, one gain for all": Case(
        f"y = com.microsoft.BranchwiseRMSNorm{EIGHTH.format(', num_branches = 3')}(x, g)", "2,4,6", "float[2] g", 17,
        "RMSNorm", (2,), 2, 3, gain=(6,),
    ),
    "BranchwiseRMSNorm of what is cut already": Case(
        f"y = com.microsoft.BranchwiseRMSNorm{E8}(x, g)", "2,4,6", "float[24] g", 17, "RMSNorm", (2,), 6, gain=(4, 6)
    ),
    "BranchwiseRMSNorm without a gain": Case(
        f"y = com.microsoft.BranchwiseRMSNorm{E8}(x)", "2,4,6", "", 17, "RMSNorm", (2,), 6
    ),
}  # fmt: skip


def proto_of(node: str, shape: str, vectors: str, opset: int, more: str = "", outputs: str = "") -> onnx.ModelProto:
    inputs, header = f"float[{shape}] x{more}", HEADER.format(opset=opset)
    constants = f"<{vectors}>" if vectors else ""
    text = f"{header} main ({inputs}) => (float[{shape}] y{outputs}) {constants} {{ [norm] {node} }}"
    return filled(onnx.parser.parse_model(text))


def seen_in(proto: onnx.ModelProto) -> Recognition:
    model = ir.from_proto(proto)
    return recognize(model, learn(model))


def looked_at(proto: onnx.ModelProto) -> Norm | Unrecognized:
    """The view of the first node."""
    model = ir.from_proto(proto)
    return of_operator(model.graph[0], "", learn(model))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_operator_is_named_as_what_it_is(case: Case) -> None:
    proto = proto_of(case.node, case.shape, case.vectors, case.opset)
    seen = seen_in(proto)
    assert seen.unrecognized == ()
    (norm,) = (*seen.norms, *seen.named)
    assert (norm.name, norm.kind, norm.axes, norm.size, norm.groups) == (
        *("norm", case.kind, case.axes, case.size, case.groups),
    )
    assert (norm.epsilon, norm.epsilon_place, norm.spelling) == (case.epsilon, case.place, "operator")
    shapes = tuple(None if part is None else part.array.shape for part in (norm.gain, norm.bias))
    assert shapes == (case.gain, case.bias)
    assert norm.runtime == frozenset()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_view_says_what_the_operator_computes(case: Case) -> None:
    """The formula of the view, the definition of the operator, and onnxruntime, with rows of zeros among the input."""
    proto = proto_of(case.node, case.shape, case.vectors, case.opset)
    norm = looked_at(proto)
    assert isinstance(norm, Norm)
    x = drawn("x", [int(size) if size.isdigit() else 7 for size in case.shape.split(",")]).astype(np.float32)
    if not norm.parts.center:
        x[0] = 0
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    inputs = [x if value is norm.input else weights[str(value.name)] for value in norm.nodes[0].inputs if value]
    (defined,) = reference.run(norm.nodes[0], inputs, case.opset)
    assert np.abs(value_of(norm, x.astype(np.float64)) - defined).max() < 1e-12
    if case.has_kernel:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        assert np.abs(session.run(None, {"x": x})[0] - defined).max() < 1e-5


def test_every_operator_of_the_table_has_a_case_or_is_a_bundle() -> None:
    nodes = [case.node.split("=", 1)[1].split("<")[0].split("(")[0].strip() for case in CASES.values()]
    domains = [node.rpartition(".")[::2] for node in nodes]
    covered = {(domain, name) for domain, name in domains} | {("com.microsoft", name) for name in BUNDLES}
    quantized = {key for key, row in ROWS.items() if row.obstacle == "quantized-weights"}
    assert ROWS.keys() - covered - quantized == {("com.microsoft", "LayerNormalization")}
    assert operator_kind(ir.node("LayerNormalization", [], domain="com.microsoft")) == "LayerNorm"
    assert operator_kind(ir.node("LayerNormalization", [], domain="ai.onnx")) == "LayerNorm"


def test_a_default_epsilon_is_that_of_the_operator() -> None:
    """onnxruntime's Skip operators have one of their own, which the norm they are taken apart to has not."""
    text = (
        HEADER.format(opset=17)
        + """ main (float[2,3,6] x, float[2,3,6] s) => (float[2,3,6] y, float[2,3,6] z)
        <float[6] g, float[6] b> {
          [skip] y = com.microsoft.SkipLayerNormalization (x, s, g, b)
          [plain] z = LayerNormalization (x, g, b) }"""
    )
    rows = {row.name: row.epsilon for row in normswap.inspect(filled(onnx.parser.parse_model(text))).norms}
    assert rows == {"skip": float(np.float32(1e-12)), "plain": EPSILON}


# --- recognized, with an obstacle -----------------------------------------------------------------------------------

OBSTACLES = {
    "gain at run time": (
        "y = LayerNormalization(x, w, b)", "2,4,6", "float[6] b", ", float[6] w", "LayerNorm", "runtime-parameter",
        {"gain"},
    ),
    "bias at run time": (
        "y = LayerNormalization(x, g, w)", "2,4,6", "float[6] g", ", float[6] w", "LayerNorm", "runtime-parameter",
        {"bias"},
    ),
    "both at run time": (
        "y = InstanceNormalization(x, w, v)", "2,4,6,3", "", ", float[4] w, float[4] v", "InstanceNorm",
        "runtime-parameter", {"gain", "bias"},
    ),
    "over space, with a gain at run time": (
        "y = LayerNormalization <axis = 2>(x, w)", "2,4,6,3", "", ", float[6,3] w", "LayerNorm", "runtime-parameter",
        {"gain"},
    ),
    "a gain that fixes a free dimension": (
        "y = LayerNormalization(x, g)", "2,T,6", "float[4,6] g", "", "LayerNorm", "widening-parameter", set(),
    ),
    "a gain of a higher rank": (
        "y = LayerNormalization(x, g)", "2,4,6", "float[1,2,4,6] g", "", "LayerNorm", "widening-parameter", set(),
    ),
    "a gain for each of other channels": (
        "y = InstanceNormalization(x, g, b)", "2,4,6,3", "float[3] g, float[4] b", "", "InstanceNorm",
        "widening-parameter", set(),
    ),
    "a gain for each of a free number of channels": (
        "y = InstanceNormalization(x, g, b)", "2,C,6,3", "float[4] g, float[4] b", "", "InstanceNorm",
        "widening-parameter", set(),
    ),
    "an InstanceNorm": (
        "y = InstanceNormalization(x, g, b)", "2,4,6,3", "float[4] g, float[4] b", "", "InstanceNorm", "kind-not-moved",
        set(),
    ),
    "a bundle whose skip has an unknown rank": (
        "y = com.microsoft.SkipGroupNorm <activation = 0, groups = 2> (x, g, b, w)", "2,3,3,4",
        "float[4] g, float[4] b", ", float w", "GroupNorm", "bundled-operator", set(),
    ),
    "a quantized norm": (
        "y = com.microsoft.QOrderedLayerNormalization (x, g, b)", "2,4,6", "float[6] g, float[6] b", "", "LayerNorm",
        "quantized-weights", set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("node", "shape", "vectors", "more", "kind", "reason_id", "runtime"), OBSTACLES.values(), ids=OBSTACLES
)
def test_what_cannot_move_is_named_and_every_target_says_why(
    node: str, shape: str, vectors: str, more: str, kind: str, reason_id: str, runtime: set[str]
) -> None:
    proto = proto_of(node, shape, vectors, 17, more)
    seen = seen_in(proto)
    assert seen.norms == seen.unrecognized == ()
    (norm,) = seen.named
    assert (norm.kind, norm.runtime, norm.obstacle and norm.obstacle.reason_id) == (kind, runtime, reason_id)
    assert norm.obstacle is not None
    assert "`norm`" in norm.obstacle.reason
    assert REASONS[reason_id].meaning in norm.obstacle.reason


def test_statistics_that_are_read_are_an_obstacle_and_so_is_an_inverse_deviation_alone() -> None:
    for outputs, delivered in (("y, m", "m"), ('y, "", i', "i")):
        proto = proto_of(
            f"{outputs} = LayerNormalization(x, g)", "2,4,6", "float[6] g", 17, "", f", float[2,4,1] {delivered}"
        )
        (norm,) = seen_in(proto).named
        assert norm.obstacle is not None
        assert norm.obstacle.reason_id == "statistics-used"
        assert f"output `{delivered}`" in norm.obstacle.reason


@pytest.mark.parametrize("to", ["rmsnorm", "folded"])
def test_an_inspection_refuses_a_named_norm_with_its_obstacle(to: str) -> None:
    proto = proto_of("y = LayerNormalization(x, w)", "2,4,6", "", 17, ", float[6] w")
    (row,) = normswap.inspect(proto).norms
    assert (row.kind, row.scale, row.bias) == ("LayerNorm", "runtime", "none")
    assert (row.can[to]["exact"], row.can[to]["reason_id"]) == (False, "runtime-parameter")
    assert "`w`" in row.can[to]["reason"]


def test_a_layer_norm_with_a_gain_at_run_time_is_refused_by_name() -> None:
    proto = proto_of("y = LayerNormalization(x, w)", "2,4,6", "", 17, ", float[6] w")
    result = normswap.convert(proto, to=["rmsnorm"], check=False)
    assert [(refusal.site, refusal.reason_id) for refusal in result.refused] == [("norm", "runtime-parameter")]
    assert (result.candidates, result.before.norms) == (1, {"LayerNorm": 1})
    assert result.exit_code == normswap.errors.GoalNotMet.exit_code


# --- not recognized -------------------------------------------------------------------------------------------------

REFUSED = {
    "LpNormalization of absolute values": ("y = LpNormalization <p = 1>(x)", "2,4", "", 17, "other-statistic"),
    "Normalizer by the largest": ("y = ai.onnx.ml.Normalizer(x)", "2,4", "", 17, "other-statistic"),
    "Normalizer of absolute values": ('y = ai.onnx.ml.Normalizer <norm = "L1">(x)', "2,4", "", 17, "other-statistic"),
    "only centered": (
        "y = MeanVarianceNormalization <normalize_variance = 0>(x)", "2,4,3,3", "", 8, "center-only",
    ),
    "default axes of too low a rank": ("y = MeanVarianceNormalization(x)", "2,4", "", 13, "not-executable"),
    "an axis that is not there": ("y = LpNormalization <axis = 2>(x)", "2,4", "", 17, "not-executable"),
    "a matrix has no space": (
        "y = InstanceNormalization(x, g, b)", "2,4", "float[4] g, float[4] b", 17, "not-executable",
    ),
    "groups that do not divide": (
        "y = GroupNormalization <num_groups = 3>(x, g, b)", "2,4,3", "float[4] g, float[4] b", 21, "not-executable",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("node", "shape", "vectors", "opset", "reason_id"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_norm_of_ours_is_listed_with_the_reason(
    node: str, shape: str, vectors: str, opset: int, reason_id: str
) -> None:
    seen = seen_in(proto_of(node, shape, vectors, opset))
    assert seen.norms == seen.named == ()
    assert [item.reason_id for item in seen.unrecognized] == [reason_id]


@pytest.mark.parametrize("operator", ["Softmax", "GRU", "LSTM", "LpPool", "BiasSplitGelu", "QuickGelu", "Attention"])
def test_other_operators_are_none(operator: str) -> None:
    assert operator_kind(ir.node(operator, [])) is None
    assert operator_kind(ir.node(operator, [], domain="com.microsoft")) is None


def test_a_shape_that_is_unknown_is_a_reason() -> None:
    proto = proto_of("y = LpNormalization(x)", "2,4", "", 17)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")
    found = looked_at(proto)
    assert isinstance(found, Unrecognized)
    assert found.reason_id == "unknown-shape"


def test_the_table_names_defaults_as_the_definitions_have_them() -> None:
    """The defaults of attributes, as onnx and onnxruntime state them."""
    state = python.getmodule(onnxruntime.InferenceSession)
    assert state is not None
    schemas = onnxruntime.capi.onnxruntime_pybind11_state.get_all_operator_schema()
    found = {}
    for schema in schemas:
        attribute = schema.attributes.get("epsilon")
        if (schema.domain, schema.name) in ROWS and attribute is not None:
            found[schema.domain, schema.name] = onnx.AttributeProto.FromString(attribute._default_value).f
    small = {key for key, epsilon in found.items() if epsilon == np.float32(1e-12)}
    assert small == {("com.microsoft", name) for name in BUNDLES if "Layer" in name} | {
        ("com.microsoft", "QEmbedLayerNormalization")
    }
    assert {found[key] for key in found.keys() - small} == {EPSILON}
