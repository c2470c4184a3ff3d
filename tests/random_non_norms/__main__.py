"""Draw many graphs that are mostly no norms, and have every norm that is named in them judged.

    python -m tests.random_non_norms --count 50000 --seed 0

A failure is printed with its seed and the whole graph, which is all it takes to see it again.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter

import onnx

from tests.random_non_norms.examine import Outcome, drawn, examined

PROGRESS = 1000


def say(text: str, *, error: bool = False) -> None:
    """Print a line at once."""
    stream = sys.stderr if error else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def attempt(seed: int) -> Outcome | str:
    """The outcome of a graph, or what is wrong with it."""
    try:
        return examined(seed)
    except Exception as error:  # noqa: BLE001  # whatever the program raises is a failure
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"


def main() -> int:
    """Examine as many graphs as were asked for; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first graph; the next has the next")
    arguments = parser.parse_args()
    total, failures = Outcome(), 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        found = attempt(seed)
        if isinstance(found, Outcome):
            total.add(found)
        else:
            failures += 1
            case = drawn(seed)
            say(
                f"--- seed {seed} ({', '.join(case.made) or 'control'}): {found}\n{onnx.printer.to_text(case.graph.model())}\n"
            )
        if seed % PROGRESS == PROGRESS - 1:
            say(f"... {seed + 1}, {failures} failures", error=True)

    def listed(counter: Counter[str]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"

    say(f"{arguments.count} graphs: {listed(total.made)}")
    say(
        f"named, and judged on {total.elements:,} elements: {listed(total.kinds)}; {failures} failures, {total.invalid} not run"
    )
    say(f"controls recognized: {total.recognized} of {total.controls}; missed: {total.missed[:20]}")
    say(f"not recognized: {listed(total.reasons)}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
