"""What onnx_ir loses, keeps or cannot open: all of it comes back as it was, from models changed or not.

Every case is the base model and one thing more. `onnx_ir` alone is tried on it too, so that the table says what is true
of the installed version, and tells when a workaround is no longer needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from normswap.model import open_model, protos, to_proto

BASE = """
<ir_version: 11, opset_import: ["" : 21, "custom" : 1], producer_name: "tests", producer_version: "1",
 domain: "some.domain", model_version: 3, doc_string: "a model", metadata_props: ["alpha" : "2", "zeta" : "1"]>
main (float[N,4] x) => (float[N,4] y)
<float[4] w = {1.0, 2.0, 3.0, 4.0}, float[N,4] hidden>
{
  [add] hidden = Add(x, w)
  [relu] y = Relu(hidden)
}
"""
LARGE = 600  # elements; more than 1 KiB in every type of at least two bytes


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[onnx.ModelProto], None]
    onnx_ir_alone: str = "keeps"  # or "loses", or "cannot open"


CASES: list[Case] = []


def case(onnx_ir_alone: str = "keeps"):
    def register(build: Callable[[onnx.ModelProto], None]):
        CASES.append(Case(build.__name__.strip("_"), build, onnx_ir_alone))
        return build

    return register


def add_nodes(model: onnx.ModelProto, body: str, inputs: str = "", outputs: str = "") -> None:
    """Add nodes, graph inputs and graph outputs, given as ONNX text."""
    graph = onnx.parser.parse_graph(f"g ({inputs}) => ({outputs}) {{ {body} }}")
    model.graph.node.extend(graph.node)
    model.graph.input.extend(graph.input)
    model.graph.output.extend(graph.output)


def add_functions(model: onnx.ModelProto, text: str) -> None:
    header = '<ir_version: 11, opset_import: ["" : 21]> g (float x) => (float y) { y = Neg(x) }'
    model.functions.extend(onnx.parser.parse_model(header + text).functions)


def add_unknown_field(message) -> None:
    message.MergeFromString(b"\xfa\x7f\x05later")  # field 2047, five bytes


def sparse_tensor(name: str, values: np.ndarray, indices: np.ndarray, dims: list[int]) -> onnx.SparseTensorProto:
    return onnx.helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(values, name), onnx.numpy_helper.from_array(indices, f"{name}_indices"), dims
    )


@case()
def _base(model):
    pass


@case("loses")
def _sparse_initializer(model):
    values = np.array([5.0, 6.0], np.float32)
    model.graph.sparse_initializer.append(sparse_tensor("s", values, np.array([1, 7], np.int64), [2, 4]))
    add_nodes(model, "z = Add(s, s)", outputs="float[2,4] z")


@case("loses")
def _large_sparse_initializer(model):
    values, indices = np.arange(1, LARGE + 1, dtype=np.float32), np.arange(LARGE, dtype=np.int64) * 3
    model.graph.sparse_initializer.append(sparse_tensor("s", values, indices, [LARGE, 4]))
    add_nodes(model, "z = Add(s, s)", outputs=f"float[{LARGE},4] z")


@case("loses")
def _training_info(model):
    training = model.training_info.add()
    training.algorithm.CopyFrom(onnx.parser.parse_graph("step (float[4] w) => (float[4] w2) { w2 = Neg(w) }"))
    training.algorithm.initializer.append(onnx.numpy_helper.from_array(np.ones(LARGE, np.float32), "rate"))
    training.update_binding.add(key="w", value="w2")


@case("loses")
def _unknown_fields(model):
    annotation = model.graph.quantization_annotation.add(tensor_name="x")
    for message in (model, model.graph, model.graph.node[0], model.graph.initializer[0], model.graph.input[0]):
        add_unknown_field(message)
    for message in (model.opset_import[0], model.metadata_props[0], annotation, model.graph.value_info[0]):
        add_unknown_field(message)


@case("loses")
def _trailing_empty_outputs(model):
    add_nodes(model, "z = Dropout(x)", outputs="float[N,4] z")
    model.graph.node[-1].output.append("")


@case("cannot open")
def _sparse_constant(model):
    add_nodes(model, "c = Constant() z = Identity(c)", outputs="float[2,4] z")
    coordinates = np.array([[0, 1], [1, 3]], np.int64)
    sparse = sparse_tensor("", np.array([5.0, 6.0], np.float32), coordinates, [2, 4])
    model.graph.node[-2].attribute.add(
        name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR
    ).sparse_tensor.CopyFrom(sparse)


@case("cannot open")
def _sparse_attribute_of_custom_operator(model):
    add_nodes(model, "z = custom.Op(x)", outputs="float[N,4] z")
    sparse = sparse_tensor("", np.array([5.0], np.float32), np.array([1], np.int64), [4])
    attribute = model.graph.node[-1].attribute.add(name="many", type=onnx.AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.append(sparse)


@case("cannot open")
def _map_types(model):
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    add_nodes(model, "scores = ai.onnx.ml.ZipMap<classlabels_int64s = [0,1,2,3]>(y) more = custom.Op(scores)")
    map_type = onnx.helper.make_map_type_proto(
        onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    )
    sequence = onnx.helper.make_sequence_type_proto(map_type)
    model.graph.output.append(onnx.helper.make_value_info("scores", sequence))
    model.graph.value_info.append(onnx.helper.make_value_info("more", map_type))
    model.graph.input.append(onnx.helper.make_value_info("dictionary", map_type))


@case("cannot open")
def _map_type_attribute(model):
    add_nodes(model, "z = custom.Op(x)", outputs="float[N,4] z")
    attribute = model.graph.node[-1].attribute.add(name="kind", type=onnx.AttributeProto.TYPE_PROTO)
    attribute.tp.map_type.key_type = onnx.TensorProto.STRING
    attribute.tp.map_type.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT


@case("loses")
def _opaque_types(model):
    add_nodes(model, "z = custom.Op(x)")
    model.graph.value_info.add(name="z").type.opaque_type.name = "Tree"


@case("cannot open")
def _non_utf8_strings(model):
    add_nodes(model, 'z = custom.Op<names = ["a", "b"]>(x)', outputs="float[N,4] z")
    model.graph.node[-1].attribute[0].strings[0] = b"\xff\xfe"


@case()
def _non_utf8_string(model):
    add_nodes(model, 'z = custom.Op<name = "a">(x)', outputs="float[N,4] z")
    model.graph.node[-1].attribute[0].s = b"\xff\xfe"


@case("cannot open")
def _non_utf8_doc_string(model):
    model.graph.node[0].doc_string = "Zurich"
    text = model.SerializeToString().replace(b"Zurich", b"Z\xfcrich")
    model.CopyFrom(onnx.ModelProto.FromString(text))


@case("cannot open")
def _untyped_attributes(model):
    add_nodes(
        model,
        't = Transpose<perm = [1,0]>(x) l = LeakyRelu<alpha = 0.1>(t) z = custom.Op<axis = 1, mode = "m">(l)',
        outputs="float[4,N] z",
    )
    model.ir_version = 3
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.ClearField("type")
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4]))


@case("loses")
def _initializer_metadata(model):
    model.graph.initializer[0].metadata_props.add(key="pkg.torch.name", value="layer.weight")
    model.graph.initializer[0].doc_string = "the weight"


@case("loses")
def _value_infos_out_of_order(model):
    add_nodes(model, "a = Neg(x) b = Neg(a) z = Neg(b)", outputs="float[N,4] z")
    for name in ("b", "stale", "z", "a", "w"):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


@case("loses")
def _metadata(model):
    for message in (model.graph, model.graph.node[0], model.graph.input[0], model.graph.value_info[0]):
        message.metadata_props.add(key="z", value="last")
        message.metadata_props.add(key="a", value="first")


@case("loses")
def _duplicate_metadata_keys(model):
    model.metadata_props.add(key="zeta", value="3")


@case()
def _doc_strings(model):
    for message in (model.graph, model.graph.node[0], model.graph.input[0], model.graph.output[0]):
        message.doc_string = "what it is\nand why, in Zürich"


@case("loses")
def _explicitly_empty_fields(model):
    model.graph.doc_string = model.graph.node[0].doc_string = model.graph.node[0].domain = ""
    model.domain = model.producer_version = ""
    model.graph.initializer[0].data_location = onnx.TensorProto.DEFAULT


@case("loses")
def _quantization_annotations(model):
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "w_scale"))
    for name in ("w", "hidden", "x"):
        annotation = model.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w_scale")
        annotation.quant_parameter_tensor_names.add(key="A_TENSOR", value="w_scale")


@case()
def _subgraphs(model):
    add_nodes(
        model,
        """
        z = If (c) <
          then_branch = then () => (float[N,4] t) <float[4] inner = {1.0, 1.0, 1.0, 1.0}> {
            u = Add(hidden, inner)
            t = If (c) <then_branch = a () => (float[N,4] p) { p = Mul(u, w) },
                        else_branch = b () => (float[N,4] q) { q = Add(u, x) }>
          },
          else_branch = other () => (float[N,4] e) { e = Sub(hidden, x) }
        >
        """,
        inputs="bool c",
        outputs="float[N,4] z",
    )
    large = onnx.numpy_helper.from_array(np.ones(LARGE, np.float32), "large")
    model.graph.node[-1].attribute[0].g.initializer.append(large)


@case("loses")
def _subgraph_quantization_annotations(model):
    _subgraphs(model)
    inner = model.graph.node[-1].attribute[0].g
    inner.quantization_annotation.add(tensor_name="u").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    inner.quantization_annotation.add(tensor_name="hidden").quant_parameter_tensor_names.add(key="S", value="w")


@case("loses")
def _functions(model):
    add_functions(
        model,
        """
        <domain: "custom", opset_import: ["" : 21], doc_string: "scales">
        scaled <factor: float = 2.0, label> (a, b) => (c) <float[N] d> {
          f = Constant<value_float: float = @factor>()
          d = Mul(a, f)
          c = Add(d, b)
        }
        <domain: "custom", overload: "second", opset_import: ["" : 21]> scaled (a) => (c) { c = Neg(a) }
        """,
    )
    model.functions[0].metadata_props.add(key="z", value="1")
    model.functions[0].metadata_props.add(key="a", value="1")
    model.functions[0].node[0].metadata_props.add(key="namespace", value="root")
    add_nodes(model, 'z = custom.scaled<factor = 3.0, label = "l">(x, x)', outputs="float[N,4] z")


@case()
def _experimental_value_info_of_functions(model):
    _functions(model)
    model.ir_version = 9
    del model.functions[1]
    model.functions[0].ClearField("value_info")
    model.functions[0].ClearField("metadata_props")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("custom::scaled/d", onnx.TensorProto.FLOAT, [4]))


@case()
def _overridable_initializer(model):
    model.graph.input.append(onnx.helper.make_tensor_value_info("gain", onnx.TensorProto.FLOAT, [4]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "gain"))
    add_nodes(model, "z = Mul(x, gain)", outputs="float[N,4] z")


@case()
def _ir_version_3(model):
    model.ir_version = 3
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4]))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4]))


@case()
def _string_tensors(model):
    add_nodes(model, "z = custom.Op(x, names)", outputs="float[N,4] z")
    model.graph.initializer.append(
        onnx.helper.make_tensor("names", onnx.TensorProto.STRING, [2], [b"\xff", b"caf\xc3\xa9"])
    )


@case()
def _device_configurations(model):
    model.configuration.add(name="two", num_devices=2).device.extend(["cpu:0", "cpu:1"])
    placed = model.graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)
    placed.sharding_spec.add(tensor_name="w").device.extend([0, 1])


@case("cannot open")
def _device_configuration_without_id(model):
    model.graph.node[0].device_configurations.add(pipeline_stage=1)


@case("loses")
def _device_configurations_of_old_ir(model):
    _device_configurations(model)
    model.ir_version = 10


@case()
def _typed_storages(model):
    for name, number in (("f", 1), ("h", 10), ("d", 11), ("l", 7), ("i", 6), ("u", 13), ("b", 9), ("c", 14)):
        for count in (3, LARGE):
            tensor = onnx.helper.make_tensor(f"{name}{count}", number, [count], [index % 2 for index in range(count)])
            model.graph.initializer.append(tensor)
    # onnx_ir writes back the very message it was given


@case()
def _narrow_types(model):
    for number in (16, 17, 20, 21, 22, 23, 24):
        for count in (5, 2001):
            raw = np.arange(count * 2, dtype=np.uint8).tobytes()
            size = onnx.helper.tensor_dtype_to_np_dtype(number).itemsize * count
            size = (count + 1) // 2 if number in (21, 22, 23) else size
            model.graph.initializer.add(name=f"n{number}_{count}", data_type=number, dims=[count], raw_data=raw[:size])


@case()
def _attributes_of_every_type(model):
    add_nodes(model, 'z = custom.Op<i = 1, f = 0.5, s = "s", l = [1,2], r = [0.5], q = ["a"]>(x)')
    node = model.graph.node[-1]
    graph = onnx.parser.parse_graph("g () => (float[N,4] a) { a = Neg(hidden) }")
    tensor = onnx.numpy_helper.from_array(np.arange(LARGE), "t")
    node.attribute.extend(
        [
            onnx.helper.make_attribute("t", tensor, doc_string="a tensor"),
            onnx.helper.make_attribute("ts", [tensor, onnx.numpy_helper.from_array(np.float32(1), "u")]),
            onnx.helper.make_attribute("gs", [graph, graph]),
            onnx.helper.make_attribute("tp", onnx.helper.make_tensor_type_proto(1, ["N", 3])),
            onnx.helper.make_attribute(
                "tps", [onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, []))]
            ),
            onnx.helper.make_attribute("nan", float("nan")),
        ]
    )


@case()
def _sequence_and_optional_types(model):
    add_nodes(model, "s = SequenceConstruct(x, y) o = Optional(x)")
    tensor = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 4])
    model.graph.output.append(onnx.helper.make_value_info("s", onnx.helper.make_sequence_type_proto(tensor)))
    model.graph.output.append(onnx.helper.make_value_info("o", onnx.helper.make_optional_type_proto(tensor)))
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    model.graph.input[0].type.denotation = "IMAGE"


@case()
def _dimensions_that_are_minus_one(model):
    model.graph.input.append(onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [-1, 3]))


@case("cannot open")
def _untyped_containers(model):
    add_nodes(model, "s = SequenceConstruct(x, y)")
    model.graph.value_info.add(name="s").type.sequence_type.SetInParent()


@case("loses")
def _nameless_nodes_and_the_long_name_of_the_domain(model):
    add_nodes(model, "a = Neg(x) z = Neg(a)", outputs="float[N,4] z")
    model.graph.node[-1].domain = model.opset_import[0].domain = "ai.onnx"
    model.graph.value_info.add(name="a")
    model.graph.name = ""


@case()
def _outputs_that_are_inputs_and_constants(model):
    model.graph.output.extend([model.graph.input[0], onnx.helper.make_tensor_value_info("w", 1, [4])])


@case()
def _nodes_without_outputs_and_omitted_operands(model):
    add_nodes(model, "z = Clip(x, , high)", outputs="float[N,4] z", inputs="float high")
    for _ in range(2):
        model.graph.node.add(op_type="Print", domain="custom", input=["x"])


@case()
def _empty_and_scalar_tensors(model):
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((0, 4), np.float32), "empty"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(3), "scalar"))


def built(case: Case) -> onnx.ModelProto:
    model = onnx.parser.parse_model(BASE)
    case.build(model)
    return model


def canonical(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def without_its_usual_changes(model: onnx.ModelProto) -> bytes:
    """The model without two things that onnx_ir changes everywhere: it adds value infos, and drops empty domains."""
    copy = onnx.ModelProto.FromString(canonical(model))
    for scope, _ in protos.scopes(copy):
        for node in scope.node:
            if not node.domain:
                node.ClearField("domain")
        if isinstance(scope, onnx.GraphProto):
            constants = {tensor.name for tensor in scope.initializer}
            kept = [value for value in scope.value_info if value.name not in constants]
            scope.ClearField("value_info")
            scope.value_info.extend(kept)
    return canonical(copy)


@cases
def test_onnx_ir_alone(case):
    model = built(case)
    try:
        alone = ir.to_proto(ir.from_proto(onnx.ModelProto.FromString(canonical(model))))
        result = "keeps" if without_its_usual_changes(alone) == without_its_usual_changes(model) else "loses"
    except (ir.serde.SerdeError, TypeError, AttributeError):
        result = "cannot open"
    assert result == case.onnx_ir_alone


def test_onnx_ir_adds_value_infos_and_drops_empty_domains():
    model = built(CASES[0])
    alone = ir.to_proto(ir.from_proto(model))
    assert {value.name for value in alone.graph.value_info} == {value.name for value in model.graph.value_info} | {"w"}
    assert model.graph.node[0].HasField("domain")
    assert not alone.graph.node[0].HasField("domain")


@cases
def test_unchanged_model_comes_back_equal(case, caplog):
    model = built(case)
    before = canonical(model)
    with caplog.at_level(logging.WARNING):
        document = open_model(model)
        result = to_proto(document, document.model)
    assert canonical(result) == before
    assert canonical(model) == before
    assert not caplog.records


def rewrite(model: ir.Model) -> None:
    """Replace an initializer, insert a node, rewire, annotate, raise the opset: what conversions do."""
    graph = model.graph
    add, relu = graph[0], graph[1]
    old = graph.initializers.pop("w")
    tensor = ir.tensor(np.full(4, 2, np.float32), name="w.new")
    new = ir.Value(name="w.new", type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(new)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    negated = ir.node("Neg", [add.outputs[0]], name="neg", outputs=[ir.Value(name="negated")])
    negated.outputs[0].type, negated.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", 4])
    graph.insert_after(add, negated)
    relu.replace_input_with(0, negated.outputs[0])
    add.metadata_props["normswap"] = "changed"
    add.outputs[0].shape = ir.Shape([7, 4])  # what shape inference would find
    model.opset_imports[""] += 1


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same by hand."""
    graph = model.graph
    for scope, _ in protos.scopes(model):
        if isinstance(scope, onnx.GraphProto):
            for node in scope.node:
                node.input[:] = ["w.new" if name == "w" else name for name in node.input]
    graph.node.insert(1, onnx.helper.make_node("Neg", ["hidden"], ["negated"], "neg"))
    graph.node[2].input[0] = "negated"
    graph.node[0].metadata_props.add(key="normswap", value="changed")
    for values in (graph.initializer, graph.value_info, graph.input, graph.output):
        for position in reversed(range(len(values))):
            if values[position].name == "w":
                if values is graph.output:
                    values[position].name = "w.new"
                else:
                    del values[position]
    for position in reversed(range(len(graph.quantization_annotation))):
        if graph.quantization_annotation[position].tensor_name == "w":
            del graph.quantization_annotation[position]
    graph.initializer.append(onnx.numpy_helper.from_array(np.full(4, 2, np.float32), "w.new"))
    if model.ir_version <= 3:
        graph.input.append(onnx.helper.make_tensor_value_info("w.new", onnx.TensorProto.FLOAT, [4]))
    for configuration in graph.node[0].device_configurations:
        del configuration.sharding_spec[:]
    if model.training_info:  # it trained a weight that is no more
        del model.training_info[:]
    model.opset_import[0].version += 1
    return model


@cases
def test_changed_model_changes_nowhere_else(case):
    model = built(case)
    document = open_model(model)
    rewrite(document.model)
    result = to_proto(document, document.model)
    assert str(result) == str(rewritten(model))
    assert canonical(result) == canonical(model)


def test_minus_one_is_no_size():
    model = built(next(case for case in CASES if case.name == "dimensions_that_are_minus_one"))
    shape = open_model(model).model.graph.inputs[-1].shape
    assert isinstance(shape[0], ir.SymbolicDim)
    assert shape[1] == 3
