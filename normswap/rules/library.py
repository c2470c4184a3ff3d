"""The rules in use: those that come with normswap, and before them those of a folder of the user's.

A rule of the user's is judged by its own example before it is used: a bad one is refused with file, line and column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from normswap.errors import InputRefused
from normswap.rules.read import Complaint, Definitions, Rule, RuleError, definitions, load, norms_of
from normswap.rules.verify import verify, verify_norm


@dataclass(frozen=True, eq=False)
class Library:
    """Rules in the order in which they are tried, and what the norms in them mean."""

    rules: tuple[Rule, ...]
    definitions: Definitions

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes that there are rules for."""
        return tuple(sorted({rule.runtime for rule in self.rules}))


@cache
def shipped() -> Library:
    """The rules that come with normswap."""
    return Library(load(), definitions())


def library(directory: Path | None = None) -> Library:
    """The rules that come with normswap; before them those of `directory`, with what its norms/ adds.

    Raises `RuleError` for a bad rule or norm in it, `InputRefused` where it is no such folder.
    """
    ours = shipped()
    if directory is None:
        return ours
    known = with_norms(ours.definitions, directory)
    theirs = load(directory) if (directory / "spell").is_dir() else ()
    for rule in theirs:
        for complaint in verify(rule, known):
            raise RuleError(complaint)
    return Library((*theirs, *ours.rules), known)


def with_norms(known: Definitions, directory: Path) -> Definitions:
    """`known` with the norms of `directory`/norms added.

    Raises `RuleError` for a bad one, and for one that there is already: what a norm means is not the user's to change.
    """
    if not directory.is_dir():
        raise InputRefused(f"{directory}: no such folder")
    if not any((directory / name).is_dir() for name in ("norms", "spell")):
        raise InputRefused(f"{directory}: no rules; they are files spell/<runtime>/*.onnxtxt and norms/*.onnxtxt")
    added = definitions(directory)
    result = {**known, **added}
    for path in sorted((directory / "norms").glob("*.onnxtxt")):
        for complaint in verify_norm(path, result):
            raise RuleError(complaint)
        taken = sorted({name for name, _ in norms_of(path)} & {name for name, _ in known})
        if taken:
            raise RuleError(Complaint(path, 1, 1, f"`{taken[0]}` is a norm of normswap's own"))
    return result
