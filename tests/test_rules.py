"""Rules: the ones that come with normswap verify, wrong ones are told apart, and patterns mean what ONNX says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

import normswap
from normswap import reference, rules
from normswap.errors import InputRefused
from normswap.learn import learn
from normswap.rules.execute import execute, relative
from normswap.rules.pattern import Pattern, find
from normswap.rules.replacement import Inapplicable, emit, fits, substitute

RULES = rules.load()
BAD = Path(__file__).parent / "rules" / "bad"

SKIP = """
# Add and RMSNorm are one operator, which also returns the sum.
<
  ir_version: 8,
  opset_import: ["": 14, "normswap": 1, "com.microsoft": 1, "rule": 1],
  metadata_props: ["exactness": "exact", "since_opset": "14"]
>
example (float[2,3,16] x, float[2,3,16] skip) => (float[2,3,16] y, float[2,3,16] total) <float[16] gain> {
  y, total = rule.match<epsilon: float = 0.25>(x, skip, gain)
}

<domain: "rule", opset_import: ["": 14, "normswap": 1]>
match <epsilon> (x, skip, gain) => (y, total) {
  last  = Constant<value_ints = [-1]>()
  eps   = Constant<value_float: float = @epsilon>()
  total = Add(x, skip)
  y     = normswap.RMSNorm(total, last, eps, gain)
}

