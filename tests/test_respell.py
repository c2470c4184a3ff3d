"""Respelling: every norm in the operators of a runtime, the same function in float64 and in onnxruntime, or untouched."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import normswap
from normswap.ledger import Conversion
from normswap.raised import apart
from tests import norm_texts
from tests.graphs import drawn, feeds, parsed, with_weights

# Both models in float64, new weights before their rounding: far above float64, far below float32.
AGREEMENT = 1e-9
# What a model is for that onnxruntime's own operators stand in, under a name that onnx has not.
BEYOND = frozenset({"SimplifiedLayerNormalization", "LayerNormalization"})


def respelled(
    model: onnx.ModelProto, to: str, *, beyond: bool = False, precise: bool = True, **options: object
) -> Conversion:
    """`model` respelled; what came of it was compared with it in float64 and in onnxruntime.

    Unless it is as `precise` as the original on inputs of a large mean, it is compared in onnxruntime on plain ones.
    """
    before = model.SerializeToString()
    result = normswap.convert(model, to, **options)  # type: ignore[arg-type]
    assert model.SerializeToString() == before
    assert isinstance(result.model, onnx.ModelProto)
    if not beyond:
        onnx.checker.check_model(result.model, full_check=True)
    if result.rewrites:
        assert result.check is not None
        if precise:
            assert result.check.verdict == "pass", result.check.reason
        else:
            assert_alike_in_onnxruntime(model, result.model)
        for output in result.check.outputs:
            assert output.float64_difference is not None
            assert output.float64_difference < AGREEMENT
        assert all(item.exact and item.proof.max_relative_error < AGREEMENT for item in result.rewrites)
        assert all(item.proof.obligations == 2 for item in result.rewrites)
    else:
        assert result.model == model
    return result


def assert_alike_in_onnxruntime(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    outputs = [session(model).run(None, feeds(one)) for model in (one, other)]
    for left, right in zip(*outputs, strict=True):
        np.testing.assert_allclose(right, left, rtol=1e-5, atol=1e-5)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def operators(result: Conversion) -> list[str]:
    assert isinstance(result.model, onnx.ModelProto)
    return [node.op_type for node in result.model.graph.node]


def rules(result: Conversion) -> list[str]:
    return [item.rule.removeprefix("spell/") for item in result.rewrites]


def reasons(result: Conversion) -> dict[str, str]:
    return {refusal.site: refusal.reason_id for refusal in result.refused}


def opset(result: Conversion) -> int:
    assert isinstance(result.model, onnx.ModelProto)
    return next(item.version for item in result.model.opset_import if item.domain == "")


def decomposed(*parts: str, mean: str = "ReduceMean", dtype: str = "float", **options: object) -> onnx.ModelProto:
    """A LayerNorm, or with mean="" an RMSNorm, of x over its last axis; `parts` are keys of the spellings."""
    square, stable, quotient, affine = parts
    centered = norm_texts.MEAN[mean] if mean else ["d = Neg(x)"]
    lines = [
        *centered,
        *norm_texts.MEAN_SQUARE[square],
        *norm_texts.STABLE[stable],
        *norm_texts.QUOTIENT[quotient],
        *norm_texts.AFFINE[affine],
    ]
    return onnx.parser.parse_model(norm_texts.text("\n".join(lines), dtype=dtype, **options))  # type: ignore[arg-type]


# --- standard --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", ["ReduceMean", "sum of x/n", "minus mean"])
@pytest.mark.parametrize(
    "parts",
    [
        ("Pow", "right", "Div", "gain and bias"),
        ("Mul", "left", "Reciprocal", "bias and gain, left"),
        ("two Subs", "right", "root of inverse", "gain as a row"),
        ("ReduceSumSquare", "right", "Pow", "none"),
    ],
    ids=lambda parts: parts[0],
)
def test_a_layer_norm_however_spelled(mean: str, parts: tuple[str, ...]) -> None:
    result = respelled(decomposed(*parts, mean=mean), "standard")
    assert [name for name in operators(result) if name != "Identity"] == ["LayerNormalization"]
    assert opset(result) == 17
    (item,) = result.rewrites
    assert item.rule.startswith("spell/onnx/LayerNormalization-17")


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("quotient", ["Div", "Reciprocal", "logarithm"])
def test_an_rms_norm_raises_the_opset(quotient: str, dtype: str) -> None:
    result = respelled(decomposed("Pow", "right", quotient, "gain as a row", mean="", dtype=dtype), "standard")
    assert operators(result) == ["Neg", "RMSNormalization"]
    assert opset(result) == 23


def test_the_users_opset_stays() -> None:
    model = decomposed("Pow", "right", "Div", "gain as a row", mean="")
    result = respelled(model, "standard", opset=17)
    assert reasons(result) == {"y": "no-rule"}
    assert "onnx/RMSNormalization-23 needs opset 23, the model is at 17" in result.refused[0].reason
    assert result.exit_code == 1


def test_the_opset_is_raised_no_further_than_needed() -> None:
    model = decomposed("Pow", "right", "Div", "gain and bias", opset=11)
    result = respelled(model, "standard")
    assert (operators(result), opset(result)) == (["LayerNormalization"], 17)


def test_a_bias_behind_an_rms_norm_is_an_add() -> None:
    result = respelled(decomposed("Pow", "right", "Div", "gain and bias", mean=""), "standard")
    assert operators(result) == ["Neg", "RMSNormalization", "Add"]


def test_in_float64_an_epsilon_that_would_be_rounded_is_refused() -> None:
    result = respelled(decomposed("Pow", "right", "Div", "gain and bias", dtype="double"), "standard")
    assert reasons(result) == {"y": "no-rule"}
    assert "epsilon = 1e-05 is not a float32" in result.refused[0].reason


def test_types_without_a_kernel_are_refused() -> None:
    """onnxruntime 1.32 has no RMSNormalization of bfloat16."""
    result = respelled(decomposed("Pow", "right", "Div", "gain as a row", mean="", dtype="bfloat16"), "standard")
    assert reasons(result) == {"y": "no-rule"}
    assert "onnxruntime has no kernel for what onnx/RMSNormalization-23 writes" in result.refused[0].reason


HALF = """
    main (float16[B,T,12] x) => (float16[B,T,12] y) <float[12] gain, float[1] eps = {1e-5}, float two = {2}> {
        w = Cast <to = 1> (x)
        q = Pow(w, two)
        v = ReduceMean <axes = [-1]> (q)
        e = Add(v, eps)
        s = Sqrt(e)
        u = Div(w, s)
        g = Mul(u, gain)
        y = Cast <to = 10> (g)
    }"""


def test_a_gain_of_float32_is_not_rounded_to_float16() -> None:
    """Statistics and gain of float32 in a float16 model: the norm is one of float32 between two casts."""
    result = respelled(parsed(HALF), "standard")
    assert operators(result) == ["Cast", "RMSNormalization", "Cast"]
    (gain,) = (item for item in result.model.graph.initializer if list(item.dims) == [12])  # type: ignore[attr-defined]
    assert gain.data_type == onnx.TensorProto.FLOAT


def test_a_gain_that_float16_holds_needs_no_casts() -> None:
    result = respelled(with_weights(parsed(HALF), gain=np.arange(1, 13) / 4), "standard")
    assert operators(result) == ["RMSNormalization"]


def test_names_outputs_and_metadata_stay() -> None:
    text = """
        main (float[B,T,12] x) => (float[B,T,12] y, float[B,T,1] m) <float[12] gain, float two = {2}, float eps = {1e-5}> {
            m = ReduceMean <axes = [-1]> (x)
            d = Sub(x, m)
            q = Pow(d, two)
            v = ReduceMean <axes = [-1]> (q)
            e = Add(v, eps)
            s = Sqrt(e)
            u = Div(d, s)
            [last] n = Mul(u, gain)
            [user] y = Tanh(n)
        }"""
    model = parsed(text)
    item = model.graph.node[-2].metadata_props.add()
    item.key, item.value = "namespace", "block.norm"
    result = respelled(model, "standard")
    # the mean is an output of the model: it stays, and nothing else of the region does
    assert operators(result) == ["ReduceMean", "LayerNormalization", "Tanh"]
    assert isinstance(result.model, onnx.ModelProto)
    mean, norm, user = result.model.graph.node
    assert (norm.name, user.name, user.input[0], norm.output[0]) == ("last", "user", "n", "n")
    assert {entry.key: entry.value for entry in norm.metadata_props} == {
        "namespace": "block.norm",
        "normswap.rule": "onnx/LayerNormalization-17:unbiased",
    }
    assert mean.output[0] == "m"


CHAIN = """
    main (float[B,T,12] x) => (float[B,T,12] y) <float[12] g, float[12] h, float two = {{2}}, float eps = {{1e-5}}> {{
        {first}
        q = Pow(n, two)
        v = ReduceMean <axes = [-1]> (q)
        e = Add(v, eps)
        s = Sqrt(e)
        u = Div(n, s)
        [second] y = Mul(u, h)
    }}"""


def test_norms_that_follow_each_other() -> None:
    first = "[first] n = LayerNormalization(x, g)"
    result = respelled(parsed(CHAIN.format(first=first)), "primitive", precise=False)
    assert rules(result) == ["primitive/LayerNorm-9:unbiased"]
    result = respelled(parsed(CHAIN.format(first=first)), "standard")
    assert operators(result) == ["LayerNormalization", "RMSNormalization"]
    again = respelled(result.model, "primitive", precise=False)  # type: ignore[arg-type]
    assert rules(again) == ["primitive/LayerNorm-18:unbiased", "primitive/RMSNorm-18"]


def test_only_the_norms_that_are_asked_for() -> None:
    model = parsed(CHAIN.format(first="[first] n = LayerNormalization(x, g)"))
    assert respelled(model, "primitive", exclude="first").rewrites == ()
    result = respelled(respelled(model, "standard").model, "primitive", only="sec*")  # type: ignore[arg-type]
    assert rules(result) == ["primitive/RMSNorm-18"]


@pytest.mark.parametrize("to", ["standard", "ort"])
def test_what_is_spelled_so_is_left(to: str) -> None:
    text = "main (float[B,T,12] x) => (float[B,T,12] y) <float[12] g> { [ln] y = LayerNormalization(x, g) }"
    result = respelled(parsed(text), to)
    assert (result.rewrites, result.refused, result.exit_code, result.candidates) == ((), (), 0, 0)


def test_in_a_body() -> None:
    text = """
        main (float[B,T,12] x, bool c) => (float[B,T,12] y) <float[12] g, float two = {2}, float eps = {1e-5}> {
            y = If (c) <
                then_branch = t () => (float[B,T,12] a) {
                    q = Pow(x, two)
                    v = ReduceMean <axes = [-1]> (q)
                    e = Add(v, eps)
                    s = Sqrt(e)
                    u = Div(x, s)
                    [rms] a = Mul(u, g)
                },
                else_branch = e () => (float[B,T,12] b) { b = Identity(x) }
            >
        }"""
    result = respelled(parsed(text), "ort", beyond=True)
    assert rules(result) == ["ort/SimplifiedLayerNormalization-9"]


# --- several axes, channels, groups ----------------------------------------------------------------------------------

OVER = """
    main (float[{shape}] x) => (float[{shape}] y) <float[{gain}] g, float[{gain}] b, float two = {{2}}, float eps = {{1e-3}}> {{
        m = ReduceMean <axes = [{axes}]> (x)
        d = Sub(x, m)
        q = Pow(d, two)
        v = ReduceMean <axes = [{axes}]> (q)
        e = Add(v, eps)
        s = Sqrt(e)
        u = Div(d, s)
        w = Mul(u, g)
        y = Add(w, b)
    }}"""


@pytest.mark.parametrize(
    ("shape", "gain", "axes", "expected"),
    [
        ("B,T,4,6", "4,6", "2,3", ["LayerNormalization"]),
        ("B,T,4,6", "6", "2,3", ["LayerNormalization"]),
        ("B,T,4,6", "4,1", "-2,-1", ["LayerNormalization"]),
        ("B,5,4,6", "5,4,6", "1,2,3", ["LayerNormalization"]),
        ("2,5,4,6", "5,4,6", "0,1,2,3", ["LayerNormalization"]),
        ("B,6,T", "6,1", "1", ["Transpose", "LayerNormalization", "Transpose"]),
        ("B,6,H,W", "6,1,1", "1", ["Transpose", "LayerNormalization", "Transpose"]),
        ("B,6,H,W", "6,1,1", "2,3", ["InstanceNormalization"]),
        ("B,6,T", "6,1", "2", ["InstanceNormalization"]),
        # the gain lies across the norm's own axis, which the operator cannot have
        ("B,6,5,7", "5,1", "3", ["LayerNormalization", "Mul", "Add"]),
    ],
)
def test_other_axes(shape: str, gain: str, axes: str, expected: list[str]) -> None:
    model = parsed(OVER.format(shape=shape, gain=gain, axes=axes))
    assert operators(respelled(model, "standard")) == expected


def test_an_rms_norm_over_all_four_axes_is_one_operator() -> None:
    text = OVER.replace("m = ReduceMean <axes = [{axes}]> (x)", "").replace("d = Sub(x, m)", "d = Neg(x)")
    model = parsed(text.format(shape="2,5,4,6", gain="4,6", axes="0,1,2,3"))
    assert operators(respelled(model, "standard")) == ["Neg", "RMSNormalization", "Add"]


def test_a_norm_of_the_sample_variance_says_that_its_epsilon_is_no_float32() -> None:
    """The ε of the mean of squares is then ε·(D − 1)/D, and one that is rounded is seen where the mean is as small."""
    variance = "q = ReduceSumSquare <axes = [{axes}]> (d) v = Div(q, less)"
    text = OVER.replace("q = Pow(d, two)", "").replace("v = ReduceMean <axes = [{axes}]> (q)", variance)
    text = text.replace("float two = {{2}}", "float less = {{5}}").replace("{{1e-3}}", "{{1e-5}}")
    result = respelled(parsed(text.format(shape="B,T,6", gain="6", axes="2")), "standard")
    assert reasons(result) == {"y": "no-rule"}
    said = re.search(
        r"epsilon = (\S+) is not a float32, as the attribute is; the nearest is (\S+)$", result.refused[0].reason
    )
    assert said is not None
    epsilon, nearest = map(float, said.groups())
    assert epsilon == pytest.approx(float(np.float32(1e-5)) * 5 / 6, rel=1e-12)
    assert nearest == float(np.float32(epsilon)) != epsilon


@pytest.mark.parametrize(("shape", "axes"), [("B,T,4,6", "1,3"), ("B,6,H,W,L", "1"), ("B,6,T", "0")])
def test_axes_that_no_operator_has_are_refused(shape: str, axes: str) -> None:
    model = parsed(OVER.format(shape=shape, gain="1", axes=axes))
    result = respelled(model, "standard")
    assert reasons(result) == {"y": "no-rule"}
    assert "no rule of onnx writes LayerNorm over axes" in result.refused[0].reason


SANDWICH = """
    main (float[B,6,H,W] x) => (float[B,6,H,W] y)
    <float[{groups}] one, float[{groups}] zero, float[6,1,1] g, float[6,1,1] b, int64[3] inner = {{0, {groups}, -1}}> {{
        r = Reshape(x, inner)
        i = InstanceNormalization <epsilon = 1e-3> (r, one, zero)
        k = Shape(x)
        o = Reshape(i, k)
        w = Mul(o, g)
        [gn] y = Add(w, b)
    }}"""


def sandwich(groups: int) -> onnx.ModelProto:
    model = parsed(SANDWICH.format(groups=groups))
    return with_weights(model, one=np.ones(groups), zero=np.zeros(groups))


@pytest.mark.parametrize("groups", [2, 3])
def test_an_instance_norm_between_reshapes_is_a_group_norm(groups: int) -> None:
    # onnxruntime 1.32 takes the operator apart with a variance of E[x²] − E[x]², which is lost where the mean is large
    result = respelled(sandwich(groups), "standard", precise=False)
    assert (operators(result), opset(result)) == (["GroupNormalization"], 21)
    (node,) = result.model.graph.node  # type: ignore[attr-defined]
    assert {item.name: item.i for item in node.attribute if item.name == "num_groups"} == {"num_groups": groups}
    assert node.name == "gn"
    primitive = respelled(result.model, "primitive", precise=False)  # type: ignore[arg-type]
    assert rules(primitive) == ["primitive/GroupNorm-18"]


def test_of_a_sandwich_too_no_norm_operator_is_left_in_primitives() -> None:
    result = respelled(sandwich(3), "primitive")
    assert rules(result) == ["primitive/GroupNorm-9"]
    assert not any(name.endswith("Normalization") for name in operators(result))


def test_onnxruntime_has_no_group_norm_of_its_own() -> None:
    assert respelled(sandwich(3), "ort").candidates == 0


# --- norms without parameters ----------------------------------------------------------------------------------------

LENGTH = """
    main (float[B,5,6] x) => (float[B,5,6] y) <{constants}> {{
        l = ReduceL2 <axes = [{axis}]> (x)
        {guard}
        y = Div(x, k)
    }}"""


@pytest.mark.parametrize("axis", ["-1", "1"])
def test_a_length_is_lp_normalization(axis: str) -> None:
    model = parsed(
        LENGTH.format(
            axis=axis, guard="p = Greater(l, zero) k = Where(p, l, one)", constants="float zero = {0}, float one = {1}"
        )
    )
    result = respelled(model, "standard")
    assert operators(result) == ["LpNormalization"]
    back = respelled(result.model, "primitive")  # type: ignore[arg-type]
    assert rules(back) == ["primitive/L2Norm-9"]


def test_a_floor_is_not_lp_normalization() -> None:
    """Below the floor torch's normalize is linear, and the operator is not."""
    model = parsed(LENGTH.format(axis="-1", guard="k = Max(l, floor)", constants="float floor = {1e-3}"))
    result = respelled(model, "standard")
    assert reasons(result) == {"y": "no-rule"}
    assert "as a floor" in result.refused[0].reason


