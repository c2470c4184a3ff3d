"""The ledger: what was done, to what, why, and how exact; the results of the public functions and their JSON.

Field names are those of DESIGN.md §8, on which other programs rely: fields may be added, never renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypedDict

Json = Mapping[str, object]


@dataclass(frozen=True)
class Proof:
    """How a rewrite was proved: the number of obligations, and the largest relative error among them (float64)."""

    obligations: int
    max_relative_error: float


@dataclass(frozen=True)
class Rewrite:
    """One change that was made: at which site, by which rule, and its proof. `detail` is a sentence for people."""

    site: str
    rule: str
    exact: bool
    proof: Proof
    detail: str = ""


@dataclass(frozen=True)
class Refusal:
    """One change that was not made, and why; `reason_id` is a key of `reasons.REASONS`."""

    site: str
    reason_id: str
    reason: str


class Can(TypedDict):
    """Whether a norm can become a target, and if not, why."""

    exact: bool
    reason_id: str
    reason: str


@dataclass(frozen=True)
class NormRow:
    """One norm as `inspect` reports it."""

    name: str
    kind: str
    axes: tuple[int, ...]
    size: int | None
    epsilon: float
    groups: int
    scale: str
    bias: str
    spelling: str
    nodes: tuple[str, ...]
    graph: str
    can: Mapping[str, Can] = field(default_factory=dict)
    variant: str = ""


@dataclass(frozen=True)
class UnrecognizedRow:
    """One reduction that is not a norm we know, as `inspect` reports it."""

    node: str
    op: str
    reason_id: str
    reason: str


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`."""

    model: Mapping[str, object]
    norms: tuple[NormRow, ...]
    unrecognized: tuple[UnrecognizedRow, ...]

    def to_json(self) -> dict[str, object]:
        """The `normswap/inspect/1` object."""
        return {"schema": "normswap/inspect/1", **asdict(self)}


@dataclass(frozen=True)
class Inventory:
    """What a model consists of: nodes, bytes of weights, and norms by kind."""

    nodes: int
    bytes: int
    norms: Mapping[str, int]
