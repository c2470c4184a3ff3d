"""Models on disk: what was external stays external, outputs appear whole or not at all, inputs are never touched."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from normswap.errors import InputRefused, UsageError, WriteError
from normswap.model import layout, open_model, save, to_kind, to_proto, weightless
from normswap.model.weights import window_of

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,600] x) => (float[N,600] y)
<float[600] first, float[600] second, float[600] third, float[2] small = {1.0, 2.0}>
{
  a = Add(x, first)
  b = Add(a, second)
  c = Constant <value: tensor = float[2] {3.0, 4.0}> ()
  y = Add(b, third)
}
"""


def example() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    for number, name in enumerate(("first", "second", "third")):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(600, dtype=np.float32) + number, name))
    model.graph.ClearField("value_info")
    return model


@pytest.fixture
def inline(tmp_path) -> Path:
    path = tmp_path / "in" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(example().SerializeToString(deterministic=True))
    return path


@pytest.fixture
def external(tmp_path) -> Path:
    """A model with external data, as onnx writes it."""
    path = tmp_path / "in" / "model.onnx"
    path.parent.mkdir()
    onnx.save(example(), path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    path = tmp_path / "out" / "model.onnx"
    path.parent.mkdir()
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def raw(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


def set_entry(path: Path, name: str, **changes: str | None) -> None:
    """Change what the model at `path` says about the external data of a tensor."""
    model = raw(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    changed = {**entries(tensor), **changes}
    tensor.ClearField("external_data")
    for key, value in changed.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def replace(model: ir.Model, name: str, evaluate, shape=(600,)) -> None:
    model.graph.initializers[name].const_value = ir.LazyTensor(
        evaluate, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name
    )


class TestInline:
    def test_unchanged_is_the_same_file(self, inline, out):
        document = open_model(inline)
        save(document, document.model, out)
        assert files(out.parent) == files(inline.parent)

    def test_typed_fields_keep_their_places(self, tmp_path, out):
        model = example()
        for kind, name in (
            (onnx.TensorProto.FLOAT, "f"),
            (onnx.TensorProto.DOUBLE, "d"),
            (onnx.TensorProto.INT64, "i"),
        ):
            model.graph.initializer.append(onnx.helper.make_tensor(name, kind, [500], range(500)))
        (tmp_path / "typed.onnx").write_bytes(model.SerializeToString(deterministic=True))
        document = open_model(tmp_path / "typed.onnx")
        save(document, document.model, out)
        assert out.read_bytes() == (tmp_path / "typed.onnx").read_bytes()
        assert to_proto(document, document.model) == model
        np.testing.assert_array_equal(document.model.graph.initializers["d"].const_value.numpy(), np.arange(500.0))

    def test_from_text(self, tmp_path, out):
        path = tmp_path / "model.onnxtxt"
        path.write_text(
            TEXT.replace("float[600] first, float[600] second, float[600] third,", "")
            .replace("a = Add(x, first)\n  b = Add(a, second)", "b = Neg(x)")
            .replace("Add(b, third)", "Neg(b)")
        )
        document = open_model(path)
        save(document, document.model, out)
        assert onnx.load(out) == onnx.parser.parse_model(path.read_text())

    def test_too_large_becomes_external(self, inline, out, monkeypatch):
        monkeypatch.setattr(layout, "MAX_INLINE", 5000)
        document = open_model(inline)
        save(document, document.model, out)
        assert set(files(out.parent)) == {"model.onnx", "model.onnx.data"}
        assert onnx.load(out) != raw(out)
        for kept, tensor in zip(onnx.load(out).graph.initializer, example().graph.initializer, strict=True):
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), onnx.numpy_helper.to_array(tensor))
        with pytest.raises(WriteError, match="save it to a file"):
            to_proto(document, document.model)


class TestExternal:
    def test_unchanged(self, external, out):
        before = files(external.parent)
        document = open_model(external)
        save(document, document.model, out)
        assert files(external.parent) == before
        assert set(files(out.parent)) == {"model.onnx", "model.onnx.data"}
        loaded = onnx.load(out)
        onnx.checker.check_model(out)
        assert loaded == onnx.load(external)
        for tensor in raw(out).graph.initializer:
            if tensor.name != "small":
                assert entries(tensor)["location"] == "model.onnx.data"
                assert int(entries(tensor)["offset"]) % layout.ALIGNMENT == 0

    def test_new_weights_are_computed_once_and_in_turn(self, external, out):
        document = open_model(external)
        alive, calls = [], []

        def evaluate(name):
            def run():
                assert not alive, "two weights in memory at the same time"
                calls.append(name)
                array = np.full(600, len(calls), np.float32)
                alive.append(array)
                tensor = ir.Tensor(array)
                alive.clear()
                return tensor

            return run

        for name in ("second", "first"):
            replace(document.model, name, evaluate(name))
        save(document, document.model, out)
        assert sorted(calls) == ["first", "second"]
        result = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(out).graph.initializer}
        assert result["first"][0] == calls.index("first") + 1
        np.testing.assert_array_equal(result["third"], np.arange(600) + 2)
        assert {"first", "second", "third"} == {t.name for t in raw(out).graph.initializer if t.external_data}

    def test_shared_data_is_written_once(self, external, out):
        first = next(tensor for tensor in raw(external).graph.initializer if tensor.name == "first")
        set_entry(external, "second", **entries(first))
        document = open_model(external)
        save(document, document.model, out)
        by_name = {tensor.name: entries(tensor) for tensor in raw(out).graph.initializer}
        assert by_name["first"] == by_name["second"] != by_name["third"]
        assert (out.parent / "model.onnx.data").stat().st_size == layout.ALIGNMENT + 2400

    def test_old_data_is_replaced_not_appended_to(self, external, out):
        document = open_model(external)
        (out.parent / "model.onnx.data").write_bytes(bytes(100_000))
        for _ in range(2):
            save(document, document.model, out)
            assert (out.parent / "model.onnx.data").stat().st_size == 2 * layout.ALIGNMENT + 2400

    def test_several_models_with_one_data_file(self, external, out):
        twin = external.with_name("twin.onnx")
        twin.write_bytes(external.read_bytes())
        for path in (external, twin):
            document = open_model(path)
            save(document, document.model, out.with_name(path.name))
        assert onnx.load(out.with_name("twin.onnx")) == onnx.load(out) == onnx.load(external)

    def test_checksum_is_that_of_the_new_file(self, external, out):
        set_entry(external, "first", checksum="0" * 40)
        document = open_model(external)
        save(document, document.model, out)
        tensors = {tensor.name: entries(tensor) for tensor in raw(out).graph.initializer}
        assert tensors["first"]["checksum"] == hashlib.sha1((out.parent / "model.onnx.data").read_bytes()).hexdigest()
        assert "checksum" not in tensors["second"]

    def test_offset_and_length_are_optional(self, external, out):
        (external.parent / "own.bin").write_bytes(np.full(600, 7, np.float32).tobytes())
        set_entry(external, "first", location="own.bin", offset=None, length=None)
        document = open_model(external)
        assert document.model.graph.initializers["first"].const_value.numpy()[5] == 7
        save(document, document.model, out)
        assert set(files(out.parent)) == {"model.onnx", "model.onnx.data"}
        assert onnx.numpy_helper.to_array(onnx.load(out).graph.initializer[1])[5] == 7

    def test_external_in_constants_and_subgraphs(self, external, out):
        model = raw(external)
        moved = model.graph.initializer.pop(1)
        node = onnx.helper.make_node("Constant", [], ["first"])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(moved)
        model.graph.node.insert(0, node)
        external.write_bytes(model.SerializeToString())
        document = open_model(external)
        save(document, document.model, out)
        saved = raw(out).graph.node[0].attribute[0].t
        assert entries(saved)["location"] == "model.onnx.data"
        data = (out.parent / "model.onnx.data").read_bytes()[int(entries(saved)["offset"]) :][:2400]
        np.testing.assert_array_equal(np.frombuffer(data, np.float32), np.arange(600))


