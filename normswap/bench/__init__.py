"""Time models side by side: is the converted model faster or slower than the original, beyond what noise explains?

`bench` is light to import: numpy and onnxruntime wait until it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from normswap.bench.result import BenchResult

Shapes = Mapping[str, Sequence[Sequence[int]]]


def bench(
    original: str | os.PathLike[str],
    *converted: str | os.PathLike[str],
    provider: str = "cpu",
    shapes: Shapes | None = None,
    inputs: Path | None = None,
    rounds: int = 100,
    threads: int = 1,
    spinning: bool = False,
    cuda_graph: bool = False,
    without: Sequence[str] = (),
    profile: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> BenchResult:
    """Time `original`, the original again as a control, and each of `converted`, in interleaved rounds.

    Args:
        original: The path of the model that the others are compared with.
        converted: The paths of the others; at least one.
        provider: "cpu" or "cuda", with its default settings; one that is absent or falls back is never replaced.
        shapes: By input name the shapes to run on, one after the other; the other inputs follow where dimensions have
            the same name. Without it, one shape that the original accepts.
        inputs: An .npz file or a `test_data_set` folder to run on instead.
        rounds: How often all models take turns, in an order drawn anew each time; rounded up to a multiple of 10.
        threads: Of onnxruntime within one operator.
        spinning: Let idle threads spin, as onnxruntime does by default: it makes models in one process disturb each
            other.
        cuda_graph: Let onnxruntime capture and replay CUDA graphs; it cannot for models with control flow.
        without: Optimizers of onnxruntime to switch off, for all models.
        profile: Also say where the time goes, by kind of operator.
        seed: Of the inputs, the order of the rounds, and the bootstrap.
        progress: Called with a line before each long step.

    Raises:
        Inconclusive: onnxruntime or the provider is absent, or the provider fell back to another.
        InputRefused: A model is unreadable, invalid or hostile.
        UsageError: A path or shape that is wrong, inputs that no model accepts, or no rounds.
    """
    from normswap.bench.protocol import Request
    from normswap.bench.protocol import bench as run
    from normswap.bench.rounds import whole_blocks
    from normswap.bench.session import Settings

    settings = Settings(provider, threads, spinning, cuda_graph, tuple(without))
    paths = tuple(Path(path) for path in (original, *converted))
    report = progress or (lambda line: None)
    return run(Request(paths, settings, shapes or {}, inputs, whole_blocks(rounds), seed, profile, report))
