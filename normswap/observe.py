"""Observe shapes that inference cannot find, in one run of the model on small inputs per binding.

onnxruntime does the run where it is installed, onnx's reference evaluator elsewhere: in a process of its own, since a
foreign model may kill the runtime or never end. A model that cannot be run on such inputs keeps its gaps, and what
depends on them is refused as of unknown shape.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from normswap.facts import Facts
from normswap.learn import unknown, walk
from normswap.maps import Shape
from normswap.observer import ANSWER, MODEL, REQUEST, Request

# A model with more bytes of weights is not run only to learn shapes.
BYTES = 1 << 30
# Seconds after which a run is given up: loading 1 GiB takes a few, the inputs are small.
TIME_LIMIT = 30.0
# What the new process does: it finds modules where this one does, in whatever folder it is started.
START = "import sys; folder, *sys.path[:] = sys.argv[1:]; from normswap.observer import main; main(folder)"

Seen = tuple[Shape, ir.DataType] | None


def observe(facts: Facts) -> None:
    """Fill the shapes that `facts` leave open in the main graph, as far as the model can be run."""
    open_values = unknown(facts)
    weights = [value.const_value for value in facts.model.graph.initializers.values()]
    if not open_values or sum(tensor.nbytes for tensor in weights if tensor is not None) > BYTES:
        return
    names = [value.name or "" for value in open_values]
    proto = ir.to_proto(facts.model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in _outputs(proto))
    try:
        runs = run_apart(proto, {"names": names, "runs": [_inputs(facts, binding) for binding in range(2)]})
    except Exception:  # noqa: BLE001  # any failure of a foreign model in a foreign runtime only means: not observed
        return
    for binding, seen in enumerate(runs):
        for value, found in zip(open_values, seen, strict=True):
            if found is not None:
                facts.shapes[binding].setdefault(value, found[0])
                facts.types.setdefault(value, found[1])
        walk(facts, facts.model.graph, binding)


def run_apart(proto: onnx.ModelProto, request: Request) -> list[list[Seen]]:
    """Shape and type of every value wanted, in each run.

    Raises an exception of any class where the model cannot be run: `CalledProcessError` where its process died.
    """
    if not sys.executable or getattr(sys, "frozen", False):  # a frozen program would start itself
        raise FileNotFoundError("no Python to start")
    with tempfile.TemporaryDirectory(prefix="normswap-") as name:
        folder = Path(name)
        (folder / MODEL).write_bytes(proto.SerializeToString())
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-c", START, name, *sys.path],
            check=True,
            timeout=TIME_LIMIT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        answer = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    if [len(run) for run in answer] != [len(request["names"])] * len(request["runs"]):
        raise ValueError("not an answer to this request")
    return [[_seen(item) for item in run] for run in answer]


def _seen(item: tuple[list[int], str] | None) -> Seen:
    return None if item is None else (tuple(map(int, item[0])), ir.DataType.from_numpy(np.dtype(item[1])))


def _outputs(proto: onnx.ModelProto) -> set[str]:
    return {output.name for output in proto.graph.output}


def _inputs(facts: Facts, binding: int) -> dict[str, tuple[list[int], str, int]]:
    """Small inputs: zeros for integers, which are valid ids, and ones for everything else."""
    feed: dict[str, tuple[list[int], str, int]] = {}
    for value in facts.model.graph.inputs:
        if value.is_initializer():
            continue
        shape, dtype = facts.shape(value, binding), facts.dtype(value)
        if shape is None or dtype is None:
            raise ValueError(f"the shape of the input `{value.name}` is not known")
        is_integer = dtype in (ir.DataType.INT64, ir.DataType.INT32)
        feed[value.name or ""] = (list(map(int, shape)), dtype.numpy().name, 0 if is_integer else 1)
    return feed
