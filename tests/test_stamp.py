"""The stamp in the metadata of a converted model: merged, replaced, and the same for the same input and options."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir

import normswap

MODEL = Path(__file__).parents[1] / "models" / "small" / "vit_torchscript17.onnx"


def props(model: onnx.ModelProto) -> dict[str, str]:
    assert len({entry.key for entry in model.metadata_props}) == len(model.metadata_props)
    return {entry.key: entry.value for entry in model.metadata_props}


def test_a_converted_file_says_what_made_it_and_keeps_what_it_said(tmp_path: Path) -> None:
    proto = onnx.load(MODEL)
    proto.metadata_props.add(key="author", value="somebody")
    onnx.save(proto, tmp_path / "model.onnx")
    normswap.convert(tmp_path / "model.onnx", "rmsnorm").save(tmp_path / "once.onnx")
    stamped = props(onnx.load(tmp_path / "once.onnx"))
    assert stamped["author"] == "somebody"
    assert stamped["normswap.version"] == normswap.__version__
    assert stamped["normswap.targets"] == "rmsnorm"
    assert stamped["normswap.exactness"] == "exact"
    assert stamped["normswap.check"] == "pass"
    assert stamped["normswap.source_sha256"] == hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    normswap.convert(tmp_path / "once.onnx", "folded", check=False).save(tmp_path / "twice.onnx")
    again = props(onnx.load(tmp_path / "twice.onnx"))
    assert again.keys() == stamped.keys()
    assert again["normswap.check"] == "unchecked"
    assert again["normswap.targets"] == "folded"
    assert again["normswap.source_sha256"] == hashlib.sha256((tmp_path / "once.onnx").read_bytes()).hexdigest()


def test_the_same_input_and_options_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        normswap.convert(MODEL, ["rmsnorm", "folded"], check=False).save(tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_models_in_memory_are_stamped_and_the_given_one_is_not() -> None:
    proto = onnx.load(MODEL)
    result = normswap.convert(proto, "rmsnorm", check=False)
    assert isinstance(result.model, onnx.ModelProto)
    assert props(result.model)["normswap.check"] == "unchecked"
    assert props(proto) == {}
    model = ir.load(MODEL)
    result = normswap.convert(model, "rmsnorm", check=False)
    assert isinstance(result.model, ir.Model)
    assert result.model.metadata_props["normswap.targets"] == "rmsnorm"
    assert not model.metadata_props
    model.metadata_props.update({"normswap.source_sha256": "of an older source", "author": "somebody"})
    again = normswap.convert(model, "folded", check=False).model
    assert isinstance(again, ir.Model)
    assert "normswap.source_sha256" not in again.metadata_props  # of what is in memory there is no file
    assert again.metadata_props["author"] == "somebody"


def test_what_was_not_changed_is_not_stamped() -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }'
    result = normswap.convert(onnx.parser.parse_model(text), "rmsnorm", check=False)
    assert isinstance(result.model, onnx.ModelProto)
    assert props(result.model) == {}