def test_in_primitives_a_row_of_zeros_stays_zero() -> None:
    text = "main (float[B,5,6] x) => (float[B,5,6] y) { y = LpNormalization <axis = 1> (x) }"
    result = respelled(parsed(text), "primitive")
    assert rules(result) == ["primitive/L2Norm-9"]
    x = drawn("x", (2, 5, 6)).astype(np.float32)
    x[0, :, 3] = 0
    (y,) = session(result.model).run(None, {"x": x})  # type: ignore[arg-type]
    assert np.isfinite(y).all()
    assert not y[0, :, 3].any()


MEAN_VARIANCE = """
    main (float[B,5,6,7] x) => (float[B,5,6,7] y) <float two = {{2}}, float eps = {{{epsilon}}}> {{
        m = ReduceMean <axes = [0,2,3]> (x)
        d = Sub(x, m)
        q = Pow(d, two)
        v = ReduceMean <axes = [0,2,3]> (q)
        s = Sqrt(v)
        e = Add(s, eps)
        y = Div(d, e)
    }}"""


def test_mean_variance_normalization_only_with_its_own_epsilon() -> None:
    result = respelled(parsed(MEAN_VARIANCE.format(epsilon="1e-9")), "standard")
    assert operators(result) == ["MeanVarianceNormalization"]
    assert rules(respelled(result.model, "primitive")) == ["primitive/MeanVarianceNorm-9"]  # type: ignore[arg-type]
    other = respelled(parsed(MEAN_VARIANCE.format(epsilon="1e-5")), "standard")
    assert reasons(other) == {"y": "no-rule"}


