"""Run a model and say what shapes its values have: the child process of `observe`, which may die without harm.

Kernels of onnxruntime divide by sizes that may be zero, and such a death takes its process with it. The process reads
a model and a request, and writes an answer, all of them files: the request and the answer in JSON, nothing pickled.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

# The files by which the two processes talk, in a folder of their own.
MODEL, REQUEST, ANSWER = "model.onnx", "request.json", "answer.json"


class Request(TypedDict):
    """The values wanted; for each run, by the name of an input, the shape, type and number that it is filled with."""

    names: list[str]
    runs: list[dict[str, tuple[list[int], str, int]]]


# For each run, for each value wanted: its shape and type; None for what is no tensor.
Answer = list[list[tuple[list[int], str] | None]]


def main(folder: str) -> None:
    """Answer the request in `folder`."""
    _dump_no_core()
    request: Request = json.loads((Path(folder) / REQUEST).read_text(encoding="utf-8"))
    feeds = [
        {name: np.full(shape, number, dtype=np.dtype(dtype)) for name, (shape, dtype, number) in run.items()}
        for run in request["runs"]
    ]
    results = _run(Path(folder) / MODEL, request["names"], feeds)
    answer: Answer = [[_described(value) for value in values] for values in results]
    (Path(folder) / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def _run(path: Path, names: Sequence[str], feeds: Sequence[dict[str, np.ndarray]]) -> list[Iterable[object]]:
    if importlib.util.find_spec("onnxruntime") is None:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))
        return [list(evaluator.run(list(names), feed)) for feed in feeds]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1  # the inputs are small
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(list(names), feed) for feed in feeds]


def _described(value: object) -> tuple[list[int], str] | None:
    if not isinstance(value, np.ndarray):
        return None
    return list(value.shape), "object" if value.dtype.kind in "OSU" else value.dtype.name


def _dump_no_core() -> None:
    """A death is expected, and leaves no core file behind where the system writes some."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(sys.argv[1])
