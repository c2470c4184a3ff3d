"""Which rewrites break a model: delta debugging over the ledger (Zeller, ddmin).

A trial converts the model anew with some of the sites only, and runs the quick check on the inputs that failed. What
is found is minimal: without any one of its sites the rest passes. It need not be the only such set.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from normswap.check import protocol
from normswap.check.inputs import Case
from normswap.check.truth import Unrounded
from normswap.conversion import Options, apply_targets
from normswap.errors import NormswapError
from normswap.ledger import Rewrite
from normswap.model import Source, open_model, to_kind

Item = TypeVar("Item")

TRIALS = 200
"""At most so many trials: for one guilty site of n it takes about 2·log₂ n, for k of them k times as many and more."""


def smallest(items: Sequence[Item], fails: Callable[[Sequence[Item]], bool]) -> list[Item]:
    """A subset of `items` that fails and none of which can be left out, if `items` fail; in their order.

    `fails` need not be monotone, and is not asked about the empty set, nor about `items` themselves.
    """
    kept, parts = list(items), 2
    while len(kept) > 1:
        parts = min(parts, len(kept))
        chunks = [kept[len(kept) * i // parts : len(kept) * (i + 1) // parts] for i in range(parts)]
        others = [[item for chunk in (*chunks[:i], *chunks[i + 1 :]) for item in chunk] for i in range(parts)]
        if (failing := next((chunk for chunk in chunks if fails(chunk)), None)) is not None:
            kept, parts = failing, 2
        elif parts > 2 and (failing := next((other for other in others if fails(other)), None)) is not None:
            kept, parts = failing, parts - 1
        elif parts < len(kept):
            parts *= 2
        else:
            break
    return kept


@dataclass(frozen=True)
class Converted:
    """A model converted anew; `selectable` are the sites in its ledger that can be left out, which are norms."""

    model: Source
    rewrites: tuple[Rewrite, ...]
    selectable: tuple[str, ...]
    unrounded: Unrounded
    fractions: Unrounded


@dataclass(frozen=True)
class Converter:
    """How a model was converted, and the run on which that failed: what it takes to try fewer sites."""

    source: Source
    options: Options
    provider: str
    case: Case | None

    def convert(self, sites: Iterable[str] | None = None) -> Converted:
        """The model with these sites only, or with all that the options ask for. Raises as `convert` does."""
        only = self.options.only if sites is None else tuple(map(glob.escape, sites))
        document = open_model(self.source)
        steps = apply_targets(document.model, replace(self.options, only=only))
        rewrites = tuple(rewrite for step in steps for rewrite in step.rewrites)
        selectable = dict.fromkeys(rewrite.site for rewrite in rewrites if rewrite.site in steps[-1].names)
        model = to_kind(document, steps[-1].model, self.source)
        return Converted(model, rewrites, tuple(selectable), steps[-1].unrounded, steps[-1].fractions)

    def fails(self, converted: Converted) -> bool:
        """Whether the quick check fails, on the inputs that showed the failure and on others like them."""
        result = protocol.check(
            self.source,
            converted.model,
            provider=self.provider,
            given=None if self.case is None else self.case.feeds,
            quick=True,
            control=None,
            changed_outputs=self.options.changeable,
            unrounded=converted.unrounded,
            fractions=converted.fractions,
            progress=self.options.progress,
        )
        return result.verdict == "fail"


@dataclass(frozen=True)
class Culprits:
    """The sites that fail together, if the failure shows in a trial at all, and how many trials were made.

    `minimal`: any one less passes, as far as it was tried.
    """

    sites: tuple[str, ...]
    minimal: bool
    trials: int


@dataclass
class _Trials:
    """Sets of sites that were tried, by what came of them; what is beyond the limit passes untried."""

    converter: Converter
    limit: int
    tried: dict[frozenset[str], bool] = field(default_factory=dict)
    skipped: bool = False

    def fails(self, sites: Sequence[str]) -> bool:
        key = frozenset(sites)
        if key not in self.tried and len(self.tried) >= self.limit:
            self.skipped = True
            return False
        if key not in self.tried:
            counted = f"{len(sites)} rewrite{'' if len(sites) == 1 else 's'}"
            self.converter.options.progress(f"bisect: trial {len(self.tried) + 1}, {counted}")
            self.tried[key] = self._try(sites)
        return self.tried[key]

    def _try(self, sites: Sequence[str]) -> bool:
        try:
            converted = self.converter.convert(sites)
        except NormswapError:  # these sites do not go without others
            return False
        return bool(converted.rewrites) and self.converter.fails(converted)


def find(converter: Converter, sites: Sequence[str], limit: int = TRIALS) -> Culprits:
    """The smallest set of `sites` that can be found with which the conversion fails."""
    trials = _Trials(converter, limit)
    found = smallest(sites, trials.fails) if sites and trials.fails(sites) else []
    return Culprits(tuple(found), bool(found) and not trials.skipped, len(trials.tried))