# --- operators in primitives -----------------------------------------------------------------------------------------


OPERATORS = [
    ("LayerNormalization <epsilon = 0.001> (x, g, b)", "LayerNorm", (17, 18, 23)),
    ("LayerNormalization <axis = 2, epsilon = 0.001> (x, h)", "LayerNorm", (17, 23)),
    ("RMSNormalization <epsilon = 0.001> (x, g)", "RMSNorm", (23,)),
    ("InstanceNormalization <epsilon = 0.001> (x, c, k)", "InstanceNorm", (9, 17, 18, 23)),
    ("GroupNormalization <num_groups = 3, epsilon = 0.001> (x, c, k)", "GroupNorm", (21, 23)),
    ("LpNormalization <axis = 1> (x)", "L2Norm", (9, 13, 18, 23)),
    ("MeanVarianceNormalization <axes = [0, 2]> (x)", "MeanVarianceNorm", (9, 13, 18, 23)),
]


@pytest.mark.parametrize(
    ("call", "rule", "version"), [(call, rule, version) for call, rule, versions in OPERATORS for version in versions]
)
def test_operators_in_primitives(call: str, rule: str, version: int) -> None:
    names = set(call.replace("(", " ").replace(")", " ").replace(",", " ").split())
    shapes = {"g": "7", "b": "7", "h": "5,7", "c": "6", "k": "6"}
    constants = ", ".join(f"float[{shape}] {name}" for name, shape in shapes.items() if name in names)
    declared = f" <{constants}>" if constants else ""
    text = f"main (float[B,6,5,7] x) => (float[B,6,5,7] y){declared} {{ [norm] y = {call} }}"
    model = parsed(text, opset=version, ir_version=10 if version >= 21 else 8)
    result = respelled(model, "primitive", precise=False)
    (name,) = rules(result)
    assert name.startswith(f"primitive/{rule}-{18 if version >= 18 else 9}")
    assert opset(result) == version
    assert not any(operator.endswith("Normalization") for operator in operators(result))


