"""The tools, each with its default settings, from a path to a path; in a process of their own, since tools crash.

`python -m benchmarks.matrix.tools TOOL TASKS REPORT`: TASKS holds a list of pairs [model, output] in JSON; REPORT gets
a line with the version, then one for every pair as soon as it is done.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

Convert = Callable[[Path, Path], None]


def _normswap() -> Convert:
    import normswap

    def convert(model: Path, output: Path) -> None:
        normswap.convert(model, "folded", check=False).save(output)

    return convert


def _onnxruntime(level: str) -> Callable[[], Convert]:
    def load() -> Convert:
        import onnxruntime

        def convert(model: Path, output: Path) -> None:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
            options.optimized_model_filepath = str(output)
            options.log_severity_level = 4
            onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

        return convert

    return load


def _onnxscript() -> Convert:
    import onnx_ir
    import onnxscript.optimizer

    def convert(model: Path, output: Path) -> None:
        graph = onnx_ir.load(model)
        onnxscript.optimizer.optimize(graph)  # its rewrite rules are part of it
        onnx_ir.save(graph, output)

    return convert


def _onnxoptimizer() -> Convert:
    import onnx
    import onnxoptimizer

    def convert(model: Path, output: Path) -> None:
        onnx.save(onnxoptimizer.optimize(onnx.load(model), fixed_point=True), output)

    return convert


def _onnxsim() -> Convert:
    import onnx
    import onnxsim

    def convert(model: Path, output: Path) -> None:
        result, _ = onnxsim.simplify(onnx.load(model))
        onnx.save(result, output)

    return convert


def _onnxslim() -> Convert:
    import onnxslim

    def convert(model: Path, output: Path) -> None:
        onnxslim.slim(str(model), str(output))

    return convert


TOOLS: Mapping[str, Callable[[], Convert]] = {
    "normswap": _normswap,
    "onnxruntime basic": _onnxruntime("BASIC"),
    "onnxruntime extended": _onnxruntime("EXTENDED"),
    "onnxscript": _onnxscript,
    "onnxoptimizer": _onnxoptimizer,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
}


def version(tool: str) -> str:
    """The version of what is installed; normswap's is that of the checkout."""
    package = tool.split()[0]
    if package == "normswap":
        import normswap

        return normswap.__version__
    return importlib.metadata.version(package)


def work(opened: Callable[[], Convert], name: str, tasks: Path, report: Path) -> None:
    """Run one tool, of the version `name`, on all tasks; the parent sees from `report` how far it came."""
    with report.open("a", encoding="utf-8", buffering=1) as lines:
        convert = opened()
        print(json.dumps(name), file=lines)
        for model, output in json.loads(tasks.read_text(encoding="utf-8")):
            failure = ""
            try:
                convert(Path(model), Path(output))
            except Exception as error:  # noqa: BLE001  (whatever a tool raises is its result)
                failure = f"{type(error).__name__}: {error}"
            print(json.dumps(failure), file=lines)


def main(tool: str, tasks: str, report: str) -> None:
    """Run one tool on all tasks."""
    work(TOOLS[tool], version(tool), Path(tasks), Path(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
