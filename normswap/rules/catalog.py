"""The rules as an interface: what there is, where each is written, and what is wrong with a file or a folder."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from normswap.errors import InputRefused, UsageError
from normswap.rules.library import Library, shipped, with_norms
from normswap.rules.read import Complaint, Definitions, Rule, rules_directory
from normswap.rules.verify import verify_file

SUFFIX = ".onnxtxt"


@dataclass(frozen=True)
class RuleRow:
    """One rule as `rules list` shows it; `until_opset` None: up to the newest; no `types` or `ranks`: all."""

    name: str
    runtime: str
    norm: str
    since_opset: int
    until_opset: int | None
    exactness: str
    types: tuple[str, ...]
    ranks: tuple[int, ...]
    path: str


@dataclass(frozen=True)
class Examined:
    """One file, and what is wrong with it."""

    path: Path
    complaints: tuple[Complaint, ...]

    def to_json(self) -> dict[str, object]:
        """One item of the `normswap/rules-verify/1` object."""
        complaints = [{"line": item.line, "column": item.column, "message": item.message} for item in self.complaints]
        return {"path": str(self.path), "complaints": complaints}


def rows(library: Library) -> tuple[RuleRow, ...]:
    """The rules of a library, by runtime and norm, within these in the order in which they are tried."""
    return tuple(_row(rule) for rule in sorted(library.rules, key=lambda rule: (rule.runtime, rule.norm)))


def _row(rule: Rule) -> RuleRow:
    return RuleRow(
        name=rule.name,
        runtime=rule.runtime,
        norm=rule.norm,
        since_opset=rule.since_opset,
        until_opset=rule.until_opset,
        exactness="exact" if rule.exact else "approximate",
        types=tuple(sorted(item.name.lower() for item in rule.types)),
        ranks=tuple(sorted(rule.ranks)),
        path=str(rule.path),
    )


def list_json(library: Library) -> dict[str, object]:
    """The `normswap/rules/1` object."""
    return {"schema": "normswap/rules/1", "rules": [asdict(row) for row in rows(library)]}


def locate(name: str, library: Library, directory: Path | None = None) -> Path:
    """The file of the rule `name`, as `rules list` calls it, or of a norm of that name. Raises `UsageError`."""
    found = {rule.name: rule.path for rule in library.rules}
    found |= {f"{path.parent.name}/{path.stem}": path for path in found.values()}
    for folder in (rules_directory(), directory):
        if folder is not None:
            found |= {path.stem: path for path in (folder / "norms").glob(f"*{SUFFIX}")}
    if name not in found:
        near = difflib.get_close_matches(name, found, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "`normswap rules list` names them"
        raise UsageError(f"there is no rule or norm `{name}`: {hint}")
    return found[name]


def examine(places: Sequence[Path]) -> Iterator[Examined]:
    """Judge the rule files among `places` and in the folders among them, or else those of normswap.

    Raises `UsageError` for a place that is not there, `InputRefused` for one that cannot be read or holds no rules.
    """
    for place in places or (rules_directory(),):
        if not place.exists():
            raise UsageError(f"{place}: no such file or folder")
        files = sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place]
        if not files:
            raise InputRefused(f"{place}: no rules in this folder; they are files that end in {SUFFIX}")
        norms = _norms_of(place)
        for path in files:
            try:
                path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputRefused(f"{path}: cannot be read: {error}") from error
            yield Examined(path, tuple(verify_file(path, norms)))


def _norms_of(place: Path) -> Definitions:
    """What norms mean to the rules at `place`: ours, and those of its own norms/ where it is a folder of rules."""
    ours = shipped().definitions
    is_ours = place.resolve() == rules_directory().resolve()
    return with_norms(ours, place) if (place / "norms").is_dir() and not is_ours else ours