@pytest.mark.parametrize("call", [call for call, *_ in OPERATORS if "(x, c, k)" in call or call.endswith("(x)")])
def test_an_operator_of_a_kind_that_is_not_moved_is_written_and_not_refused_as_well(call: str) -> None:
    constants = " <float[6] c, float[6] k>" if "c" in call.split("(")[1] else ""
    text = f"main (float[B,6,5,7] x) => (float[B,6,5,7] y){constants} {{ [norm] y = {call} }}"
    result = respelled(parsed(text, opset=23, ir_version=10), "primitive", precise=False)
    assert [item.site for item in result.rewrites] == ["norm"]
    assert result.refused == ()


@pytest.mark.parametrize(
    "call", ["LayerNormalization(x, g, g)", "InstanceNormalization(x, c, c)", "RMSNormalization(x, g)"]
)
def test_operators_of_float16_in_primitives(call: str) -> None:
    constant = "float16[7] g" if "g" in call.split("(")[1] else "float16[6] c"
    text = f"main (float16[B,6,7] x) => (float16[B,6,7] y) <{constant}> {{ y = {call} }}"
    result = respelled(parsed(text, opset=23, ir_version=10), "primitive")
    assert rules(result)[0].split("/")[1].partition("_")[2].startswith("half-18")
    assert operators(result)[0] in ("Cast", "Shape")


