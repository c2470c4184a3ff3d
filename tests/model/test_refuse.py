"""Bad input: one clear line that names the place and says what to do, quickly, whatever the input is."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from normswap.errors import InputRefused, UsageError
from normswap.model import open_model

HEADER = '<ir_version: 10, opset_import: ["" : 21, "custom" : 1]>'
GOOD = HEADER + " main (float[N,4] x) => (float[N,4] y) { h = Neg(x) y = Relu(h) }"


def refusal(source) -> str:
    with pytest.raises(InputRefused) as caught:
        open_model(source)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
        (b"just a note to myself, nothing more", "is text"),
        ("schöne Grüße, kein Modell".encode(), "is text"),
        (b"\x18\x00\x00\x00ORTM" + bytes(100), "onnxruntime's own format"),
        (b"\x80\x02}q\x00X\x05", "pickle"),
        (bytes(range(256)) * 8, "not a whole ONNX model"),
        (b"\x08\x0a", "has no graph"),
    ],
)
def test_file_that_is_no_model(tmp_path, content, expected):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    text = refusal(path)
    assert expected in text
    assert str(path) in text


def test_truncated_at_every_length(tmp_path):
    model = onnx.parser.parse_model(GOOD)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2000, np.float32), "w"))
    whole = model.SerializeToString()
    path = tmp_path / "model.onnx"
    for length in (*range(1, 200, 7), 3000, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert str(path) in refusal(path)


@pytest.mark.parametrize(("name", "expected"), [("absent.onnx", "no such file"), ("", "is a directory")])
def test_wrong_path(tmp_path, name, expected):
    with pytest.raises(UsageError, match=expected):
        open_model(tmp_path / name)


def test_unreadable_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "not a regular file" in refusal(tmp_path / "pipe.onnx")


def test_text_with_a_mistake(tmp_path):
    path = tmp_path / "model.onnxtxt"
    path.write_text(GOOD.replace("Relu(h)", "Relu(h"))
    assert "position" in refusal(path)


def test_names_cannot_write_to_the_terminal():
    text = refusal(changed(lambda model: model.graph.node[0].input.__setitem__(0, "a\x1b[31m\n\u202eb")))
    assert "`a\\x1b[31m\\n\\u202eb`" in text


def test_not_a_model_at_all():
    with pytest.raises(UsageError, match="int"):
        open_model(3)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("(float x) => (float y) { a = Neg(b) b = Neg(a) y = Neg(a) }", "depends on its own result `b`"),
        ("(float x) => (float y) { a = Neg(a) y = Neg(a) }", "depends on its own result `a`"),
        ("(float x) => (float y) { y = Neg(a) a = Neg(x) }", "comes before the node that makes its input `a`"),
        ("(float x) => (float y) { y = Neg(x) y = Relu(x) }", "`y` is produced more than once"),
        ("(float x) => (float y) { x = Neg(x) y = Relu(x) }", "`x` is produced more than once"),
        ("(float x, float x) => (float y) { y = Neg(x) }", "`x` is produced more than once"),
        ("(float x) => (float y) { y = Add(x, ghost) }", "reads `ghost`, which nothing produces"),
        ("(float x) => (float y, float z) { y = Neg(x) }", "nothing produces the output `z`"),
        ("(float x) => () { y = Neg(x) }", "has no outputs"),
        ("(float x) => (float y) { y = Add(x) }", "input size 1"),
        ("(float x) => (float y) { [act] y = Relu<alpha = 1.0>(x) }", "Unrecognized attribute: alpha"),
        (
            """(bool c, float x) => (float y) { y = If (c) <then_branch = t () => (float a) { a = Neg(ghost) },
            else_branch = e () => (float b) { b = Neg(x) }> }""",
            "`ghost`",
        ),
    ],
)
def test_malformed_graph(body, expected):
    assert expected in refusal(onnx.parser.parse_model(f"{HEADER} main {body}"))


def test_operators_unknown_to_onnx_are_accepted_and_the_others_still_checked():
    text = HEADER + " main (float[4] x) => (float[4] y) { a = SimplifiedLayerNormalization(x, x) y = Relu(%s) }"
    assert open_model(onnx.parser.parse_model(text % "a"))
    assert "input size 2" in refusal(onnx.parser.parse_model(text % "a, x"))


def changed(change) -> onnx.ModelProto:
    model = onnx.parser.parse_model(GOOD)
    change(model)
    return model


def tensor(**fields):
    return lambda model: model.graph.initializer.add(name="w", **fields)


FLOAT, INT32, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.STRING


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (tensor(data_type=FLOAT, dims=[3], raw_data=bytes(8)), "8 bytes of data, its shape [3] needs 12"),
        (tensor(data_type=FLOAT, dims=[300], raw_data=bytes(2000)), "2000 bytes of data, its shape [300] needs 1200"),
        (tensor(data_type=FLOAT, dims=[1 << 40]), "0 bytes of data"),
        (tensor(data_type=FLOAT, dims=[3], float_data=[1.0]), "1 elements of data, its shape [3] needs 3"),
        (tensor(data_type=FLOAT, dims=[400], float_data=[1.0] * 300), "1200 bytes of data, its shape [400] needs 1600"),
        (tensor(data_type=FLOAT, dims=[1], float_data=[1.0], raw_data=bytes(4)), "its data twice"),
        (tensor(data_type=FLOAT, dims=[500], float_data=[1.0] * 500, raw_data=bytes(2000)), "its data twice"),
        (tensor(data_type=INT32, dims=[1], float_data=[1.0]), "type INT32 has its data in float_data"),
        (tensor(data_type=INT32, dims=[500], float_data=[1.0] * 500), "type INT32 has its data in float_data"),
        (tensor(data_type=STRING, dims=[2], string_data=[b"a"]), "1 elements of data, its shape [2] needs 2"),
        (tensor(data_type=FLOAT, dims=[-1], raw_data=bytes(4)), "no dimension can be negative"),
        (tensor(data_type=99, dims=[1], raw_data=bytes(4)), "unknown element type 99"),
        (tensor(dims=[1], raw_data=bytes(4)), "unknown element type 0"),
        (lambda model: model.graph.initializer.add(data_type=FLOAT, dims=[0]), "has no name"),
        (lambda model: model.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", -2), "dimension -2"),
        (lambda model: model.graph.output[0].type.tensor_type.__setattr__("elem_type", 77), "element type 77"),
        (lambda model: model.__setattr__("ir_version", 9999), "IR version 9999"),
        (lambda model: model.__setattr__("ir_version", -1), "IR version -1"),
        (lambda model: model.opset_import[0].__setattr__("version", 9999), "opset 9999"),
        (lambda model: model.ClearField("opset_import"), "imports no opset"),
        (lambda model: model.graph.node[0].ClearField("op_type"), "op_type"),
    ],
)
def test_malformed_fields(change, expected):
    assert expected in refusal(changed(change))


def test_every_tensor_of_the_model_is_looked_at():
    bad = onnx.TensorProto(name="bad", data_type=FLOAT, dims=[3], raw_data=bytes(4))

    def in_function(model):
        text = (
            HEADER
            + '<domain: "f", opset_import: ["" : 21]> f (a) => (b) { c = Constant<value_float = 1.0>() b = Add(a, c) }'
        )
        model.functions.extend(onnx.parser.parse_model(GOOD + text.removeprefix(HEADER)).functions)
        model.functions[0].node[0].attribute[0].CopyFrom(onnx.AttributeProto(name="value", type=4, t=bad))

    def in_training(model):
        model.training_info.add().algorithm.initializer.append(bad)

    def in_sparse(model):
        model.graph.sparse_initializer.add().values.CopyFrom(bad)

    for change in (in_function, in_training, in_sparse):
        assert "tensor `bad`" in refusal(changed(change))


def test_name_that_is_not_utf8():
    data = onnx.parser.parse_model(GOOD.replace("h = ", "hhh = ").replace("(h)", "(hhh)")).SerializeToString()
    assert "not UTF-8" in refusal(onnx.ModelProto.FromString(data.replace(b"hhh", b"h\xffh")))


FUNCTION = '<domain: "f", opset_import: ["" : 21, "f" : 1]>'


def chain(links: int, calls: int) -> onnx.ModelProto:
    """A model whose function 0 does little, and each other function calls the previous one several times."""
    header = '<ir_version: 10, opset_import: ["" : 21, "f" : 1]>'
    text = f"{header} main (float x) => (float y) {{ y = f.f{links - 1}(x) }} {FUNCTION} f0 (a) => (b) {{ b = Neg(a) }}"
    for link in range(1, links):
        body = " ".join(f"v{call + 1} = f.f{link - 1}(v{call})" for call in range(calls))
        text += f"{FUNCTION} f{link} (v0) => (v{calls}) {{ {body} }}"
    return onnx.parser.parse_model(text)


def test_functions_that_double():
    assert "1,048,576 nodes once" in refusal(chain(30, 2))


def test_long_chain_of_functions_is_fine():
    assert len(open_model(chain(90, 1)).model.functions) == 90  # onnx.checker refuses a depth of more than 100


@pytest.mark.parametrize(
    "functions",
    [
        " f0 (a) => (b) { b = f.f0(a) }",
        f" f0 (a) => (b) {{ b = f.f1(a) }} {FUNCTION} f1 (a) => (b) {{ b = f.f0(a) }}",
        """ f0 (a) => (b) { c = Cast<to = 9>(a) b = If (c) <then_branch = t () => (float d) { d = f.f0(a) },
        else_branch = e () => (float g) { g = Neg(a) }> }""",
    ],
)
def test_recursive_functions(functions):
    text = '<ir_version: 10, opset_import: ["" : 21, "f" : 1]> main (float x) => (float y) { y = f.f0(x) }'
    assert "calls itself" in refusal(onnx.parser.parse_model(text + FUNCTION + functions))


def test_functions_are_checked_inside():
    text = '<ir_version: 10, opset_import: ["" : 21, "f" : 1]> main (float x) => (float y) { y = f.f0(x) }'
    for body, expected in ((" f0 (a) => (b) { b = Neg(c) }", "`c`"), (" f0 (a) => (b) { c = Neg(a) }", "output `b`")):
        assert expected in refusal(onnx.parser.parse_model(text + FUNCTION + body))


def test_long_chain_of_nodes_is_fine():
    model = onnx.parser.parse_model(HEADER + " main (float x) => (float v20000) { }")
    for index in range(20_000):
        model.graph.node.add(op_type="Neg", input=[f"v{index}" if index else "x"], output=[f"v{index + 1}"])
    assert len(open_model(model).model.graph) == 20_000


def test_unsorted_onnx_ir_model():
    model = ir.from_proto(onnx.parser.parse_model(GOOD))
    first = model.graph[0]
    model.graph.remove(first)
    model.graph.append(first)
    assert "sorted" in refusal(model)