<domain: "rule", opset_import: ["": 14, "com.microsoft": 1]>
replace <epsilon> (x, skip, gain) => (y, total) {
  y, mean, deviation, total = com.microsoft.SkipSimplifiedLayerNormalization<epsilon: float = @epsilon>(x, skip, gain)
}
"""


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def graph(body: str, constants: str = "") -> ir.Model:
    header = '<ir_version: 8, opset_import: ["": 17, "com.example": 1]>'
    return parse(f"{header} g (float[2,8] x, float[2,8] z) => (float[2,8] y) <{constants}> {{ {body} }}")


def pattern(body: str, inputs: str = "x, z", constants: frozenset[str] = frozenset()) -> Pattern:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float x) => (float y) { y = Identity(x) }\n'
    text += f'<domain: "rule", opset_import: ["": 17]> match <p> ({inputs}) => (y) {{ {body} }}'
    (function,) = parse(text).functions.values()
    return Pattern(function, constants)


def found(wanted: Pattern, model: ir.Model) -> list[str]:
    facts = learn(model)
    return [node.op_type for node in model.graph if find(wanted, node, facts) is not None]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_verifies(rule):
    assert [str(complaint) for complaint in rules.verify(rule)] == []


@pytest.mark.parametrize("path", sorted(BAD.glob("*.onnxtxt")), ids=lambda path: path.stem)
def test_wrong_rule_gets_its_complaint(path):
    wanted = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# complaint: ")
    complaints = rules.verify_file(path)
    assert complaints
    assert str(complaints[0]).startswith(f"{path}:{wanted}")


def test_the_larger_pattern_comes_first_and_then_the_newer_rule():
    sizes = [-len(rule.match.function) for rule in RULES]
    assert sizes == sorted(sizes)
    for size in set(sizes):
        opsets = [rule.since_opset for rule in RULES if len(rule.match.function) == -size]
        assert opsets == sorted(opsets, reverse=True)


def test_the_readme_shows_a_rule_as_it_is():
    folder = rules.rules_directory()
    shown = (folder / "README.md").read_text(encoding="utf-8").split("## The form")[1].split("```")[1]
    assert shown.strip() == (folder / "spell/onnx/RMSNormalization-23.onnxtxt").read_text(encoding="utf-8").strip()


def test_the_rules_of_a_checkout_are_found():
    assert rules.rules_directory() == Path(normswap.__file__).parent.parent / "rules"


def test_a_folder_of_the_user(tmp_path):
    folder = tmp_path / "spell" / "mine"
    folder.mkdir(parents=True)
    (folder / "Skip-14.onnxtxt").write_text(SKIP, encoding="utf-8")
    (rule,) = rules.load(tmp_path)
    assert (rule.name, rule.runtime, rule.since_opset) == ("mine/Skip-14", "mine", 14)
    assert rule.match.constants == {"gain"}
    assert rules.verify(rule) == []


def test_a_folder_without_rules_is_refused(tmp_path):
    with pytest.raises(InputRefused, match="no such folder"):
        rules.load(tmp_path)


def test_a_folder_with_a_bad_rule_is_refused(tmp_path):
    folder = tmp_path / "spell" / "mine"
    folder.mkdir(parents=True)
    path = folder / "syntax.onnxtxt"
    path.write_bytes((BAD / "syntax.onnxtxt").read_bytes())
    with pytest.raises(rules.RuleError, match=r"syntax\.onnxtxt:15:35: Expected character \) not found\."):
        rules.load(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "weights.onnxtxt"
    path.write_bytes(b"\xff\xfe\x00")
    (complaint,) = rules.verify_file(path)
    assert "cannot be read" in complaint.message


# --- a library ------------------------------------------------------------------------------------------------------


def test_rules_of_the_users_own_come_before_ours(tmp_path):
    folder = tmp_path / "spell" / "onnx"
    folder.mkdir(parents=True)
    (folder / "Skip-14.onnxtxt").write_text(SKIP, encoding="utf-8")
    found = rules.library(tmp_path)
    assert [rule.name for rule in found.rules[:2]] == ["onnx/Skip-14", rules.library().rules[0].name]
    assert found.rules[1:] == rules.library().rules
    assert found.definitions == rules.library().definitions


def test_a_norm_of_the_users_own(tmp_path):
    (tmp_path / "norms").mkdir()
    text = (rules.rules_directory() / "norms" / "RMSNorm.onnxtxt").read_text(encoding="utf-8")
    (tmp_path / "norms" / "MyNorm.onnxtxt").write_text(text.replace("RMSNorm", "MyNorm"), encoding="utf-8")
    assert ("MyNorm", 4) in rules.library(tmp_path).definitions


@pytest.mark.parametrize("name", ["absent", "file", "empty"])
def test_what_is_no_folder_of_rules_is_refused(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputRefused, match=r"no such folder|no rules"):
        rules.library(tmp_path / name)


def test_every_kind_of_norm_with_a_definition_can_be_written_in_primitives():
    kinds = {name for name, _ in rules.definitions()}
    assert kinds == {rule.norm for rule in RULES if rule.runtime == "primitive"}
    for kind in kinds:
        types = {item for rule in RULES if (rule.runtime, rule.norm) == ("primitive", kind) for item in rule.types}
        assert {ir.DataType.FLOAT, ir.DataType.DOUBLE} <= types


# --- norms ----------------------------------------------------------------------------------------------------------


def defined(kind, *feeds):
    """What the function of norms/ computes."""
    function = rules.definitions()[kind, len(feeds)]
    arrays = dict(zip(function.inputs, map(np.asarray, feeds), strict=True))
    return execute(function, arrays, lambda node: 18, rules.definitions())[function.outputs[0]]


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 3, 4), (1, 6, 2, 3, 2)])
def test_instance_and_group_norm_are_what_onnx_says(shape):
    generator = np.random.default_rng(3)
    x = generator.normal(size=shape) + 1
    gain, bias = (generator.normal(size=(6, *[1] * (len(shape) - 2))) for _ in range(2))
    for groups in (6, 3, 2, 1):
        runs = x.reshape(shape[0], groups, -1)
        normalized = (runs - runs.mean(-1, keepdims=True)) / np.sqrt(runs.var(-1, keepdims=True) + 0.25)
        truth = normalized.reshape(shape) * gain + bias
        assert relative(defined("GroupNorm", x, np.int64(groups), 0.25, gain, bias), truth) < 1e-14
        if groups == 6:
            assert relative(defined("InstanceNorm", x, 0.25, gain, bias), truth) < 1e-14


@pytest.mark.parametrize("axes", [(-1,), (-3, -1)])
def test_mean_variance_norm_has_its_epsilon_outside_the_root(axes):
    x = np.random.default_rng(4).normal(size=(2, 3, 4)) + 1
    truth = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 0.25)
    assert relative(defined("MeanVarianceNorm", x, axes, 0.25), truth) < 1e-14


def test_l2_norm_with_epsilon_with_a_floor_and_of_zeros():
    x = np.random.default_rng(5).normal(size=(2, 3, 4))
    x[0, 1] *= 1e-3
    x[1, 2] = 0
    squares = (x * x).sum(-1, keepdims=True)
    assert relative(defined("L2Norm", x, [-1], 0.25, 0.0), x / np.sqrt(squares + 0.25)) < 1e-14
    assert relative(defined("L2Norm", x, [-1], 0.0, 0.5), x / np.maximum(np.sqrt(squares), 0.5)) < 1e-14
    plain = defined("L2Norm", x, [-1], 0.0, 0.0)
    assert not plain[1, 2].any()
    lengths = np.linalg.norm(plain.reshape(-1, 4), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 1, 1, 1, 0])


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
def test_the_definitions_are_the_norms(kind, axes):
    generator = np.random.default_rng(1)
    x, gain, bias = generator.normal(size=(2, 3, 4)) + 1, generator.normal(size=4), generator.normal(size=4)
    centered = reference.center(x, axes) if kind == "LayerNorm" else x
    expected = reference.root_mean_square(centered, axes, 0.25) * gain
    count = 5 if kind == "LayerNorm" else 4
    for arity in range(4, count + 1):
        function = rules.definitions()[kind, arity]
        feeds = (x, np.asarray(axes), np.float64(0.25), gain, bias)[:arity]
        arrays = dict(zip(function.inputs, map(np.asarray, feeds), strict=True))
        known = execute(function, arrays, lambda node: 18, rules.definitions())
        truth = expected + bias if arity == 5 else expected
        assert relative(known[function.outputs[0]], truth) < 1e-14


# --- patterns -------------------------------------------------------------------------------------------------------


def test_commutative_operands_stand_in_either_order():
    wanted = pattern("h = Relu(x) y = Add(h, z)")
    assert found(wanted, graph("h = Relu(x) y = Add(h, z)")) == ["Add"]
    assert found(wanted, graph("h = Relu(x) y = Add(z, h)")) == ["Add"]
    assert found(pattern("h = Relu(x) y = Sub(h, z)"), graph("h = Relu(x) y = Sub(z, h)")) == []


def test_both_orders_are_tried_together():
    wanted = pattern("a = Relu(x) b = Abs(z) c = Mul(a, b) y = Add(c, a)")
    assert found(wanted, graph("a = Relu(x) b = Abs(z) c = Mul(b, a) y = Add(a, c)")) == ["Add"]


def test_the_same_name_is_the_same_tensor():
    wanted = pattern("y = Mul(x, x)", inputs="x")
    assert found(wanted, graph("y = Mul(x, x)")) == ["Mul"]
    assert found(wanted, graph("y = Mul(x, z)")) == []


@pytest.mark.parametrize(
    "constant", ["float two = {2}", "float[1] two = {2}", "int64 two = {2}", "float16 two = {16384}"]
)
def test_a_literal_compares_by_value(constant):
    wanted = pattern("two = Constant<value_float = 2.0>() y = Pow(x, two)", inputs="x")
    assert found(wanted, graph("y = Pow(x, two)", constant)) == ["Pow"]


@pytest.mark.parametrize(
    "constant", ["float two = {3}", "float[2] two = {2, 2}", "float[1,1] two = {2}", "int64 two = {1}"]
)
def test_another_constant_is_not_the_literal(constant):
    wanted = pattern("two = Constant<value_float = 2.0>() y = Pow(x, two)", inputs="x")
    assert found(wanted, graph("y = Pow(x, two)", constant)) == []


def test_a_fraction_is_not_an_integer():
    wanted = pattern("half = Constant<value_float = 0.5>() y = Pow(x, half)", inputs="x")
    assert found(wanted, graph("y = Pow(x, zero)", "int64 zero = {0}")) == []


def test_an_attribute_that_is_not_written_has_its_default():
    wanted = pattern("y = LeakyRelu(x)", inputs="x")
    assert found(wanted, graph("y = LeakyRelu(x)")) == ["LeakyRelu"]
    assert found(wanted, graph("y = LeakyRelu<alpha = 0.01>(x)")) == ["LeakyRelu"]
    assert found(wanted, graph("y = LeakyRelu<alpha = 0.5>(x)")) == []


def test_attributes_are_captured():
    wanted = pattern("y = LeakyRelu<alpha: float = @p>(x)", inputs="x")
    model = graph("y = LeakyRelu<alpha = 0.5>(x)")
    match = find(wanted, model.graph[0], learn(model))
    assert match is not None
    assert match.captured == {"p": 0.5}


def test_an_attribute_captured_twice_must_agree():
    wanted = pattern("h = LeakyRelu<alpha: float = @p>(x) y = LeakyRelu<alpha: float = @p>(h)", inputs="x")
    assert found(wanted, graph("h = LeakyRelu<alpha = 0.5>(x) y = LeakyRelu<alpha = 0.5>(h)")) == ["LeakyRelu"]
    assert found(wanted, graph("h = LeakyRelu<alpha = 0.5>(x) y = LeakyRelu<alpha = 0.25>(h)")) == []


def test_an_input_that_is_constant_in_the_example_must_be_constant():
    wanted = pattern("y = MatMul(x, z)", constants=frozenset({"z"}))
    square = "float[8,8] w = {" + ",".join("1" * 64) + "}"
    assert found(wanted, graph("y = MatMul(x, w)", square)) == ["MatMul"]
    assert found(wanted, graph("y = MatMul(x, z)")) == []


def test_omitted_inputs_match_omitted_inputs():
    wanted = pattern("y = Clip(x, , z)")
    assert found(wanted, graph("y = Clip(x, , high)", "float high = {1}")) == ["Clip"]
    assert found(wanted, graph("y = Clip(x, low, high)", "float low = {0}, float high = {1}")) == []


def test_another_domain_is_another_operator():
    assert found(pattern("y = Relu(x)", inputs="x"), graph("y = com.example.Relu(x)")) == []


# --- where a rule fits ----------------------------------------------------------------------------------------------


def skips(shape, other, gain):
    model = parse(
        f"""<ir_version: 8, opset_import: ["": 14, "normswap": 1]>
        g (float[{shape}] x, float[{other}] z) => (float[{shape}] y)
          <int64[1] axes = {{-1}}, float epsilon = {{0.5}}, float[{gain}] gain = {{{",".join("1" * gain)}}}>
        {{ t = Add(z, x)  y = normswap.RMSNorm(t, axes, epsilon, gain) }}"""
    )
    facts = learn(model)
    rule = next(item for item in RULES if item.name == "ort/SkipSimplifiedLayerNormalization-9")
    match = find(rule.match, model.graph[1], facts)
    assert match is not None
    return fits(rule, match, facts)


def test_a_rule_fits_where_ranks_and_shapes_do():
    assert skips("N,3,8", "N,3,8", 8)
    assert skips("N,8", "N,8", 8)
    assert not skips("N,3,8", "M,3,8", 8)
    assert not skips("N,3,8", "8", 8)
    assert not skips("N,3,8", "1,3,8", 8)
    assert not skips("N,3,8", "N,3,8", 1)
    assert not skips("2,N,3,8", "2,N,3,8", 8)


# --- replacements ---------------------------------------------------------------------------------------------------


@pytest.fixture
def skip(tmp_path):
    folder = tmp_path / "spell" / "mine"
    folder.mkdir(parents=True)
    (folder / "Skip-14.onnxtxt").write_text(SKIP, encoding="utf-8")
    return rules.load(tmp_path)[0]


def test_a_pattern_of_two_nodes_and_two_outputs(skip):
    """The sum is read by a node that stands before the norm: the order of the nodes follows."""
    model = parse(
        """<ir_version: 8, opset_import: ["": 14, "normswap": 1]>
        g (float[2,8] x, float[2,8] z) => (float[2,8] y, float[2,8] r)
          <int64[1] axes = {-1}, float epsilon = {0.5}, float[8] gain = {1,2,3,4,5,6,7,8}>
        {
          [sum] t = Add(z, x)
          [side] r = Relu(t)
          [norm] y = normswap.RMSNorm(t, axes, epsilon, gain)
        }"""
    )
    facts = learn(model)
    match = find(skip.match, model.graph[2], facts)
    assert match is not None
    substitute(skip, match, emit(skip, match, facts, "norm", str), facts)
    (norm, side) = model.graph
    assert (norm.name, norm.op_type, side.name) == ("norm", "SkipSimplifiedLayerNormalization", "side")
    assert [value.name for value in model.graph.outputs] == ["y", "r"]
    assert norm.outputs[3].name == "t"
    assert norm.attributes["epsilon"].as_float() == 0.5
    assert model.opset_imports["com.microsoft"] == 1
    assert list(model.graph.initializers) == ["gain"]


WEIGHTS = """
# A constant factor before a product of matrices is a factor of the weight.
<
  ir_version: 8,
  opset_import: ["": 14, "rule": 1],
  metadata_props: ["exactness": "exact", "since_opset": "14"]