def test_a_run_time_gain_of_an_operator_is_refused() -> None:
    text = "main (float[B,T,12] x, float[12] g) => (float[B,T,12] y) { [ln] y = LayerNormalization(x, g) }"
    assert reasons(respelled(parsed(text), "primitive")) == {"ln": "runtime-parameter"}


# --- onnxruntime -----------------------------------------------------------------------------------------------------

RESIDUAL = """
    main ({inputs}) => (float[{shape}] y, float[{shape}] t) <float[{gain}] g{more}> {{
        t = Add(x, r)
        [norm] n = {call}
        y = Tanh(n)
    }}"""


def residual(call: str, shape: str = "B,T,12", gain: str = "12", more: str = "", **options: int) -> onnx.ModelProto:
    inputs = f"float[{shape}] x" + ("" if "r" in more.split() else f", float[{shape}] r")
    text = RESIDUAL.format(inputs=inputs, shape=shape, gain=gain, more=more, call=call)
    return parsed(text, **options)


def test_add_and_norm_are_one_operator() -> None:
    result = respelled(residual("LayerNormalization(t, g)"), "ort")
    assert operators(result) == ["SkipLayerNormalization", "Tanh"]
    assert isinstance(result.model, onnx.ModelProto)
    assert result.model.graph.node[0].output[3] == "t"
    assert result.model.graph.node[0].name == "norm"
    # and back: the bundle is Add and a norm
    assert operators(respelled(result.model, "standard")) == ["Add", "LayerNormalization", "Tanh"]
    assert respelled(result.model, "ort").candidates == 0
    back = respelled(result.model, "primitive")
    assert rules(back) == ["primitive/LayerNorm-9:unbiased"]


