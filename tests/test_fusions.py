"""Nothing that no plan touched changes: onnxruntime's own fusions of the rest of the model are all still there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest

import normswap

# Operators that onnxruntime makes of activations, products and biases; none has to do with a norm.
OTHERS = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "FusedMatMul", "FusedGemm", "FusedConv", "BiasSoftmax")


def optimized(path: Path, folder: Path) -> Counter[str]:
    """The operators of the model as onnxruntime runs it by default."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("opset", ["auto", "kept"])
@pytest.mark.parametrize(
    "name",
    ["gpt2_dynamo18", "gpt2_torchscript14", "vit_dynamo18", "vit_torchscript14", "deit_dynamo18", "opt_dynamo18"],
)
def test_fusions_of_the_rest_are_kept(name: str, opset: str, tmp_path: Path):
    source = Path(__file__).resolve().parent.parent / "models" / "small" / f"{name}.onnx"
    present = next(item.version for item in onnx.load(source).opset_import if item.domain == "")
    result = normswap.convert(source, opset="auto" if opset == "auto" else present, check=False)
    result.save(tmp_path / "converted.onnx")
    before, after = optimized(source, tmp_path), optimized(tmp_path / "converted.onnx", tmp_path)
    assert any(before[operator] for operator in OTHERS)
    assert {operator: before[operator] for operator in OTHERS} == {operator: after[operator] for operator in OTHERS}
    norms = "RMSNormalization" if opset == "auto" else "SimplifiedLayerNormalization"
    assert after[norms] == 5
