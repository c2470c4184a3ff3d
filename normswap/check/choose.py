"""Which runs to make: the user's data, then drawn data in sizes that the original accepts.

Only the original decides what it accepts, by running; a model whose demands are written nowhere (a height of 48, two
unnamed dimensions that must agree) is met by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from normswap.check import runtime
from normswap.check.inputs import Case, Family, synthesize
from normswap.check.interface import Port
from normswap.check.ranges import Role
from normswap.check.runtime import Rejected
from normswap.check.sizes import Binding, attempts, further, symbols


@dataclass(frozen=True)
class Plan:
    """What to draw: for these inputs, from these families, `repeats` times, in one size (`quick`) or three."""

    ports: Sequence[Port]
    roles: Sequence[Role]
    families: Sequence[Family]
    repeats: int
    quick: bool

    def draw(self, binding: Binding, number: int, repeat: int = 0) -> Iterator[Case]:
        """One case per family; its seed is made of the three numbers."""
        for index, family in enumerate(self.families):
            yield synthesize(self.ports, self.roles, binding, family, seed=10_000 * repeat + 100 * number + index)


@dataclass(frozen=True)
class Choice:
    """The runs, the user's first, and notes on what the original would not take."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...]


def choose(path: Path, provider: str, plan: Plan, given: Sequence[Case], progress: Callable[[str], None]) -> Choice:
    """Choose the runs for the original at `path`.

    Raises `Rejected` when it does not load, rejects the user's data, or takes no sizes that were tried.
    """
    session = runtime.open_session(path, provider, optimized=False)
    for case in given:
        runtime.run(session, case.feeds)

    def refusal(binding: Binding, number: int) -> str:
        """Why the original rejects these sizes, "" if it does not."""
        progress(f"trying sizes: {binding.name}")
        try:
            for case in plan.draw(binding, number):
                runtime.run(session, case.feeds)
        except Rejected as error:
            return str(error)
        return ""

    def first(candidates: Iterable[Binding], number: int) -> tuple[Binding | None, str]:
        """The first that is accepted, or why the first of all was not."""
        why = ""
        for binding in candidates:
            refused = refusal(binding, number)
            if not refused:
                return binding, ""
            why = why or refused
        return None, why

    free = symbols(plan.ports)
    notes: list[str] = []
    base, why = first([given[0].binding] if given else attempts(free), 0)
    if base is None and not given:
        raise Rejected(f"it takes no sizes of its free dimensions that were tried (give it inputs): {why}")
    if base is None:
        notes.append(f"only the given inputs were run, since the original rejects drawn ones: {why}")
    bindings = [] if base is None else [base]
    if base is not None and not given and not plan.quick:
        for number, alternatives in enumerate(further(free, base), start=1):
            binding, why = first(alternatives, number)
            if binding is None:
                notes.append(f"no sizes like `{alternatives[0].name}` were run, since the original rejects them: {why}")
            else:
                bindings.append(binding)
    drawn = (
        case
        for repeat in range(plan.repeats)
        for number, binding in enumerate(bindings)
        for case in plan.draw(binding, number, repeat)
    )
    return Choice((*given, *drawn), tuple(notes))
