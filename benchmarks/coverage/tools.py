"""The peers, from a path to a path, each set up so that it fuses as many norms as it can.

`python -m benchmarks.coverage.tools TOOL TASKS REPORT` as in `benchmarks.matrix.tools`: a process of its own, since
tools crash; the parent sees from REPORT how far it came.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.matrix import tools
from benchmarks.matrix.tools import Convert

# What a tool cannot even load is none of its failures: onnxruntime has few kernels for bfloat16 on the CPU.
UNSUPPORTED = "cannot be loaded at all: "


def _onnxruntime() -> Convert:
    import onnxruntime

    optimize = tools.TOOLS["onnxruntime extended"]()
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain.log_severity_level = 4

    def convert(model: Path, output: Path) -> None:
        try:
            onnxruntime.InferenceSession(str(model), plain, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NotImplementedError(UNSUPPORTED + str(error).splitlines()[0]) from error
        optimize(model, output)

    return convert


def _transformers() -> Convert:
    """Its fusions in Python: those for BERT, or where there is an InstanceNormalization those for UNet (GroupNorm)."""
    import onnx
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    logging.disable(logging.WARNING)

    def convert(model: Path, output: Path) -> None:
        has_instances = any(node.op_type == "InstanceNormalization" for node in onnx.load(model).graph.node)
        kind = "unet" if has_instances else "bert"
        options = FusionOptions(kind)
        options.enable_attention = False
        fused = optimizer.optimize_model(str(model), kind, opt_level=0, optimization_options=options)
        fused.save_model_to_file(str(output))

    return convert


def _onnxscript() -> Convert:
    """Its optimizer, then the rules that fuse norms, which are not among its default ones."""
    import onnx_ir
    import onnxscript.optimizer
    from onnxscript.rewriter import onnx_fusions, rewrite
    from onnxscript.rewriter.ort_fusions import instance_to_group_normalization, rms_normalization
    from onnxscript.rewriter.rules.fusion import _layer_norm

    def convert(model: Path, output: Path) -> None:
        graph = onnx_ir.load(model)
        onnxscript.optimizer.optimize(graph)
        _layer_norm.fuse_layer_normalization(graph)
        counts = onnx_fusions.fuse(graph)  # for opset 23 alone
        if not counts.get("RMSNormalization"):
            rms_normalization.fuse_rms_normalization(graph)
        rewrite(graph, instance_to_group_normalization.rules)
        onnxscript.optimizer.optimize(graph)  # inlines what a fusion left as a function
        onnx_ir.save(graph, output)

    return convert


def _normswap() -> Convert:
    import normswap

    def convert(model: Path, output: Path) -> None:
        normswap.convert(model, OWN.split()[-1], check=False).save(output)

    return convert


# normswap's own conversion is judged as the peers are; what it names is judged in `own`.
OWN = "normswap --to standard"

TOOLS: Mapping[str, Callable[[], Convert]] = {
    OWN: _normswap,
    "onnxruntime extended": _onnxruntime,
    "onnxruntime.transformers": _transformers,
    "onnxscript": _onnxscript,
    "onnxsim": tools.TOOLS["onnxsim"],
    "onnxslim": tools.TOOLS["onnxslim"],
}


def version(tool: str) -> str:
    """The version of what is installed."""
    return tools.version(tool.replace(".", " "))


def main(tool: str, tasks: str, report: str) -> None:
    """Run one tool on all tasks."""
    tools.work(TOOLS[tool], version(tool), Path(tasks), Path(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
