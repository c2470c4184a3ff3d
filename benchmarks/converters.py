"""One tool on one file, in the process that is measured: `python -m benchmarks.converters TOOL MODEL OUTPUT`.

Each tool is used the way that costs it least: from path to path, weights left outside where the input has them
outside, no checks of the result. The last line of standard output is a report in JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from benchmarks.phases import Stopwatch, instrument, peak_bytes

Report: TypeAlias = "dict[str, object]"
Convert = Callable[[Path, Path, bool], Report]
"""Input, output, whether the weights are outside; what there is to report beyond time and memory."""


def load_normswap() -> Convert:
    """`normswap convert --to rmsnorm --no-check`, with a stopwatch around its phases."""
    import normswap.api  # what `import normswap` puts off

    def convert(model: Path, output: Path, outside: bool) -> Report:
        watch = Stopwatch()
        instrument(watch)
        conversion = normswap.api.convert(model, "rmsnorm", check=False)
        conversion.save(output)
        watch.charge()
        return {"phases": {name: vars(phase) for name, phase in watch.phases.items()}}

    return convert


def load_onnxruntime() -> Convert:
    """onnxruntime's offline optimizer: a session that writes the graph it optimized."""
    import onnxruntime

    def convert(model: Path, output: Path, outside: bool) -> Report:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(output)
        options.log_severity_level = 3
        if outside:
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", f"{output.name}.data"
            )
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return {}

    return convert


def load_onnxslim() -> Convert:
    """The function behind `onnxslim MODEL OUTPUT`."""
    import onnxslim

    def convert(model: Path, output: Path, outside: bool) -> Report:
        onnxslim.slim(str(model), str(output), save_as_external_data=outside)
        return {}

    return convert


def load_onnxsim() -> Convert:
    """The function behind `onnxsim MODEL OUTPUT`, on its way from path to path."""
    import onnxsim

    def convert(model: Path, output: Path, outside: bool) -> Report:
        threshold = {} if outside else {"external_data_threshold": "2GB"}
        onnxsim.simplify(str(model), output_path=str(output), **threshold)
        return {}

    return convert


def load_onnxscript() -> Convert:
    """onnxscript's optimizer, between onnx_ir's load and save, which leave external weights on disk."""
    import onnx_ir
    import onnxscript.optimizer

    def convert(model: Path, output: Path, outside: bool) -> Report:
        graph = onnx_ir.load(model)
        onnxscript.optimizer.optimize(graph)
        onnx_ir.save(graph, output, external_data=f"{output.name}.data" if outside else None)
        return {}

    return convert


LOADERS: Mapping[str, Callable[[], Convert]] = {
    "normswap": load_normswap,
    "onnxruntime": load_onnxruntime,
    "onnxslim": load_onnxslim,
    "onnxsim": load_onnxsim,
    "onnxscript": load_onnxscript,
}


def measure(tool: str, model: Path, output: Path, outside: bool) -> Report:
    """The report of one conversion: seconds without imports, peak memory with everything."""
    convert = LOADERS[tool]()
    start = time.perf_counter()
    report = convert(model, output, outside)
    seconds = time.perf_counter() - start
    if not output.is_file():
        raise FileNotFoundError(f"{tool} wrote nothing")
    return {"version": _version(tool), "conversion_seconds": seconds, "peak_bytes": peak_bytes(), **report}


def _version(tool: str) -> str:
    if tool == "normswap":  # imported from the checkout, whatever is installed
        import normswap

        return normswap.__version__
    return importlib.metadata.version(tool)


def describe(model: Path) -> Report:
    """How large a model is, and whether its weights are in another file."""
    import onnx

    proto = onnx.load(model, load_external_data=False)
    outside = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    locations = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    files = [model, *(model.parent / location for location in locations)]
    for file in files:
        file.read_bytes()  # into the disk cache, so that no tool has to wait for the disk
    return {
        "nodes": len(proto.graph.node),
        "bytes": sum(file.stat().st_size for file in files),
        "outside": bool(outside),
    }


def main() -> None:
    """Run one tool, or `describe` the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=[*LOADERS, "describe"])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--outside", action="store_true")
    given = parser.parse_args()
    if given.tool == "describe":
        report = describe(given.model)
    else:
        report = measure(given.tool, given.model, given.output, given.outside)
    print("\n" + json.dumps(report))


if __name__ == "__main__":
    main()
