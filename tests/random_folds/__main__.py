"""Draw many graphs and examine them all.

    python -m tests.random_folds --count 20000 --seed 0 --onnxruntime 10

A failure is printed with its seed and the whole ONNX text, which is all it takes to see it again.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections import Counter

from tests.random_folds.draft import Unfit
from tests.random_folds.examine import Outcome, examined, second_opinion
from tests.random_folds.growth import Drawn, drawn

PROGRESS = 500


def say(text: str, *, error: bool = False) -> None:
    """Print a line at once."""
    stream = sys.stderr if error else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def attempt(graph: Drawn, *, in_onnxruntime: bool) -> Outcome | Unfit | str:
    """The outcome of a graph; what is wrong with it; or why it could not be run before it was folded."""
    try:
        outcome = examined(graph)
        if in_onnxruntime and second_opinion(graph):
            outcome.evaluators["onnxruntime"] += 1
    except Unfit as unfit:
        return unfit
    except Exception as error:  # noqa: BLE001  # whatever the program raises is a failure
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    return outcome


def main() -> int:
    """Examine as many graphs as were asked for; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first graph; the next has the next")
    parser.add_argument("--onnxruntime", type=int, default=0, metavar="N", help="every Nth graph in float32, too")
    arguments = parser.parse_args()
    total, unfit, failures = Outcome(), Counter[str](), 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        graph = drawn(random.Random(seed))
        found = attempt(graph, in_onnxruntime=arguments.onnxruntime > 0 and seed % arguments.onnxruntime == 0)
        if isinstance(found, Outcome):
            total.add(found)
        elif isinstance(found, Unfit):
            unfit[str(found)] += 1
        else:
            failures += 1
            say(f"--- seed {seed}: {found}\n{graph}\n")
        if seed % PROGRESS == PROGRESS - 1:
            say(f"... {seed + 1}, {failures} failures", error=True)

    def listed(counter: Counter[str]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"

    say(f"{arguments.count} graphs; run by {listed(total.evaluators)}; not run: {listed(unfit)}; {failures} failures")
    say(f"{total.norms} norms, {total.gone} gone, {total.combined} combined, {total.refusals.total()} refusals")
    say(f"moves: {listed(total.moves)}")
    say(f"refused: {listed(total.refusals)}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
