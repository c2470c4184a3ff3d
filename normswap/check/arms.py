"""Run every model on every set of inputs, one model in memory at a time; results wait on disk.

An arm is one way of computing all runs: a model in onnxruntime with optimizations off or on, or in float64, or in
float64 with noise. Its results are spooled as .npy files and read back memory-mapped, so that what is held is the
inputs, one model and one output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from normswap.check import runtime, sources
from normswap.check.inputs import Case
from normswap.check.truth import Evaluator, Noise, Unrounded
from normswap.reference import Array


@dataclass(frozen=True)
class Arm:
    """The results of one arm: a folder with one file per run and output."""

    folder: Path
    outputs: int

    def read(self, run: int) -> list[Array]:
        """The outputs of one run, memory-mapped."""
        return [load(self.folder / f"{run}-{output}.npy") for output in range(self.outputs)]


def spool(folder: Path, results: Iterable[Sequence[Array]]) -> Arm:
    """Write the results of an arm as they come."""
    folder.mkdir(parents=True)
    outputs = 0
    for run, arrays in enumerate(results):
        outputs = len(arrays)
        for output, array in enumerate(arrays):
            np.save(folder / f"{run}-{output}.npy", np.asarray(array), allow_pickle=array.dtype == object)
    return Arm(folder, outputs)


def load(file: Path) -> Array:
    """One spooled array, memory-mapped."""
    try:
        mapped: Array = np.load(file, mmap_mode="r")
    except ValueError:  # strings: written above, and pickled since numpy knows no other way
        mapped = np.load(file, allow_pickle=True)
    return mapped


def deployed(path: Path, provider: str, cases: Sequence[Case], folder: Path, *, optimized: bool) -> Arm:
    """A model in onnxruntime. Raises `Rejected` when it does not load or does not take an input."""
    session = runtime.open_session(path, provider, optimized=optimized)
    return spool(folder, (runtime.run(session, case.feeds) for case in cases))


def exact(
    path: Path, cases: Sequence[Case], folder: Path, *, noisy: bool = False, unrounded: Unrounded | None = None
) -> Arm:
    """A model in float64, `noisy`: with one rounding of its own format after every node. Raises `TruthUnavailable`."""
    return evaluated(sources.load(path), cases, folder, noisy=noisy, unrounded=unrounded)


def evaluated(
    model: ir.Model, cases: Sequence[Case], folder: Path, *, noisy: bool = False, unrounded: Unrounded | None = None
) -> Arm:
    """The same for an opened model."""
    evaluator = Evaluator.open(model, unrounded)
    generator = np.random.default_rng(NOISE_SEED)
    results = (evaluator.run(case.feeds, Noise(generator) if noisy else None) for case in cases)
    # Threads gain a fifth at best here, and lose a factor of five when another process wants the cores.
    with threadpool_limits(limits=1, user_api="blas"):
        return spool(folder, results)


NOISE_SEED = 20240229