def test_add_and_rms_norm_are_one_operator() -> None:
    model = residual("RMSNormalization(t, g)", opset=23, ir_version=10)
    assert operators(respelled(model, "ort")) == ["SkipSimplifiedLayerNormalization", "Tanh"]


@pytest.mark.parametrize(
    "model",
    [
        residual("LayerNormalization(t, g)", shape="B,T,5,12"),  # of rank 4
        residual("LayerNormalization(t, g)", more=", float[12] r"),  # a bias, not a residual
        residual("LayerNormalization(t, g)", gain="1"),  # one number
    ],
    ids=["rank", "shape", "gain"],
)
def test_what_the_operator_does_not_take_stays_two(model: onnx.ModelProto) -> None:
    assert operators(respelled(model, "ort")) == ["Add", "LayerNormalization", "Tanh"]


def test_an_add_outside_of_the_norms_own_graph_stays() -> None:
    text = """
        main (float[B,T,12] x, float[B,T,12] r, bool c) => (float[B,T,12] y, float[B,T,12] z) <float[12] g> {
            t = Add(x, r)
            z = Tanh(t)
            y = If (c) <
                then_branch = a () => (float[B,T,12] a) { [norm] a = LayerNormalization(t, g) },
                else_branch = b () => (float[B,T,12] b) { b = Identity(x) }
            >
        }"""
    assert respelled(parsed(text), "ort").candidates == 0
    assert rules(respelled(parsed(text), "primitive", precise=False)) == ["primitive/LayerNorm-9:unbiased"]