@pytest.fixture(params=["inline", "external"])
def source(request) -> Path:
    return request.getfixturevalue(request.param)


class TestDestination:
    @pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
    def test_the_input_is_refused(self, source, out, link):
        document = open_model(source)
        target = source
        if link:
            target = out
            getattr(target, link)(source)
        before = files(source.parent)
        with pytest.raises(UsageError, match="overwrite the input"):
            save(document, document.model, target)
        assert files(source.parent) == before

    def test_the_data_of_the_input_is_refused(self, external):
        document = open_model(external)
        before = files(external.parent)
        with pytest.raises(UsageError, match="overwrite the input"):
            save(document, document.model, external.parent / "weights.bin")
        (external.parent / "other.onnx.data").symlink_to("weights.bin")
        with pytest.raises(UsageError, match="overwrite the input"):
            save(document, document.model, external.parent / "other.onnx")
        (external.parent / "other.onnx.data").unlink()
        assert files(external.parent) == before

    def test_what_is_no_file_is_refused(self, source, tmp_path):
        document = open_model(source)
        os.mkfifo(tmp_path / "pipe.onnx")
        for target in (tmp_path, tmp_path / "pipe.onnx", Path("/dev/null"), tmp_path / "model.onnxtxt"):
            with pytest.raises(UsageError):
                save(document, document.model, target)

    def test_missing_folder(self, source, tmp_path):
        document = open_model(source)
        with pytest.raises(WriteError, match="No such file or directory"):
            save(document, document.model, tmp_path / "absent" / "model.onnx")

    def test_permissions(self, source, out):
        document = open_model(source)
        save(document, document.model, out)
        umask = os.umask(0)
        os.umask(umask)
        assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in out.parent.iterdir())
        out.chmod(0o640)
        save(document, document.model, out)
        assert out.stat().st_mode & 0o777 == 0o640

    def test_bytes_depend_on_the_model_alone(self, source, out):
        results = []
        for folder in ("one", "two"):
            target = out.parent / folder / "model.onnx"
            target.parent.mkdir()
            document = open_model(source)
            replace(document.model, "second", lambda: ir.Tensor(np.ones(600, np.float32)))
            for _ in range(2):
                save(document, document.model, target)
                results.append(files(target.parent))
        assert all(result == results[0] for result in results)


