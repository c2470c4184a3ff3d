"""Norms that are told apart, and those that are not: an inspection in words, one family for norms that look the same.

A family whose words differ from those of most norms of its kind is an odd one out. Sizes are no oddity: networks widen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from normswap.ledger import Can, NodeRow, NormRow

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

# A family of more sizes than this is one line, with the smallest and the largest.
FEW_SIZES = 4
PLACES = {"inside": "", "outside": " outside the root", "floor": " as a floor"}
# A constant map has no root with an ε in it, and no usual form: it is named for what it is found as.
CONSTANT_MAPS = frozenset({"Affine", "SpectralNorm"})

# Reductions that do not look like a norm: the means before a classifier, of a squeeze-and-excitation.
PLAIN = frozenset({"not-a-norm", "center-only"})


@dataclass(frozen=True)
class Family:
    """Norms that look the same. `words` say how, by column; `usual` what most norms of their kind have instead."""

    rows: tuple[NormRow, ...]
    words: Mapping[str, str]
    usual: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The kind of all of them, with the variant."""
        row = self.rows[0]
        return f"{row.kind} ({row.variant})" if row.variant else row.kind

    @property
    def sizes(self) -> str:
        """The number of elements in a group; the smallest and the largest where they differ."""
        known = [row.size for row in self.rows if row.size is not None]
        if not known:
            return "dynamic"
        least, most = min(known), max(known)
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"

    @property
    def axes(self) -> str:
        """The axes as the model writes them, and the size; a scalar that scales everything has none."""
        return f"{self.words['axes']} ({self.sizes})" if self.words["axes"] else "scalar"


def families(rows: Sequence[NormRow], *, chains: bool = False) -> list[Family]:
    """The norms by what is said of them: kinds as they first appear, in each the largest family first.

    With `chains`, those that are spelled in different operators are told apart, too.
    """
    found = []
    for alike in by(rows, lambda row: row.kind).values():
        usual = _usual(alike)
        parts = by(alike, lambda row: (row.variant, *words(row).values(), _chain(row) if chains else ()))
        for part in (one for same in parts.values() for one in _by_size(same)):
            mine = words(part[0])
            others = {column: value for column, value in usual.items() if mine[column] != value}
            found.append(Family(tuple(part), mine, others))
    kinds = list(dict.fromkeys(row.kind for row in rows))
    return sorted(found, key=lambda family: (kinds.index(family.rows[0].kind), -len(family.rows)))


def words(row: NormRow) -> dict[str, str]:
    """What is said of a norm, by column, besides its kind and size."""
    return {
        "axes": ", ".join(map(str, row.axes if row.written_axes is None else row.written_axes)),
        "groups": f"{row.groups:,}" if row.groups > 1 else "",
        "epsilon": _epsilon(row),
        "affine": ", ".join(
            part if origin == "constant" else f"run-time {part}"
            for part, origin in (("gain", row.scale), ("bias", row.bias))
            if origin != "none"
        ),
        "spelled": _spelled(row),
    }


def _epsilon(row: NormRow) -> str:
    if not row.epsilon and row.kind in CONSTANT_MAPS:
        return ""
    return f"{row.epsilon:.3g}{PLACES.get(row.epsilon_place, '')}"


def _spelled(row: NormRow) -> str:
    count = len(row.nodes)
    if row.spelling != "operator" and not row.operator:
        return f"{row.spelling}, {count:,} node{'' if count == 1 else 's'}"
    usual = row.operator in ("", f"{row.kind}alization")
    return ("operator" if usual else row.operator) + (f", {count:,} nodes" if count > 1 else "")


def _chain(row: NormRow) -> tuple[str, ...]:
    return tuple(node.operator for node in row.region)


def _usual(rows: Sequence[NormRow]) -> dict[str, str]:
    """By column, what more than half of the norms of one kind have; nothing where no value is that frequent."""
    result = {}
    said = [words(row) for row in rows if row.kind not in CONSTANT_MAPS]
    for column in said[0] if said else ():
        ((value, count),) = Counter(one[column] for one in said).most_common(1)
        if 2 * count > len(said):
            result[column] = value
    return result


def _by_size(rows: Sequence[NormRow]) -> Iterable[Sequence[NormRow]]:
    sizes = by(rows, lambda row: row.size)
    return sizes.values() if len(sizes) <= FEW_SIZES else (rows,)


def converts(rows: Sequence[NormRow], target: str) -> str:
    """How many of the norms the target can convert; nothing where it is not about them."""
    answers: list[Can] = [row.can[target] for row in rows if target in row.can]
    exact = [answer for answer in answers if answer["exact"]]
    if not exact:
        reasons = {answer["reason_id"] for answer in answers}
        if reasons == {"already"}:
            return "already"
        return f"none ({reasons.pop()})" if len(reasons) == 1 else "none" if reasons else ""
    partly = sum(1 for answer in exact if answer["reason_id"])
    count = "all" if len(exact) == len(rows) else f"{len(exact):,} of {len(rows):,}"
    if not partly:
        return count
    return f"{count} in part" if partly == len(exact) else f"{count}, {partly:,} in part"


def node_line(node: NodeRow) -> str:
    """One node: its operator and name, what it reads, constants by their numbers, and what it makes."""
    read = (_operand(node, name) for name in node.inputs)
    made = ", ".join(name for name in node.outputs if name)
    settings = ", ".join(f"{name} = {words}" for name, words in node.attributes.items())
    return f"{node.operator} {node.name}: {', '.join(read)} → {made}" + (f" ({settings})" if settings else "")


def _operand(node: NodeRow, name: str) -> str:
    return f"{name} = {node.constants[name]}" if name in node.constants else name or "(none)"


def targets(rows: Iterable[NormRow]) -> list[str]:
    """The targets that say something of one of the norms, in their order."""
    return list(dict.fromkeys(target for row in rows for target in row.can))


def by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by their key, both in the order in which they first appear."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