def test_onnxruntimes_own_operators_at_every_opset() -> None:
    model = decomposed("Pow", "right", "Div", "gain and bias", opset=11)
    result = respelled(model, "ort", beyond=True)
    assert (operators(result), opset(result)) == (["LayerNormalization"], 11)
    model = decomposed("Pow", "right", "Div", "gain as a row", mean="", opset=11)
    result = respelled(model, "ort", beyond=True)
    assert (operators(result), opset(result)) == (["Neg", "SimplifiedLayerNormalization"], 11)


# --- nothing else is touched -----------------------------------------------------------------------------------------


def test_what_no_rule_takes_is_exactly_what_it_was() -> None:
    """A norm that is refused stands between two that are not."""
    text = """
        main (float[B,T,12] x) => (float[B,T,12] y) <float[12] g, float floor = {0.5}, float zero = {0}, float one = {1}> {
            [a] a = LayerNormalization(x, g)
            [l] l = ReduceL2 <axes = [-1]> (a)
            [k] k = Max(l, floor)
            [b] b = Div(a, k)
            [c] c = LayerNormalization(b, g)
            [d] d = ReduceL2 <axes = [-1]> (c)
            [p] p = Greater(d, zero)
            [w] w = Where(p, d, one)
            [e] y = Div(c, w)
        }"""
    model = parsed(text)
    result = respelled(model, "standard")
    assert reasons(result) == {"b": "no-rule"}
    assert isinstance(result.model, onnx.ModelProto)
    assert list(result.model.graph.node)[:5] == list(model.graph.node)[:5]
    assert operators(result)[5:] == ["LpNormalization"]


@pytest.mark.parametrize("name", ["llama_torchscript17", "bert_torchscript14", "t5_half_torchscript17"])
def test_exports(name: str) -> None:
    path = Path(__file__).resolve().parent.parent / "models" / "small" / f"{name}.onnx"
    model = onnx.load(path)
    result = respelled(model, "standard")
    assert (result.refused, result.exit_code) == ((), 0)
    kinds = result.before.norms
    wanted = {"LayerNormalization": kinds.get("LayerNorm", 0), "RMSNormalization": kinds.get("RMSNorm", 0)}
    assert {name: operators(result).count(name) for name in wanted} == wanted
    assert result.after.nodes < result.before.nodes


# --- rules of the user's own -----------------------------------------------------------------------------------------

MINE = """
# RMSNorm over the last axis, as a runtime of one's own has it.
<
  ir_version: 8,
  opset_import: ["": 14, "normswap": 1, "rule": 1],
  metadata_props: ["exactness": "exact", "since_opset": "14", "types": "float"]
>
example (float[2,3,16] x) => (float[2,3,16] y) <float[16] gain> {
  y = rule.match<epsilon: float = 0.25>(x, gain)
}

<domain: "rule", opset_import: ["": 14, "normswap": 1]>
match <epsilon> (x, gain) => (y) {
  last = Constant<value_ints = [-1]>()
  eps  = Constant<value_float: float = @epsilon>()
  y    = normswap.RMSNorm(x, last, eps, gain)
}

<domain: "rule", opset_import: ["": 14]>
replace <epsilon> (x, gain) => (y) {
  epsilon = Constant<value_float: float = @epsilon>()
  square  = Mul(x, x)
  mean    = GlobalAverage(square)
  more    = Add(mean, epsilon)
  root    = Sqrt(more)
  inverse = Reciprocal(root)
  scaled  = Mul(x, inverse)
  y       = Mul(gain, scaled)
}
""".replace("mean    = GlobalAverage(square)", "mean    = ReduceMean<axes = [-1], keepdims = 1>(square)").replace(
    '"types": "float"', '"types": "float", "until_opset": "17"'
)


