"""The coverage matrix: normswap makes of every case what its header says, and the judge sees what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.matrix.cases import FOLDER, POINTS, Case, load, read
from benchmarks.matrix.judge import FOLDED, LEFT, WRONG, Cell, count, judge
from benchmarks.matrix.tools import TOOLS

CASES = load()
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def judged(case: Case, model: onnx.ModelProto, folder: Path) -> Cell:
    path = folder / "result.onnx"
    onnx.save(model, path)
    return judge(case, path)


@every_case
def test_normswap_makes_of_it_what_the_header_says(case: Case, tmp_path: Path) -> None:
    model, result = tmp_path / "model.onnx", tmp_path / "result.onnx"
    onnx.save(case.model, model)
    TOOLS["normswap"]()(model, result)
    cell = judge(case, result)
    assert cell.word in (FOLDED, LEFT), cell.note
    assert cell.word == case.expected, cell.note


@every_case
def test_a_case_has_something_to_fold(case: Case, tmp_path: Path) -> None:
    assert judged(case, case.model, tmp_path).word == LEFT


def test_there_is_a_case_for_every_point() -> None:
    assert {case.point for case in CASES} == set(POINTS)
    assert len(CASES) == len(list(FOLDER.iterdir()))


def named(name: str) -> Case:
    return read(FOLDER / f"{name}.onnxtxt")


def naively_folded(case: Case) -> onnx.ModelProto:
    """BatchNormalization in front of Conv folded without a thought of its padding."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scale = arrays["gamma"] / np.sqrt(arrays["var"] + 1e-5)
    shift = arrays["beta"] - arrays["mean"] * scale
    bias = arrays["b"] + arrays["w"].sum(axis=(2, 3)) @ shift
    for tensor in model.graph.initializer:
        new = {"w": arrays["w"] * scale[:, None, None], "b": bias}.get(tensor.name)
        if new is not None:
            tensor.CopyFrom(numpy_helper.from_array(new.astype(np.float32), tensor.name))
    conv = model.graph.node[1]
    conv.input[0] = model.graph.node[0].input[0]
    del model.graph.node[0]
    return model


def test_a_fold_is_seen(tmp_path: Path) -> None:
    case = named("down_conv")
    assert judged(case, naively_folded(case), tmp_path) == Cell(FOLDED)


def test_a_wrong_fold_is_seen(tmp_path: Path) -> None:
    case = named("trap_padded_conv")
    assert judged(case, naively_folded(case), tmp_path).word == WRONG


def test_an_input_that_is_gone_is_seen(tmp_path: Path) -> None:
    case = named("trap_overridable")
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.graph.input.pop()
    cell = judged(case, model, tmp_path)
    assert cell.word == WRONG
    assert "gamma" in cell.note


def test_operators_are_counted_in_subgraphs_and_functions_where_they_touch_an_activation() -> None:
    assert count(named("where_if").model)["BatchNormalization"] == 2
    assert count(named("where_function").model)["BatchNormalization"] == 1
    power_norm = named("paper_power_norm").model
    assert (count(power_norm)["Sqrt"], count(power_norm, with_constants=True)["Sqrt"]) == (0, 1)
    assert count(named("down_layer_norm").model) == {
        "LayerNormalization": 1,
        "MatMul": 3,
        "Add": 3,
        "gain": 1,
        "bias": 1,
    }
