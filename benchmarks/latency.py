"""Whether a converted model is slower or faster than its original in onnxruntime, on the CPU.

Three sessions are made before anything is timed: the original, the original again as a control, the converted model.
They take turns in an order drawn anew for every round, so that whatever slows the machine down slows all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.operators import compared, profile
from benchmarks.ratio import ratio, verdict
from benchmarks.report import described, machine, table
from benchmarks.sessions import Settings, feeds, open_session, shapes
from normswap.errors import NormswapError

Seconds = npt.NDArray[np.float64]


def _size(text: str) -> tuple[str, int]:
    name, separator, size = text.rpartition("=")
    if not separator or not size.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SIZE")
    return name, int(size)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("original", type=Path)
    parser.add_argument("converted", type=Path)
    parser.add_argument("--size", type=_size, action="append", default=[], metavar="NAME=N", help="of a free dimension")
    parser.add_argument("--inputs", type=Path, help="an .npz file or test_data_set folder to run on instead")
    parser.add_argument("--rounds", type=int, default=100, help="[%(default)s]")
    parser.add_argument("--runs", type=int, default=3, help="of each session in a round [%(default)s]")
    parser.add_argument("--warm-up", type=int, default=5, help="runs of each session before [%(default)s]")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime within an operator [%(default)s]")
    parser.add_argument("--spinning", action="store_true", help="let idle threads spin, as onnxruntime does by default")
    parser.add_argument("--disable", action="append", default=[], metavar="OPTIMIZER", help="for all; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of inputs, order and bootstrap [%(default)s]")
    parser.add_argument("--profile", action="store_true", help="also print the time per kind of operator")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every measurement there")
    return parser.parse_args()


def timed(run: Callable[[], object], runs: int) -> float:
    """The median of the seconds that `runs` calls take."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def measure(
    arms: Mapping[str, Callable[[], object]], rounds: int, runs: int, warm_up: int, generator: np.random.Generator
) -> dict[str, Seconds]:
    """For every arm its median in each of the rounds, in seconds."""
    for run in arms.values():
        timed(run, warm_up)
    taken = {name: np.zeros(rounds) for name in arms}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for name in generator.permutation(list(arms)):
                taken[name][number] = timed(arms[name], runs)
    finally:
        gc.enable()
    return taken


def summary(taken: Mapping[str, Seconds], generator: np.random.Generator) -> tuple[str, str]:
    """The table, and the verdict."""
    ratios = {name: ratio(taken[name], taken["original"], generator) for name in ("control", "converted")}
    rows = [
        [name, *(f"{1e3 * np.quantile(seconds, q):.3f}" for q in (0, 0.5, 0.9)), str(ratios.get(name, ""))]
        for name, seconds in taken.items()
    ]
    header = ["", "least ms", "median ms", "90 % ms", "ratio to original [95 %]"]
    return table(header, rows), verdict(ratios["converted"], ratios["control"])


def main() -> None:
    """Measure, print Markdown, and write the JSON that was asked for."""
    given = arguments()
    start = machine()
    settings = Settings(given.threads, given.spinning, tuple(given.disable))
    paths = {"original": given.original, "control": given.original, "converted": given.converted}
    sessions = {name: open_session(path, settings) for name, path in paths.items()}
    case = feeds(given.original, sessions["original"], dict(given.size), given.inputs, given.seed)
    arms = {name: lambda session=session: session.run(None, dict(case.feeds)) for name, session in sessions.items()}
    generator = np.random.default_rng(given.seed)
    taken = measure(arms, given.rounds, given.runs, given.warm_up, generator)
    text, found = summary(taken, generator)
    print("\n".join(heading(given, settings, start, shapes(case))), text, f"Verdict: {found}.", sep="\n\n")
    if given.profile:
        kinds = [profile(path, case.feeds, settings) for path in (given.original, given.converted)]
        print("\n" + compared(*kinds))
    if given.json is not None:
        whole = {
            "schema": 1,
            "arguments": {key: str(value) for key, value in vars(given).items()},
            "machine": start,
            "load_after": os.getloadavg()[0],
            "onnxruntime": onnxruntime.__version__,
            "settings": asdict(settings),
            "shapes": shapes(case),
            "seconds": {name: seconds.tolist() for name, seconds in taken.items()},
            "verdict": found,
        }
        given.json.write_text(json.dumps(whole, indent=2) + "\n")


def heading(
    given: argparse.Namespace, settings: Settings, start: dict[str, object], fed: Mapping[str, Sequence[int]]
) -> list[str]:
    """What was run, and how."""
    spinning = "spinning" if settings.spinning else "not spinning"
    disabled = f", without {', '.join(settings.disabled)}" if settings.disabled else ""
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in fed.items())
    return [
        f"{given.original.name} and {given.converted.name} on {inputs}.",
        f"onnxruntime {onnxruntime.__version__}, all optimizations{disabled}, threads: {settings.threads}, {spinning}.",
        f"{given.rounds} rounds of {given.runs} runs, in random order (seed {given.seed}). {described(start)}.",
    ]


if __name__ == "__main__":
    try:
        main()
    except NormswapError as error:
        sys.exit(f"{error}")
