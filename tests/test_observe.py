"""Shapes that inference cannot find: seen in one run, and what follows from them derived."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import normswap
from normswap import observe as module
from normswap.learn import PRIMES, learn, unknown
from normswap.observe import observe, run_apart
from normswap.observer import Request
from tests.graphs import filled

# FusedMatMul belongs to onnxruntime: onnx's inference does not know it, and nothing behind it has a shape.
UNKNOWN = """
<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
opaque (float[N,S,4] x) => (float[N,S,2] y)
<float[4,6] w0, float[6] g, float[6] c, float[6,2] w1>
{
  h = com.microsoft.FusedMatMul <alpha = 0.5> (x, w0)
  k = MatMul(x, w0)
  s = Add(h, k)
  shape = Shape(s)
  t = Reshape(s, shape)
  [norm] n = LayerNormalization <axis = -1> (t, g, c)
  y = MatMul(n, w1)
}
"""

# onnx's inference does not know FusedMatMul, and so not that `e` is empty.
EMPTY_SCAN = """
<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
framed (float[N,4] x) => (float[M,K] y)
<float[4,6] w0, int64[1] start = {0}, int64[1] end = {0}, int64[1] axis = {1}>
{
  h = com.microsoft.FusedMatMul (x, w0)
  e = Slice(h, start, end, axis)
  y = Scan <num_scan_inputs = 1, scan_input_axes = [1],
    body = step (float[K] row) => (float[K] out) { out = Neg(row) }> (e)
}
"""


def proto() -> onnx.ModelProto:
    return filled(onnx.parser.parse_model(UNKNOWN))


def test_observed_shapes_are_static_where_both_runs_agree():
    facts = learn(ir.from_proto(proto()))
    assert {value.name for value in unknown(facts)} >= {"h", "s", "n"}
    observe(facts)
    assert unknown(facts) == []
    dims = {value.name: facts.dims(value) for node in facts.model.graph for value in node.outputs}
    assert dims["n"] == (None, None, 6)
    shape = next(node.outputs[0] for node in facts.model.graph if node.op_type == "Shape")
    assert [facts.derived(shape, binding).tolist() for binding in (0, 1)] == [[*primes[:2], 6] for primes in PRIMES]


def test_a_norm_behind_an_unknown_shape_is_not_given_up():
    assert [norm.kind for norm in normswap.inspect(proto()).norms] == ["LayerNorm"]


REQUEST: Request = {
    "names": ["h", "y"],
    "runs": [{"x": ([3, 5, 4], "float32", 1)}, {"x": ([5, 11, 4], "float32", 1)}],
}


def test_a_run_apart_says_shapes_and_types():
    model = proto()
    model.graph.output.append(onnx.ValueInfoProto(name="h"))
    assert run_apart(model, REQUEST) == [
        [((*free, width), ir.DataType.FLOAT) for width in (6, 2)] for free in ((3, 5), (5, 11))
    ]


@pytest.mark.parametrize(
    "does",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGFPE)",
        "import os; os.abort()",
        "raise RuntimeError('no such kernel')",
        "import time; time.sleep(600)",
        "pass",
        "import pathlib, sys; pathlib.Path(sys.argv[1], 'answer.json').write_text('[]')",
        "import pathlib, sys; pathlib.Path(sys.argv[1], 'answer.json').write_text('{')",
    ],
    ids=["dies by a signal", "aborts", "fails", "never ends", "no answer", "an empty answer", "a broken answer"],
)
def test_a_run_that_dies_leaves_the_process_alive_and_the_gaps_open(does: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "START", does)
    monkeypatch.setattr(module, "TIME_LIMIT", 2.0)
    facts = learn(ir.from_proto(proto()))
    before = unknown(facts)
    observe(facts)
    assert unknown(facts) == before != []


@pytest.mark.parametrize(("name", "value"), [("executable", ""), ("executable", "/no/such/python"), ("frozen", True)])
def test_without_a_python_to_start_nothing_is_observed(name: str, value: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, name, value, raising=False)
    facts = learn(ir.from_proto(proto()))
    observe(facts)
    assert unknown(facts)


def test_a_scan_over_an_axis_of_length_zero_does_not_kill_the_process():
    """onnxruntime 1.32 divides by that length; the Scan runs over the frames of a signal too short for one."""
    facts = learn(ir.from_proto(filled(onnx.parser.parse_model(EMPTY_SCAN))))
    assert unknown(facts)
    observe(facts)  # of a runtime that survives this, shapes


def test_the_package_is_found_in_any_folder_and_nothing_else_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "numpy.py").write_text("raise SystemExit('a file of the folder was run')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(Path(normswap.__file__).parents[1]), *filter(None, sys.path)])
    facts = learn(ir.from_proto(proto()))
    observe(facts)
    assert unknown(facts) == []


def test_a_model_that_does_not_run_keeps_its_gaps():
    facts = learn(ir.from_proto(filled(onnx.parser.parse_model(UNKNOWN.replace("FusedMatMul", "NoSuchKernel")))))
    observe(facts)
    assert unknown(facts)


def test_a_model_whose_run_dies_is_inspected_all_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "START", "import os; os.abort()")
    assert normswap.inspect(proto()).norms == ()


def test_the_observer_is_light_to_import():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, normswap.observer; print(*sys.modules)"],
        cwd=Path(normswap.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "numpy" in loaded
    assert {"onnx", "onnx_ir", "onnxruntime", "rich"}.isdisjoint(loaded)
