"""Sessions as users deploy them: onnxruntime's default optimizations, inputs bound where the provider computes.

On CUDA inputs and outputs stay on the device, and a run ends when the device has finished; what is timed is the model
and not the copying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from normswap.check.runtime import LOG_SEVERITY, PROVIDERS, Rejected, first_line, onnxruntime
from normswap.errors import Inconclusive
from normswap.reference import Array

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Run = Callable[[], object]


@dataclass(frozen=True)
class Settings:
    """How onnxruntime is set up; the same for all models."""

    provider: str = "cpu"
    threads: int = 1
    spinning: bool = False
    cuda_graph: bool = False
    without: tuple[str, ...] = ()
    profile_prefix: str = ""

    def profiled(self, prefix: str) -> Settings:
        """The same, with onnxruntime's profiler writing to files whose names begin with `prefix`."""
        return replace(self, profile_prefix=prefix)


def open_session(model: Path, settings: Settings) -> InferenceSession:
    """A session on the model at `model`. Raises `Rejected` where it does not load, `Inconclusive` for a fallback."""
    ort, (name, _) = onnxruntime(), PROVIDERS[settings.provider]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    options.log_severity_level = LOG_SEVERITY
    if settings.profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile_prefix
    provider = {"enable_cuda_graph": "1"} if settings.cuda_graph else {}
    try:
        session: InferenceSession = ort.InferenceSession(
            str(model),
            options,
            providers=[(name, provider)],
            disabled_optimizers=list(settings.without),
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise Rejected(first_line(error)) from error
    if name not in session.get_providers():
        raise Inconclusive(f"{name} was asked for, but onnxruntime fell back to {', '.join(session.get_providers())}")
    return session


def bound(session: InferenceSession, feeds: Mapping[str, Array], settings: Settings) -> Run:
    """What runs the session once on `feeds`, until the result is there. Raises `Rejected` for feeds it refuses."""
    if settings.provider == "cpu":
        given = dict(feeds)

        def on_host() -> object:
            return session.run(None, given)

        run: Run = on_host
    else:
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime().OrtValue.ortvalue_from_numpy(array, settings.provider, 0))
        for output in session.get_outputs():
            binding.bind_output(output.name, settings.provider)

        def on_device() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        run = on_device
    try:
        run()
    except Exception as error:
        raise Rejected(first_line(error)) from error
    return run