def folder(tmp_path: Path, text: str, runtime: str = "mine") -> Path:
    place = tmp_path / "spell" / runtime
    place.mkdir(parents=True)
    (place / "RMSNorm-14.onnxtxt").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_runtime_of_the_users_own_is_a_target(tmp_path: Path) -> None:
    model = decomposed("Pow", "right", "Div", "gain as a row", mean="")
    with pytest.raises(normswap.UsageError, match="unknown target `mine`"):
        normswap.convert(model, "mine")
    result = respelled(model, "mine", rules=folder(tmp_path, MINE))
    assert rules(result) == ["mine/RMSNorm-14"]
    assert operators(result) == ["Neg", "Mul", "ReduceMean", "Add", "Sqrt", "Reciprocal", "Mul", "Mul"]


def test_rules_of_the_users_own_come_first(tmp_path: Path) -> None:
    model = decomposed("Pow", "right", "Div", "gain as a row", mean="")
    result = respelled(model, "standard", rules=str(folder(tmp_path, MINE, "onnx")))
    assert (rules(result), opset(result)) == (["onnx/RMSNorm-14"], 17)


def test_a_bad_rule_of_the_users_own_is_refused(tmp_path: Path) -> None:
    bad = folder(tmp_path, MINE.replace("mean    = ReduceMean<axes = [-1]", "mean    = ReduceMean<axes = [-2]"))
    model = decomposed("Pow", "right", "Div", "gain as a row", mean="")
    where = r"spell/mine/RMSNorm-14\.onnxtxt:20:1: `replace` computes something else"
    with pytest.raises(normswap.InputRefused, match=where):
        normswap.convert(model, "mine", rules=bad)


def test_a_rule_that_is_right_in_its_example_alone_is_refused(tmp_path: Path) -> None:
    """It is right for values of rank 3, and the model's has rank 4."""
    wrong = folder(tmp_path, MINE.replace("axes = [-1], keepdims", "axes = [2], keepdims"))
    model = decomposed("Pow", "right", "Div", "gain as a row", mean="", shape="B,T,5,12")
    with pytest.raises(normswap.InputRefused, match=r"RMSNorm-14\.onnxtxt:20:1: at `y`, `replace` computes something"):
        normswap.convert(model, "mine", rules=wrong)


def test_a_runtime_cannot_have_the_name_of_another_target(tmp_path: Path) -> None:
    model = decomposed("Pow", "right", "Div", "gain as a row", mean="")
    with pytest.raises(normswap.UsageError, match="rename spell/folded"):
        normswap.convert(model, "folded", rules=folder(tmp_path, MINE, "folded"))


def test_a_norm_cannot_be_redefined(tmp_path: Path) -> None:
    (tmp_path / "norms").mkdir()
    ours = Path(normswap.__file__).parent.parent / "rules" / "norms" / "RMSNorm.onnxtxt"
    (tmp_path / "norms" / "RMSNorm.onnxtxt").write_bytes(ours.read_bytes())
    model = decomposed("Pow", "right", "Div", "gain as a row", mean="")
    with pytest.raises(normswap.InputRefused, match="`RMSNorm` is a norm of normswap's own"):
        normswap.convert(model, "standard", rules=tmp_path)


def test_a_length_that_divides_zeros_by_zero_is_no_lp_normalization() -> None:
    """x / ‖x‖ is NaN on a row of zeros, LpNormalization is 0."""
    text = """<ir_version: 10, opset_import: ["": 18]> g (float[N,8] x) => (float[N,8] y) <int64[1] axes = {-1}> {
        l = ReduceL2(x, axes) y = Div(x, l) }"""
    result = normswap.convert(onnx.parser.parse_model(text), "standard", check=False)
    assert [refusal.reason_id for refusal in result.refused] == ["no-rule"]
    assert not result.rewrites


def test_what_divides_by_zero_must_do_so_in_the_same_places() -> None:
    truth = np.array([1.0, np.nan, np.inf, 2.0])
    assert apart(truth.copy(), truth) == 0.0
    assert apart(np.array([1.0, np.nan, np.inf, 2.2]), truth) == pytest.approx(0.1)
    for wrong in ([1.0, 0.0, np.inf, 2.0], [1.0, np.nan, -np.inf, 2.0], [np.nan, np.nan, np.inf, 2.0]):
        assert apart(np.array(wrong), truth) == np.inf
    assert apart(truth[:3], truth) == np.inf