def test_shared_computed_weight_is_computed_once(source, out):
    document = open_model(source)
    calls = []

    def evaluate():
        calls.append(1)
        return ir.Tensor(np.ones(600, np.float32))

    tensor = ir.LazyTensor(evaluate, dtype=ir.DataType.FLOAT, shape=ir.Shape([600]))
    for name in ("first", "third"):
        document.model.graph.initializers[name].const_value = tensor
    save(document, document.model, out)
    assert calls == [1]
    result = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(out).graph.initializer}
    np.testing.assert_array_equal(result["first"], result["third"])
    np.testing.assert_array_equal(result["second"], np.arange(600) + 1)


class Stop(BaseException):
    """Like KeyboardInterrupt, which pytest would take for itself."""


class TestFailure:
    """Nothing is lost and nothing is left behind, wherever it fails."""

    @pytest.fixture(params=[False, True], ids=["new", "older output"])
    def older(self, request, source, out) -> dict[str, bytes]:
        if request.param:
            document = open_model(source)
            replace(document.model, "first", lambda: ir.Tensor(np.zeros(600, np.float32)))
            save(document, document.model, out)
        return files(out.parent)

    @pytest.mark.parametrize("error", [Stop, OSError(28, "No space left on device"), ValueError])
    def test_while_a_weight_is_computed(self, source, out, older, error):
        def fail():
            raise error

        before = files(source.parent)
        document = open_model(source)
        replace(document.model, "third", fail)
        with pytest.raises((Stop, WriteError, ValueError)):
            save(document, document.model, out)
        assert files(out.parent) == older
        assert files(source.parent) == before

    def test_when_a_weight_has_the_wrong_size(self, source, out, older):
        document = open_model(source)
        replace(document.model, "third", lambda: ir.Tensor(np.zeros(599, np.float32)))
        with pytest.raises(WriteError, match="`third` has 2396 bytes"):
            save(document, document.model, out)
        assert files(out.parent) == older

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_in_the_operating_system(self, source, out, older, monkeypatch, call):
        document = open_model(source)
        real = getattr(os, call)
        written = len(files(source.parent))  # one file, or the data and the model
        for failing in range(written):
            calls = []

            def fail(*arguments, failing=failing, calls=calls):
                calls.append(arguments)
                if len(calls) == failing + 1:
                    raise OSError(5, "Input/output error")
                return real(*arguments)

            monkeypatch.setattr(os, call, fail)
            with pytest.raises(WriteError, match="Input/output error"):
                save(document, document.model, out)
            assert len(calls) > failing
            assert files(out.parent) == older

    def test_where_there_are_no_hard_links(self, source, out, older, monkeypatch):
        def fail(*arguments):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", fail)
        document = open_model(source)
        save(document, document.model, out)
        assert onnx.load(out).graph.initializer == onnx.load(source).graph.initializer
        assert {path.name for path in out.parent.iterdir()} <= {"model.onnx", "model.onnx.data"}

    def test_when_the_input_changed_meanwhile(self, source, out, older):
        document = open_model(source)
        source.write_bytes(source.read_bytes() + b"\x32\x01x")
        with pytest.raises(InputRefused, match="changed while"):
            save(document, document.model, out)
        assert files(out.parent) == older


