"""What the planner looks at: goals, the norms that own nodes, and who keeps a value in its old form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from normswap import maps
from normswap.facts import Facts
from normswap.maps import Map
from normswap.norm import Norm

Direction = Literal["pull", "push"]


@dataclass(frozen=True, eq=False)
class Goal:
    """A part of a norm that wants to move: the map, the value it is pulled onto or pushed off, and what that saves.

    `remaining` is the norm without the part. `site` is the name of the norm's output, which no rewrite changes.
    """

    norm: Norm
    value: ir.Value
    map: Map
    price: int
    remaining: Norm
    site: str


@dataclass(frozen=True, eq=False)
class Foreign:
    """A reader that keeps a value in its old form."""

    value: ir.Value
    reason_id: str
    reader: str


@dataclass(frozen=True, eq=False)
class Scene:
    """What the planner looks at: the facts, every norm in the model, and outputs that may change.

    With `allow_larger`, the bytes of new constants cost nothing; without `allow_explicit`, everything must be absorbed.
    `owners` are walls: nodes of norms that stand whole. Norms whose outputs are `untouched` take nothing in, either.
    """

    facts: Facts
    norms: Sequence[Norm]
    changeable: frozenset[str] = frozenset()
    allow_larger: bool = False
    allow_explicit: bool = True
    untouched: frozenset[str] = frozenset()
    owners: Mapping[ir.Node, Norm] = field(default_factory=dict)

    @staticmethod
    def of(
        facts: Facts,
        norms: Sequence[Norm],
        changeable: Iterable[str] = (),
        *,
        allow_larger: bool = False,
        allow_explicit: bool = True,
        untouched: frozenset[str] = frozenset(),
        regions: Sequence[Regions] | None = None,
    ) -> Scene:
        """The scene, with every node that belongs to a norm's region alone mapped to that norm.

        `regions` are the nodes of `norms`, where they are known already.
        """
        owners = Owners((nodes_of(norms),) if regions is None else regions)
        return Scene(facts, norms, frozenset(changeable), allow_larger, allow_explicit, untouched, owners)


Regions = Mapping[ir.Node, Sequence[Norm]]


def nodes_of(norms: Iterable[Norm]) -> Regions:
    """The norms by the nodes of their regions."""
    found: dict[ir.Node, list[Norm]] = {}
    for norm in norms:
        for node in norm.nodes:
            found.setdefault(node, []).append(norm)
    return found


@dataclass(frozen=True, eq=False)
class Owners(Mapping[ir.Node, Norm]):
    """The norms by the nodes that serve them alone, found when somebody asks: a plan meets few of all norms."""

    regions: Sequence[Regions]
    private: dict[Norm, frozenset[ir.Node]] = field(default_factory=dict)

    def __getitem__(self, node: ir.Node) -> Norm:
        for nodes in reversed(self.regions):
            for norm in reversed(nodes.get(node, ())):
                if norm not in self.private:
                    self.private[norm] = private_nodes(norm)
                if node in self.private[norm]:
                    return norm
        raise KeyError(node)

    def __iter__(self) -> Iterator[ir.Node]:
        return iter({node for nodes in self.regions for node in nodes if node in self})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def private_nodes(norm: Norm) -> frozenset[ir.Node]:
    """The nodes of a norm's region that serve nothing else: removed together with it."""
    private: set[ir.Node] = set()
    for node in reversed(norm.nodes):
        alone = all(
            value is norm.output or (not value.is_graph_output() and all(use.node in private for use in value.uses()))
            for value in node.outputs
        )
        if alone:
            private.add(node)
    return frozenset(private)


def center_of(norm: Norm, facts: Facts) -> Map | None:
    """The Center of a norm as a map on its input; None where it has none, or its size is 1 or not static."""
    dims = facts.dims(norm.input)
    if not norm.parts.center or dims is None:
        return None
    sizes = {axis: dims[axis] for axis in norm.axes}
    if any(size is None for size in sizes.values()) or norm.size == 1:
        return None
    return maps.centering(len(dims), {axis: int(size or 0) for axis, size in sizes.items()})
