"""The checkers, each as it is used by default, from two paths to a verdict; in a process of their own.

`python -m benchmarks.verdicts.tools TOOL TASKS REPORT`: TASKS holds a list of pairs [original, converted] in JSON;
REPORT gets a line with [version, onnxruntime's version], then [verdict, note] for every pair as soon as it is done.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

PASS, FAIL, INCONCLUSIVE, CRASHED = "pass", "fail", "inconclusive", "crashed"

Verdict = tuple[str, str]
Check = Callable[[Path, Path], Verdict]

FREE_SIZE = 2  # where onnxsim has to be told a size of its inputs
SEED = 0  # onnxsim and onnxslim draw from numpy's global generator
LONGEST_NOTE = 300


def _normswap() -> Check:
    import normswap

    def check(original: Path, converted: Path) -> Verdict:
        result = normswap.check(original, converted)
        return result.verdict, result.reason

    return check


def _polygraphy() -> Check:
    """Two runs, the second on the saved inputs and against the saved outputs of the first, as its manual has it."""
    command = [sys.executable, "-c", "import sys; from polygraphy.tools import main; sys.exit(main())", "run"]

    def run(*given: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *map(str, given)], capture_output=True, text=True, check=False)

    def check(original: Path, converted: Path) -> Verdict:
        with TemporaryDirectory() as folder:
            inputs, outputs = Path(folder) / "inputs.json", Path(folder) / "outputs.json"
            first = run(original, "--onnxrt", "--save-inputs", inputs, "--save-outputs", outputs)
            if first.returncode:
                return CRASHED, f"on the original: {_last(first)}"
            second = run(converted, "--onnxrt", "--load-inputs", inputs, "--load-outputs", outputs)
        if not second.returncode:
            return PASS, ""
        compared = "Accuracy Summary" in second.stdout + second.stderr
        return (FAIL if compared else CRASHED), _last(second)

    return check


def _last(process: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (process.stdout + process.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {process.returncode}"


def _onnxsim() -> Check:
    import numpy as np
    import onnx
    from onnxsim.model_checking import compare

    def check(original: Path, converted: Path) -> Verdict:
        first, second = onnx.load(original), onnx.load(converted)
        given = {tensor.name for tensor in first.graph.initializer}
        shapes = {
            value.name: [size.dim_value or FREE_SIZE for size in value.type.tensor_type.shape.dim]
            for value in first.graph.input
            if value.name not in given
        }
        np.random.seed(SEED)  # noqa: NPY002  (the generator that the tool draws from)
        return (PASS if compare(second, first, input_shapes=shapes, verbose=False) else FAIL), ""

    return check


def _onnxslim() -> Check:
    """What its `--model-check` does before and after it has simplified a model."""
    import numpy as np
    import onnx
    from onnxslim.utils import check_onnx, check_result, onnxruntime_inference

    def check(original: Path, converted: Path) -> Verdict:
        np.random.seed(SEED)  # noqa: NPY002  (the generator that the tool draws from)
        inputs, expected, _ = check_onnx(onnx.load(original))
        found, _ = onnxruntime_inference(onnx.load(converted), inputs)
        return (PASS if check_result(expected, found) else FAIL), ""

    return check


TOOLS: Mapping[str, Callable[[], Check]] = {
    "normswap": _normswap,
    "polygraphy": _polygraphy,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
}


def version(tool: str) -> str:
    """The version of what is installed; normswap's is that of the checkout."""
    if tool == "normswap":
        import normswap

        return normswap.__version__
    return importlib.metadata.version(tool)


def main(tool: str, tasks: str, report: str) -> None:
    """Run one tool on all tasks; the parent sees from REPORT how far it came."""
    with (
        Path(report).open("a", encoding="utf-8", buffering=1) as lines,
        Path(os.devnull).open("w") as silence,
        contextlib.redirect_stdout(silence),
    ):
        check = TOOLS[tool]()
        print(json.dumps([version(tool), version("onnxruntime")]), file=lines)
        for original, converted in json.loads(Path(tasks).read_text(encoding="utf-8")):
            try:
                verdict, note = check(Path(original), Path(converted))
            except Exception as error:  # noqa: BLE001  (whatever a tool raises is its result)
                verdict, note = CRASHED, f"{type(error).__name__}: {error}"
            print(json.dumps([verdict, note[:LONGEST_NOTE]]), file=lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
