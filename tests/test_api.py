"""The public functions: every kind of model in and out, what is selected, and what is refused with which exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import normswap
from normswap import session
from normswap.plan import Plan
from normswap.prove import Obligation
from normswap.scene import Scene
from tests.graphs import filled

# A Pre-LN block in float64: two linear branches on one stream, a final norm, a head. LayerNorm(x W + b) is exact to
# convert; all parameters have a mean that is not zero.
BLOCK = """
<ir_version: 10, opset_import: ["": 18]>
block (double[N,4] x) => (double[N,3] y)
<double[4,6] w0, double[6] b0, double[6] g1, double[6] c1, double[6,6] w1, double[6] b1, double[6] g2, double[6] c2,
 double[6,3] head, double[3] tail>
{
  p = MatMul(x, w0)
  h0 = Add(p, b0)
  [ln_1] n1 = LayerNormalization <axis = -1, epsilon = 1e-3> (h0, g1, c1)
  m1 = MatMul(n1, w1)
  a1 = Add(m1, b1)
  h1 = Add(h0, a1)
  [ln_2] n2 = LayerNormalization <axis = -1, epsilon = 1e-3> (h1, g2, c2)
  z = MatMul(n2, head)
  y = Add(z, tail)
}
"""


def model(text: str = BLOCK) -> onnx.ModelProto:
    """The model with random weights whose mean is not zero."""
    proto = filled(onnx.parser.parse_model(text))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def kinds(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node if "Normalization" in node.op_type)


def assert_equal(original: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    """The two compute the same in float64."""
    random = np.random.default_rng(1)
    for count in (1, 5):
        feed = {"x": random.normal(0.5, 2.0, (count, 4))}
        for left, right in zip(
            ReferenceEvaluator(original).run(None, feed), ReferenceEvaluator(converted).run(None, feed), strict=True
        ):
            np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-12)


def test_a_proto_comes_back_as_a_proto_that_computes_the_same():
    original = model()
    before = original.SerializeToString()
    result = normswap.convert(original, check=False)
    assert isinstance(result.model, onnx.ModelProto)
    assert original.SerializeToString() == before
    assert kinds(result.model) == {"RMSNormalization": 2}
    assert {node.name for node in result.model.graph.node} >= {"ln_1", "ln_2"}
    assert_equal(original, result.model)
    assert result.exit_code == 0


def test_a_path_gives_an_ir_model_and_is_saved_whole(tmp_path: Path):
    source = tmp_path / "block.onnx"
    onnx.save(model(), source)
    result = normswap.convert(str(source), check=False)
    assert isinstance(result.model, ir.Model)
    result.save(tmp_path / "out.onnx")
    assert_equal(model(), onnx.load(tmp_path / "out.onnx"))
    with pytest.raises(normswap.UsageError):
        result.save(source)


def test_an_ir_model_gives_an_ir_model():
    source = ir.from_proto(model())
    result = normswap.convert(source, check=False)
    assert isinstance(result.model, ir.Model)
    assert [node.op_type for node in source.graph if "Norm" in node.op_type] == ["LayerNormalization"] * 2


def test_in_the_middle_of_a_graphsurgeon_script():
    graph = gs.import_onnx(model())
    for node in graph.nodes:
        node.attrs.pop("stash_type", None)
    converted = normswap.convert(graph, check=False).model
    assert isinstance(converted, gs.Graph)
    converted.outputs[0].name = "logits"
    converted.cleanup().toposort()
    exported = gs.export_onnx(converted)
    assert kinds(exported) == {"RMSNormalization": 2}
    assert exported.graph.output[0].name == "logits"


def test_only_and_except_select_by_the_names_of_norms():
    assert kinds(normswap.convert(model(), only=["ln_1"], check=False).model) == {
        "RMSNormalization": 1,
        "LayerNormalization": 1,
    }
    assert kinds(normswap.convert(model(), exclude=["ln_*"], check=False).model) == {"LayerNormalization": 2}


def test_nothing_of_the_kind_is_done_and_says_so():
    result = normswap.convert(normswap.convert(model(), check=False).model, check=False)
    assert result.exit_code == 0
    assert not result.rewrites
    assert not result.refused


READ_BY_A_HEAD = BLOCK.replace("double[N,3] y)", "double[N,3] y, double[N,3] u)").replace(
    "z = MatMul(n2, head)", "u = MatMul(h1, head)  z = MatMul(n2, head)"
)


def test_a_stream_that_a_head_reads_is_refused_by_name():
    result = normswap.convert(model(READ_BY_A_HEAD), check=False)
    assert {refusal.reason_id for refusal in result.refused} == {"foreign-reader"}
    assert all("MatMul" in refusal.reason for refusal in result.refused)
    assert result.exit_code == 1
    assert kinds(result.model) == {"LayerNormalization": 2}


HIDDEN_STATE = BLOCK.replace("double[N,3] y)", "double[N,3] y, double[N,6] h1)")


def test_a_hidden_state_is_refused_unless_it_may_change():
    refused = normswap.convert(model(HIDDEN_STATE), check=False)
    assert {refusal.reason_id for refusal in refused.refused} == {"graph-output"}
    allowed = normswap.convert(model(HIDDEN_STATE), allow_changed_outputs=["h1"], check=False)
    assert kinds(allowed.model) == {"RMSNormalization": 2}
    feed = {"x": np.random.default_rng(2).normal(0.5, 2.0, (3, 4))}
    before, after = (ReferenceEvaluator(proto).run(None, feed) for proto in (model(HIDDEN_STATE), allowed.model))
    np.testing.assert_allclose(before[0], after[0], rtol=1e-10)
    np.testing.assert_allclose(before[1] - before[1].mean(-1, keepdims=True), after[1], rtol=1e-10, atol=1e-12)


def test_a_hidden_state_behind_the_last_norm_may_change_too():
    text = BLOCK.replace("double[N,3] y)", "double[N,3] y, double[N,6] last)").replace(
        "z = MatMul(n2, head)", "a2 = MatMul(n2, w1)  last = Add(h1, a2)  z = MatMul(n2, head)"
    )
    text = text.replace("(h1, g2, c2)", "(h1, g2)")  # a bias that moved would shift it, which is not allowed
    assert kinds(normswap.convert(model(text), check=False).model) == {"LayerNormalization": 2}
    allowed = normswap.convert(model(text), allow_changed_outputs=["last"], check=False)
    assert kinds(allowed.model) == {"RMSNormalization": 2}


def test_strict_makes_a_refusal_a_failure():
    text = BLOCK.replace("double[N,3] y)", "double[N,3] y, double[N,6] q)").replace(
        "z = MatMul", "r = Relu(h1)  [ln_3] q = LayerNormalization <axis = -1> (r, g1, c1)  z = MatMul"
    )
    assert normswap.convert(model(text), check=False, strict=True).exit_code == 1


def test_usage_errors():
    with pytest.raises(normswap.UsageError, match="unknown target `folde`"):
        normswap.convert(model(), to="folde")
    with pytest.raises(normswap.UsageError, match="no output `hidden`"):
        normswap.convert(model(), allow_changed_outputs=["hidden"])
    with pytest.raises(normswap.UsageError, match="opset 18; it cannot be lowered to 17"):
        normswap.convert(model(), opset=17)


def test_a_pinned_opset_spells_the_chain_that_onnxruntime_fuses():
    result = normswap.convert(model(), opset=18, check=False)
    operators = Counter(node.op_type for node in result.model.graph.node)
    assert operators["RMSNormalization"] == operators["LayerNormalization"] == 0
    assert operators["Pow"] == operators["Sqrt"] == operators["Div"] == 2
    assert_equal(model(), result.model)


def test_inspect_says_what_each_norm_can_become():
    norms = normswap.inspect(model(HIDDEN_STATE)).norms
    assert [(norm.name, norm.kind, norm.axes, norm.size) for norm in norms] == [
        ("ln_1", "LayerNorm", (1,), 6),
        ("ln_2", "LayerNorm", (1,), 6),
    ]
    assert {norm.can["rmsnorm"]["reason_id"] for norm in norms} == {"graph-output"}
    assert all(norm.can["rmsnorm"]["exact"] for norm in normswap.inspect(model()).norms)


def test_the_check_at_the_end_is_exact_in_float64(gpt2: Path):
    result = normswap.convert(gpt2)
    assert result.check is not None
    assert result.check.verdict == "pass"
    assert 0 < result.check.outputs[0].float64_difference < 1e-12


def test_norms_over_different_axes_of_one_stream_do_not_share_a_center():
    text = (
        """
    <ir_version: 10, opset_import: ["": 18]>
    axes (double[N,4] x) => (double[N,6,3] y, double[N,6,3] z)
    <double[4,18] w, int64[3] s, double[3] g, double[18,2] v>
    {
      p = MatMul(x, w)
      shape = Constant <value_ints = [0, 6, 3]> ()
      h = Reshape(p, shape)
      [last] y = LayerNormalization <axis = -1> (h, g)
      [both] z = LayerNormalization <axis = 1> (h)
    }
    """.replace("int64[3] s, ", "")
        .replace(", double[18,2] v", "")
        .replace("(h)\n", "(h, g63)\n")
        .replace("double[3] g>", "double[3] g, double[6,3] g63>")
    )
    result = normswap.convert(model(text), check=False)
    assert not [refusal for refusal in result.refused if refusal.reason_id == "proof-failed"]
    assert_equal(model(text), result.model)


def test_quantized_weights_stay_quantized():
    text = """
    <ir_version: 10, opset_import: ["": 18]>
    quantized (float[N,4] x) => (float[N,6] y)
    <int8[4,6] q = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24},
     float[6] scale, int8[6] zero = {0, 0, 0, 0, 0, 0}, float[6] g>
    {
      w = DequantizeLinear <axis = 1> (q, scale, zero)
      h = MatMul(x, w)
      [norm] y = LayerNormalization <axis = -1> (h, g)
    }
    """
    result = normswap.convert(model(text), check=False)
    assert [refusal.reason_id for refusal in result.refused] == ["quantized-weights"]
    assert [node.op_type for node in result.model.graph.node] == ["DequantizeLinear", "MatMul", "LayerNormalization"]


def test_a_pushed_bias_is_restored_at_the_outputs_of_a_body():
    """The body of an If delivered the value without its bias: outputs were only looked for in the main graph."""
    text = """
    <ir_version: 10, opset_import: ["": 18]>
    body (double[2,50,6] x, bool c) => (double[2,6] y, double[2,50,3] z)
    <double[6,6] w, double[6] g, double[6] b, int64[1] i, double[6,3] v, double[3] t>
    {
      y, z = If (c) <
        then_branch = a () => (double[2,6] ty, double[2,50,3] tz) {
          h = MatMul(x, w)
          n = LayerNormalization(h, g, b)
          zero = Constant <value_int = 0> ()
          ty = Gather <axis = 1> (n, zero)
          p = MatMul(n, v)
          tz = Add(p, t)
        },
        else_branch = e () => (double[2,6] ey, double[2,50,3] ez) {
          zero_ = Constant <value_int = 0> ()
          ey = Gather <axis = 1> (x, zero_)
          ez = MatMul(x, v)
        }>
    }
    """.replace("int64[1] i, ", "")
    original = model(text)
    converted = normswap.convert(original, check=False).model
    feed = {"x": np.random.default_rng(3).normal(0.5, 2.0, (2, 50, 6)), "c": np.array(True)}
    for left, right in zip(
        ReferenceEvaluator(original).run(None, feed), ReferenceEvaluator(converted).run(None, feed), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-12)


def test_a_norm_over_one_element_is_refused_and_its_axis_not_taken_for_all_of_them():
    text = """
    <ir_version: 10, opset_import: ["": 18]>
    one (double[1,4096,1] x) => (double[1,4096,1] y, double[1,4096,1] z)
    <double[1] g>
    {
      h = Tanh(x)
      [first] a = LayerNormalization <epsilon = 1.0> (h, g)
      [second] b = LayerNormalization <epsilon = 0.5> (h, g)
      y = Neg(a)
      z = Neg(b)
    }
    """
    result = normswap.convert(model(text), check=False)
    assert kinds(result.model) == {"LayerNormalization": 2}
    assert [refusal.reason_id for refusal in result.refused] == ["unknown-shape"] * 2


def test_a_gain_of_zeros_is_spelled():
    proto = model()
    for tensor in proto.graph.initializer:
        if tensor.name == "g1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(6), "g1"))
    assert_equal(proto, normswap.convert(proto, check=False).model)


@pytest.mark.parametrize("overflowing", ["b1", "w0"])
def test_a_weight_that_would_overflow_its_type_is_refused(overflowing: str):
    proto = model(BLOCK.replace("double", "float16"))
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name == overflowing:
            array[..., 0], array[..., 1:] = 65000, -65000
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    result = normswap.convert(proto, check=False)
    assert {refusal.reason_id for refusal in result.refused} == {"not-finite"}
    assert result.exit_code == 1
    assert result.model.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


def test_equal_dimensions_with_different_names():
    text = BLOCK.replace("(double[N,4] x)", "(double[A,4] x, double[B,6] e)").replace(
        "h0 = Add(p, b0)", "p0 = Add(p, e)  h0 = Add(p0, b0)"
    )
    inspection = normswap.inspect(model(text))
    assert [norm.size for norm in inspection.norms] == [6, 6]
    assert inspection.unrecognized == ()


def test_an_output_without_a_shape():
    proto = model()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    result = normswap.convert(proto, check=False).model
    assert kinds(result) == {"RMSNormalization": 2}
    assert not result.graph.output[0].type.tensor_type.HasField("shape")


def test_both_names_of_the_default_domain_are_raised():
    proto = model()
    proto.opset_import.add(domain="ai.onnx", version=18)
    result = normswap.convert(proto, check=False).model
    assert {(entry.domain, entry.version) for entry in result.opset_import} == {("", 23), ("ai.onnx", 23)}


@pytest.mark.parametrize("selection", [{"only": ["ln_7"]}, {"exclude": ["LN_*"]}])
def test_a_pattern_that_matches_no_norm_is_a_slip(selection: dict[str, list[str]]):
    with pytest.raises(normswap.UsageError, match="nothing to convert is called"):
        normswap.convert(model(), check=False, **selection)


@pytest.mark.parametrize("opset", [18, 17])
def test_a_norm_inside_a_local_function_is_converted_in_its_callers_place(opset: int):
    proto = model(
        BLOCK.replace('opset_import: ["": 18]', 'opset_import: ["": 18, "own": 1]').replace(
            "[ln_2] n2 = LayerNormalization <axis = -1, epsilon = 1e-3> (h1, g2, c2)", "n2 = own.norm(h1, g2)"
        )
        + f'\n<domain: "own", opset_import: ["": {opset}]> norm (a, g) => (b) {{ b = LayerNormalization(a, g) }}'
    )
    result = normswap.convert(proto, check=False)
    if opset == 18:
        assert ("own.norm", "inline") in [(rewrite.site, rewrite.rule) for rewrite in result.rewrites]
        assert result.after.norms == {"RMSNorm": 2}
        assert list(result.model.functions) == []
    else:  # a body in another opset cannot stand in the caller's place
        assert [refusal.reason_id for refusal in result.refused if "norm" in refusal.reason][-1] == "local-function"
        assert [function.name for function in result.model.functions] == ["norm"]


def test_a_gain_that_fixes_a_free_dimension_is_no_parameter():
    text = BLOCK.replace("double[6] g1", "double[2,6] g1")
    result = normswap.convert(model(text), check=False)
    assert "widening-parameter" in {refusal.reason_id for refusal in result.refused}


def test_what_only_served_norms_that_failed_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    """Biases had moved, every Center then failed its proof, and the result counted as converted."""
    honest = session.prove

    def doubting(scene: Scene, plan: Plan) -> tuple[Obligation, ...]:
        obligations = honest(scene, plan)
        if plan.direction == "push":
            return obligations
        return tuple(replace(obligation, failure="differs") for obligation in obligations)

    monkeypatch.setattr(session, "prove", doubting)
    proto = model()
    result = normswap.convert(proto, check=False)
    assert {refusal.reason_id for refusal in result.refused} == {"proof-failed"}
    assert result.exit_code == 1
    assert result.model.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("target", ["rmsnorm", "standard"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_norm_whose_model_had_to_round_one_over_n_is_converted_and_checked(target: str, dtype: type[np.generic]):
    """1/48 is no float32: in float64 the sum times that number is no mean, and the check called the result wrong."""
    name = "float" if dtype is np.float32 else "float16"
    text = f"""<ir_version: 10, opset_import: ["": 18]> g ({name}[N,48] x) => ({name}[N,48] y) <int64[1] axes = {{-1}}> {{
        t = MatMul(x, w) s = ReduceSum(t, axes) m = Mul(s, r) d = Sub(t, m) q = Mul(d, d) p = ReduceSum(q, axes)
        v = Mul(p, r) a = Add(v, e) z = Sqrt(a) n = Div(d, z) y = MatMul(n, w) }}"""
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(0.1, 0.2, (48, 48))
    for key, array in {"w": weight, "r": np.asarray(1 / 48), "e": np.asarray(1e-3)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), key))
    result = normswap.convert(proto, target)
    assert result.rewrites
    assert result.check is not None
    assert result.check.verdict == "pass", result.check.reason
    assert result.check.outputs[0].float64_difference is not None
    assert result.check.outputs[0].float64_difference < 1e-12