class TestExternalDataThatIsRefused:
    def refusal(self, path: Path) -> str:
        with pytest.raises(InputRefused) as caught:
            open_model(path)
        text = str(caught.value)
        assert "\n" not in text
        assert str(path) in text
        assert "`first`" in text
        return text

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"location": "absent.bin"}, "is missing; put it beside the model"),
            ({"location": "../secret.bin"}, "is not a file in the folder"),
            ({"location": "sub/../../secret.bin"}, "is not a file in the folder"),
            ({"location": "/etc/passwd"}, "is not a file in the folder"),
            ({"location": "..\\secret.bin"}, "is not a file in the folder"),
            ({"location": "https://example.org/w"}, "is not a file in the folder"),
            ({"location": None}, "is not a file in the folder"),
            ({"location": "."}, "is not a regular file"),
            ({"location": "pipe"}, "is not a regular file"),
            ({"location": "link"}, "outside the folder of the model"),
            ({"location": "sub/secret.bin"}, "outside the folder of the model"),
            ({"location": "loop"}, "is missing"),
            ({"location": "zero"}, "outside the folder"),
            ({"location": "hard"}, "hard links"),
            ({"location": "short.bin", "offset": "0"}, "has 10 bytes, 2400 are needed"),
            ({"location": "nothing.bin"}, "has 0 bytes"),
            ({"offset": "-4"}, "not a number of bytes"),
            ({"offset": str(1 << 62)}, "are needed"),
            ({"length": "0x10"}, "not a number of bytes"),
            ({"length": "2000"}, "2000 bytes given, its shape needs 2400"),
        ],
    )
    def test_places(self, external, changes, expected):
        folder = external.parent
        secret = folder.parent / "secret.bin"
        secret.write_bytes(bytes(5000))
        (folder / "link").symlink_to(secret)
        (folder / "sub").symlink_to(folder.parent)
        (folder / "loop").symlink_to("loop")
        (folder / "zero").symlink_to("/dev/zero")
        (folder / "hard").hardlink_to(secret)
        (folder / "short.bin").write_bytes(bytes(10))
        (folder / "nothing.bin").write_bytes(b"")
        os.mkfifo(folder / "pipe")
        set_entry(external, "first", **changes)
        assert expected in self.refusal(external)

    def test_links_within_the_folder(self, external):
        (external.parent / "weights.bin").rename(external.parent / "real.bin")
        (external.parent / "weights.bin").symlink_to("real.bin")
        assert open_model(external)

    @pytest.mark.parametrize("model_is_a_link", [False, True])
    def test_hugging_face_cache(self, external, tmp_path, model_is_a_link):
        blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc" / "onnx"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for name in ("model.onnx", "weights.bin"):
            (external.parent / name).rename(blobs / name)
            (snapshot / name).symlink_to(Path("../../../blobs") / name)
        if not model_is_a_link:
            (snapshot / "model.onnx").unlink()
            (blobs / "model.onnx").rename(snapshot / "model.onnx")
        model = open_model(snapshot / "model.onnx").model
        np.testing.assert_array_equal(model.graph.initializers["first"].const_value.numpy(), np.arange(600))
        assert (tmp_path / "models--x").exists()

    def test_in_memory(self, external):
        with pytest.raises(InputRefused, match="a model in memory has no folder"):
            open_model(raw(external))

    def test_relative_path_of_the_model(self, external, monkeypatch):
        monkeypatch.chdir(external.parent)
        assert open_model("model.onnx")


