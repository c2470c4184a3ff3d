"""What people read of a search for the cause of a failure: the rewrites, the values, and the reproducer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from normswap.terminal import INDENT, SHOWN, heading, line

if TYPE_CHECKING:
    from normswap.bisect.result import BisectResult
    from normswap.check.result import CheckResult


def show_cause(out: Console, result: CheckResult | None, *, verbose: bool) -> None:
    """Of a failed check its cause, or how to find it."""
    if result is None or result.verdict != "fail":
        return
    if result.bisect is None:
        line(out, "--bisect finds which rewrites break it, and the first value that diverges")
        return
    found = result.bisect
    heading(out, "cause")
    _show_sites(out, found, verbose=verbose)
    for note in found.notes:
        line(out, note)
    if not found.first:
        return
    line(out, f"the first value that diverges, in {found.arithmetic}: {_named(found.first, found)}")
    _list(out, "the last that agree", [_named(name, found) for name in found.agree], verbose=verbose)
    if found.differ:
        _list(out, "on the way these differ too, which they may", found.differ, verbose=verbose)
    if found.reproducer is not None:
        count = f"{found.nodes} node{'' if found.nodes == 1 else 's'}"
        line(out, f"a reproducer of {count} is in {found.reproducer}: its README.txt has the command")


def _show_sites(out: Console, found: BisectResult, *, verbose: bool) -> None:
    trials = f"{found.trials} trial{'' if found.trials == 1 else 's'}"
    if len(found.sites) == 1:
        line(out, f"one rewrite breaks it by itself, found in {trials}: {found.sites[0]}")
    elif found.sites:
        which = "none of which can be left out" if found.minimal else "the trials ran out before there were fewer"
        _list(out, f"{len(found.sites)} rewrites break it together, {which} ({trials})", found.sites, verbose=verbose)


def _list(out: Console, title: str, names: Sequence[str], *, verbose: bool) -> None:
    shown = names if verbose else names[:SHOWN]
    line(out, f"{title}:")
    for name in shown:
        line(out, name, indent=INDENT)
    if len(shown) < len(names):
        line(out, f"... and {len(names) - len(shown):,} more: --verbose lists them", indent=INDENT)


def _named(name: str, found: BisectResult) -> str:
    return f"{name} (its mean subtracted)" if name in found.centered else name
