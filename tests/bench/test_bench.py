"""Whole benchmarks of small models: what is reported, never how fast something was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner

import normswap
from normswap.bench.result import SCHEMA
from normswap.cli import main
from normswap.errors import Inconclusive, UsageError

TEXT = """<ir_version: 10, opset_import: ["": 20]>
    g (float[B, S, 8] x) => (float[B, S, 8] y) {{ h = MatMul(x, w)  y = {}(h) }}"""
VERDICTS = ("faster", "slower", "no detectable difference", "inconclusive")


def written(folder: Path, operator: str) -> Path:
    model = onnx.parser.parse_model(TEXT.format(operator))
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, folder / f"{operator}.onnx")
    return folder / f"{operator}.onnx"


def test_every_model_is_timed_on_every_shape(tmp_path: Path) -> None:
    models = [written(tmp_path, operator) for operator in ("Relu", "Tanh", "Erf")]
    lines: list[str] = []
    shapes = {"x": [(1, 4, 8), (2, 64, 8)]}
    result = normswap.bench(*models, shapes=shapes, rounds=10, profile=True, progress=lines.append)
    assert [sweep.shapes for sweep in result.sweeps] == ["x 1x4x8", "x 2x64x8"]
    for sweep in result.sweeps:
        assert [arm.model for arm in sweep.arms] == ["Relu.onnx", "Tanh.onnx", "Erf.onnx"]
        assert [arm.verdict in VERDICTS for arm in sweep.arms] == [False, True, True]
        for arm, operator in zip(sweep.arms, ("Relu", "Tanh", "Erf"), strict=True):
            assert 0 < arm.least_ms <= arm.p50_ms <= arm.p90_ms
            assert (arm.p99_ms is None) == (arm.runs < 662)
            assert arm.session_ms > 0
            assert arm.first_run_ms > 0
            assert arm.memory_bytes > 0
            assert operator in {kind.operator for kind in arm.profile}
    assert result.verdict in VERDICTS
    assert any("round 10 of 10" in line for line in lines)


def test_the_report_is_json_that_says_what_it_rests_on(tmp_path: Path) -> None:
    original, converted = (written(tmp_path, operator) for operator in ("Relu", "Tanh"))
    done = CliRunner().invoke(main, ["bench", str(original), str(converted), "--rounds", "10", "--json"])
    report = json.loads(done.stdout)
    assert report["schema"] == SCHEMA
    assert done.exit_code == {"slower": 1, "inconclusive": 4}.get(report["verdict"], 0)
    assert {"median", "low", "high"} == report["ratio"].keys() == report["control"].keys()
    assert [arm["model"] for arm in report["arms"]] == ["Relu.onnx", "Tanh.onnx"]
    assert report["settings"]["rounds"] == 10
    assert report["machine"]["cpus"] >= 1


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    original = written(tmp_path, "Relu")
    result = normswap.bench(original, original, rounds=10)
    first, second = (arm.model for arm in result.sweeps[0].arms)
    assert first != second


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--rounds", "0"], 2, "--rounds"),
        (["--shapes", "x=1y4"], 2, "is not NAME=SHAPE"),
        (["--shapes", "z=1x4x8"], 2, "no input `z`"),
        (["--shapes", "x=1x4x9"], 2, "is always 8, not 9"),
        (["--provider", "cuda"], 4, "CUDAExecutionProvider"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], code: int, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    original = str(written(tmp_path, "Relu"))
    done = CliRunner().invoke(main, ["bench", original, original, *arguments])
    assert done.exit_code == code
    assert complaint in done.stderr
    assert done.stdout == ""


def test_a_provider_that_falls_back_is_inconclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime lists CUDA as available on machines that have none."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    original = written(tmp_path, "Relu")
    with pytest.raises((Inconclusive, UsageError)) as raised:
        normswap.bench(original, original, provider="cuda", rounds=10)
    assert "CUDA" in str(raised.value)


def test_a_model_that_the_runtime_rejects_is_named(tmp_path: Path) -> None:
    original, broken = written(tmp_path, "Relu"), tmp_path / "broken.onnx"
    model = onnx.load(original)
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, broken)
    with pytest.raises(UsageError, match=r"broken\.onnx: onnxruntime does not run it: .*NoSuchOperator"):
        normswap.bench(original, broken, rounds=10)
