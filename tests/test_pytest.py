"""The pytest plugin, in test runs of its own."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "small" / "resnet_torchscript17.onnx"


@pytest.fixture
def models(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it may be installed, and is named below
    model = onnx.load(MODEL)
    onnx.save(model, pytester.path / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Tanh"
    onnx.save(model, pytester.path / "wrong.onnx")
    return pytester


def test_a_converted_model_passes_and_a_wrong_one_fails_with_what_differs(models: pytest.Pytester) -> None:
    models.makepyfile(
        """
        import normswap

        def test_right(assert_equivalent):
            folded = normswap.convert("model.onnx", "folded", check=False)
            assert assert_equivalent("model.onnx", folded.model, quick=True).verdict == "pass"

        def test_wrong(assert_equivalent):
            assert_equivalent("model.onnx", "wrong.onnx", quick=True)
        """
    )
    result = models.runpytest_subprocess("-p", "normswap.pytest", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*check: fail: *error*where the original's own is*"])
    result.stdout.no_fnmatch_line("*_compare*")  # whose line it is, is no help