class TestKinds:
    def test_proto(self):
        source = example()
        document = open_model(source)
        assert to_kind(document, document.model, source) == source

    def test_onnx_ir(self, inline, out):
        source = ir.load(inline)
        document = open_model(source)
        assert document.model is not source
        assert to_kind(document, document.model, source) is document.model
        document.model.graph.remove(document.model.graph[2])
        assert len(source.graph) == 4
        save(document, document.model, out)
        assert len(onnx.load(out).graph.node) == 3
        assert onnx.load(out).graph.initializer == example().graph.initializer

    def test_onnx_ir_whose_external_data_would_be_overwritten(self, external):
        (external.parent / "weights.bin").rename(external.parent / "other.onnx.data")
        for name in ("first", "second", "third"):
            set_entry(external, name, location="other.onnx.data")
        document = open_model(ir.load(external))
        with pytest.raises(UsageError, match="overwrite the input"):
            save(document, document.model, external.parent / "other.onnx")
        save(document, document.model, external.parent / "third.onnx")
        assert set(files(external.parent)) == {"model.onnx", "other.onnx.data", "third.onnx", "third.onnx.data"}
        assert onnx.load(external.parent / "third.onnx").graph.initializer == onnx.load(external).graph.initializer

    def test_graphsurgeon(self):
        graphsurgeon = pytest.importorskip("onnx_graphsurgeon")
        source = graphsurgeon.import_onnx(example())
        document = open_model(source)
        result = to_kind(document, document.model, source)
        assert isinstance(result, graphsurgeon.Graph)
        assert [node.op for node in result.nodes] == [node.op for node in source.nodes]

    def test_path(self, inline):
        document = open_model(str(inline))
        assert to_kind(document, document.model, inline) is document.model


class TestWeightless:
    def test_shapes_are_inferred_without_weights(self, inline):
        model = open_model(inline).model
        proto = weightless(model)
        assert len(proto.SerializeToString()) < 1500
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        shapes = {value.name: value.type.tensor_type.shape.dim[-1].dim_value for value in inferred.graph.value_info}
        assert shapes["a"] == shapes["b"] == 600
        small = next(tensor for tensor in proto.graph.initializer if tensor.name == "small")
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(small), [1, 2])

    def test_the_version_converter_keeps_the_places_of_weights(self, inline):
        converted = onnx.version_converter.convert_version(weightless(open_model(inline).model), 23)
        assert [tensor.name for tensor in converted.graph.initializer] == ["small", "first", "second", "third"]

    def test_a_converted_copy_with_its_weights_back_differs_in_the_opset_alone(self, inline):
        document = open_model(inline)
        converted = ir.from_proto(onnx.version_converter.convert_version(weightless(document.model), 23))
        for name, value in document.model.graph.initializers.items():
            converted.graph.initializers[name].const_value = value.const_value
        expected = example()
        expected.opset_import[0].version = 23
        assert to_proto(document, converted) == expected

    def test_to_proto_without_weights(self, inline):
        document = open_model(inline)
        proto = to_proto(document, document.model, weights=False)
        assert len(proto.SerializeToString()) < 1500
        assert [tensor.dims for tensor in proto.graph.initializer] == [t.dims for t in example().graph.initializer]

    def test_the_model_keeps_its_weights(self, inline):
        model = open_model(inline).model
        weightless(model)
        np.testing.assert_array_equal(model.graph.initializers["first"].const_value.numpy(), np.arange(600))


def test_weights_are_windows_into_the_file(inline):
    tensor = open_model(inline).model.graph.initializers["first"].const_value
    window = window_of(tensor)
    assert window is not None
    assert window.storage.path == inline
    array = tensor.numpy()
    assert not array.flags.writeable
    assert not array.flags.owndata


def test_opening_reads_no_weights(external):
    count = 1 << 33  # 32 GiB that are not there: a file of holes
    with (external.parent / "huge.bin").open("wb") as file:
        file.truncate(4 * count)
    model = raw(external)
    model.graph.initializer[1].dims[:] = [count]
    external.write_bytes(model.SerializeToString())
    set_entry(external, "first", location="huge.bin", offset="0", length=str(4 * count))
    opened = open_model(external).model
    assert opened.graph.initializers["first"].const_value.nbytes == 4 * count
    assert len(weightless(opened).SerializeToString()) < 1500
