"""The sessions that are timed, and what is fed to them: one input that the original accepts, the same for all.

Inputs are drawn as `normswap check` draws them: token ids inside their table, full masks, floats with a mean. Free
dimensions have the sizes that were asked for, the others the first that onnxruntime accepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from normswap.check import files, runtime, sources
from normswap.check.inputs import QUICK, Case, synthesize
from normswap.check.interface import interface
from normswap.check.ranges import role
from normswap.check.sizes import Binding, attempts, symbols
from normswap.errors import UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@dataclass(frozen=True)
class Settings:
    """How onnxruntime is set up; the same for all models."""

    threads: int = 1
    spinning: bool = False
    disabled: tuple[str, ...] = ()
    profile_prefix: str = ""


def open_session(model: Path, settings: Settings) -> InferenceSession:
    """A session with onnxruntime's default optimizations, less those that are disabled."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    options.log_severity_level = 3
    if settings.profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile_prefix
    disabled = list(settings.disabled)
    return onnxruntime.InferenceSession(
        str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def feeds(model: Path, session: InferenceSession, sizes: Mapping[str, int], given: Path | None, seed: int) -> Case:
    """What to feed: from the file `given`, or drawn in `sizes`.

    Raises `UsageError` where a size is of no free dimension, or nothing that was tried is accepted.
    """
    graph = sources.load(model)
    ports = interface(graph)
    if given is not None:
        return files.load(given, ports)[0]
    own = {value.name: value for value in graph.graph.inputs}
    roles = [role(own[port.name]) for port in ports.inputs]
    free = [symbol.name for symbol in symbols(ports.inputs)]
    if unknown := set(sizes) - set(free):
        raise UsageError(f"{model} has no free dimension `{min(unknown)}`; it has {', '.join(free) or 'none'}")
    why = ""
    for binding in _bindings(attempts(symbols(ports.inputs)), sizes):
        case = synthesize(ports.inputs, roles, binding, QUICK[0], seed)
        try:
            runtime.run(session, case.feeds)
        except runtime.Rejected as error:
            why = why or str(error)
        else:
            return case
    raise UsageError(f"{model}: no input that was tried is accepted (give it --inputs): {why}")


def _bindings(candidates: Iterator[Binding], sizes: Mapping[str, int]) -> Iterator[Binding]:
    """The candidates with the sizes that were asked for put in."""
    for binding in candidates:
        yield Binding(binding.name, tuple((name, sizes.get(name, size)) for name, size in binding.sizes))


def shapes(case: Case) -> Mapping[str, Sequence[int]]:
    """The shapes of the inputs, by name."""
    return {name: list(array.shape) for name, array in case.feeds.items()}
