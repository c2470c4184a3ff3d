"""onnxruntime as it is deployed: one session at a time, on the provider asked for or not at all.

The module imports onnxruntime only when it is used. On CUDA the arithmetic is pinned down (no TF32, heuristic
algorithm search, deterministic kernels), so that a verdict does not change from run to run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from normswap.errors import Inconclusive, UsageError
from normswap.reference import Array

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PROVIDERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
}

# onnxruntime reports warnings on stderr by default (2); a rejected input is our message to write, so fatal only (4).
LOG_SEVERITY = 4


class Rejected(Exception):
    """onnxruntime refused the model or the input; the message is its first line."""


def onnxruntime() -> ModuleType:
    """The module onnxruntime. Raises `Inconclusive` where it is not installed."""
    try:
        import onnxruntime as module
    except ImportError as error:
        raise Inconclusive(
            "onnxruntime is not installed, so nothing can be run: pip install normswap[cpu] or normswap[gpu]"
        ) from error
    found: ModuleType = module
    return found


def require(provider: str) -> str:
    """The version of onnxruntime. Raises `Inconclusive` if it lacks the provider, `UsageError` if nobody knows it."""
    if provider not in PROVIDERS:
        raise UsageError(f"unknown provider {provider!r}: {' or '.join(PROVIDERS)}")
    module, name = onnxruntime(), PROVIDERS[provider][0]
    available = list(module.get_available_providers())
    if name not in available:
        has = f"this onnxruntime {module.__version__} (it has {', '.join(available)})"
        raise Inconclusive(f"{name} is not in {has}; install the other build: pip install 'normswap[gpu]'")
    return str(module.__version__)


def open_session(path: Path, provider: str, *, optimized: bool) -> InferenceSession:
    """A session on the model at `path`, with onnxruntime's graph optimizations all on or all off.

    Raises `Rejected` when the model does not load, `Inconclusive` when the provider fell back to another.
    """
    ort, (name, settings) = onnxruntime(), PROVIDERS[provider]
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = LOG_SEVERITY
    try:
        # enable_fallback=0: a provider that cannot start raises instead of printing and moving to the CPU.
        session: InferenceSession = ort.InferenceSession(
            str(path), options, providers=[(name, dict(settings))], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise Rejected(first_line(error)) from error
    if name not in session.get_providers():
        raise Inconclusive(f"{name} was asked for, but onnxruntime fell back to {', '.join(session.get_providers())}")
    return session


def run(session: InferenceSession, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs in the graph's order. Raises `Rejected`, also for an output that is not a tensor."""
    try:
        outputs: Sequence[object] = session.run(None, dict(feeds))
    except Exception as error:
        raise Rejected(first_line(error)) from error
    for value, output in zip(session.get_outputs(), outputs, strict=True):
        if not isinstance(output, np.ndarray):
            raise Rejected(f"output `{value.name}` is a {value.type}, which cannot be compared")
    return [np.asarray(output) for output in outputs]


def first_line(error: Exception) -> str:
    """The message of onnxruntime without its code location."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0].removeprefix("[ONNXRuntimeError] : ")
    # A failed node is reported through every enclosing one, then with a location in onnxruntime's source.
    node = re.findall(r"while running (\w+) node\. Name:'([^']*)'", line)
    said = re.split(r"Status Message: (?:/\S+ (?:[^()]*\([^()]*\) ?))?", line)[-1]
    return f"{node[-1][0]} `{node[-1][1]}`: {said}" if node else said