>
example (float[2,8] x) => (float[2,4] y) <float[8] factor, float[8,4] w> {
  y = rule.match(x, factor, w)
}

<domain: "rule", opset_import: ["": 14]>
match (x, factor, w) => (y) {
  scaled = Mul(x, factor)
  y      = MatMul(scaled, w)
}

<domain: "rule", opset_import: ["": 14]>
replace (x, factor, w) => (y) {
  last   = Constant<value_ints = [1]>()
  column = Unsqueeze(factor, last)
  scaled = Mul(w, column)
  y      = MatMul(x, scaled)
}
"""


def test_weights_are_computed_in_float64_and_rounded_once(tmp_path):
    folder = tmp_path / "spell" / "mine"
    folder.mkdir(parents=True)
    (folder / "Scale-14.onnxtxt").write_text(WEIGHTS, encoding="utf-8")
    (rule,) = rules.load(tmp_path)
    assert rules.verify(rule) == []
    model = parse(
        """<ir_version: 8, opset_import: ["": 14]>
        g (float16[2,2] x) => (float16[2,1] y) <float16[2] f = {11878, 11878}, float16[2,1] w = {11878, 11878}>
        { [scale] s = Mul(x, f)  [product] y = MatMul(s, w) }"""
    )
    factor, weight = (np.asarray(value.const_value.numpy(), np.float64) for value in model.graph.initializers.values())
    facts = learn(model)
    match = find(rule.match, model.graph[1], facts)
    assert match is not None
    substitute(rule, match, emit(rule, match, facts, "product", str), facts)
    (product,) = model.graph
    assert (product.op_type, product.name, list(model.graph.initializers)) == ("MatMul", "product", ["product/scaled"])
    stored = model.graph.initializers["product/scaled"].const_value.numpy()
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, (weight * factor[:, None]).astype(np.float16))


def test_what_was_not_put_in_reads_nothing():
    """Or a value would be thought to have readers that are nowhere."""
    model = parse(
        """<ir_version: 10, opset_import: ["": 23, "normswap": 1]>
        g (double[2,8] x) => (double[2,8] y)
          <int64[1] axes = {-1}, double epsilon = {0.1}, double[8] gain = {1,2,3,4,5,6,7,8}>
        { y = normswap.RMSNorm(x, axes, epsilon, gain) }"""
    )
    facts = learn(model)
    rule = next(item for item in RULES if item.name == "onnx/RMSNormalization-23")
    match = find(rule.match, model.graph[0], facts)
    assert match is not None
    with pytest.raises(Inapplicable, match=r"epsilon = 0\.1 is not a float32"):
        emit(rule, match, facts, "norm", str)
    assert [use.node for use in model.graph.inputs[0].uses()] == [model.graph[0]]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("float[2,3,16]", "float[0,3,16]", "zero-size"),
        ("float[2,3,16]", "float[100000,100000,16]", "allocate"),
        ('"since_opset": "23"', '"since_opset": "99999999999999999999"', "out of range"),
        (
            "y = RMSNormalization<axis = -1, epsilon: float = @epsilon>",
            "y = rule.replace<epsilon: float = @epsilon>",
            "ycle",
        ),
    ],
)
def test_what_breaks_the_engine_is_a_complaint(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    text = (rules.rules_directory() / "spell" / "onnx" / "RMSNormalization-23.onnxtxt").read_text()
    assert old in text
    path = tmp_path / "Broken-23.onnxtxt"
    path.write_text(text.replace(old, new))
    assert complaint in str(rules.verify_file(path)[0])
