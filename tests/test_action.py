"""The GitHub action and the pre-commit hook, run as their hosts would run them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "small" / "vit_torchscript17.onnx"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine on which `normswap` is this one."""
    command = tmp_path / "bin" / "normswap"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m normswap "$@"\n')
    command.chmod(0o755)
    files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **files, "RUNNER_TEMP": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT), "ARGUMENTS": ""}


def run(environment: dict[str, str], **inputs: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "action" / "run.sh"], env={**environment, **inputs}, capture_output=True, text=True, check=False
    )


def test_the_action_converts_then_checks(environment: dict[str, str], tmp_path: Path) -> None:
    converted = str(tmp_path / "a model; rm -rf $HOME.onnx")
    done = run(environment, COMMAND="convert", MODEL=str(MODEL), CONVERTED=converted, TARGETS="rmsnorm folded")
    assert done.returncode == 0, done.stderr
    outputs = dict(line.split("=", 1) for line in Path(environment["GITHUB_OUTPUT"]).read_text().splitlines())
    assert json.loads(Path(outputs["report"]).read_text())["to"] == ["rmsnorm", "folded"]
    assert json.loads(Path(outputs["sarif"]).read_text())["version"] == "2.1.0"
    assert "normswap convert" in Path(environment["GITHUB_STEP_SUMMARY"]).read_text()
    done = run(environment, COMMAND="check", MODEL=str(MODEL), CONVERTED=converted, TARGETS="", ARGUMENTS="--quick")
    assert done.returncode == 0, done.stderr


def test_the_action_fails_with_what_the_command_says(environment: dict[str, str]) -> None:
    done = run(environment, COMMAND="check", MODEL=str(MODEL), CONVERTED="none.onnx", TARGETS="")
    assert done.returncode == 2
    assert "none.onnx" in done.stderr
    assert run(environment, COMMAND="inspekt", MODEL=str(MODEL), CONVERTED="", TARGETS="").returncode == 2


def test_the_action_passes_every_input_through_the_environment() -> None:
    text = (ROOT / "action" / "action.yml").read_text()
    for line in text.splitlines():
        if "${{ inputs." in line:
            assert line.strip().split(":")[0].isupper(), line


def test_the_hook_reads_every_model_and_stops_at_a_broken_one(environment: dict[str, str], tmp_path: Path) -> None:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    entry = next(line.split(":", 1)[1] for line in text.splitlines() if line.strip().startswith("entry:"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    good = subprocess.run(
        [*shlex.split(entry), MODEL, MODEL], env=environment, capture_output=True, text=True, check=False
    )
    assert good.returncode == 0
    assert good.stdout.count("LayerNorm") >= 2
    bad = subprocess.run(
        [*shlex.split(entry), MODEL, broken], env=environment, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 3
