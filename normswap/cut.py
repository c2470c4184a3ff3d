"""A minimum cut: which of many yes-or-no choices to make, when some cost by themselves and some pairs exclude.

Every key is a choice; those on the source's side are made. A requirement "a only if b" is an edge that cannot be cut.
Of all cheapest cuts the one with the fewest choices made is taken: ties do not move.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import networkx
from networkx.algorithms.flow import boykov_kolmogorov

SOURCE, SINK = "source", "sink"


@dataclass
class Choices:
    """The network under construction; keys are any hashables but `SOURCE` and `SINK`."""

    graph: networkx.DiGraph = field(default_factory=networkx.DiGraph)

    def gains(self, key: Hashable, price: int) -> None:
        """Not choosing `key` costs `price`."""
        self._edge(SOURCE, key, price)

    def costs(self, key: Hashable, price: int) -> None:
        """Choosing `key` costs `price`."""
        self._edge(key, SINK, price)

    def costs_without(self, key: Hashable, other: Hashable, price: int) -> None:
        """Choosing `key` but not `other` costs `price`."""
        self._edge(key, other, price)

    def requires(self, key: Hashable, other: Hashable) -> None:
        """`key` can be chosen only together with `other`."""
        self._unlimited(key, other)

    def forbid(self, key: Hashable) -> None:
        """`key` cannot be chosen."""
        self._unlimited(key, SINK)

    def _unlimited(self, start: Hashable, end: Hashable) -> None:
        """An edge without a capacity cannot be cut, whatever it could carry before."""
        self.graph.add_edge(start, end)
        self.graph[start][end].pop("capacity", None)

    def _edge(self, start: Hashable, end: Hashable, price: int) -> None:
        if price <= 0:
            return
        if self.graph.has_edge(start, end):
            if "capacity" in self.graph[start][end]:
                self.graph[start][end]["capacity"] += price
        else:
            self.graph.add_edge(start, end, capacity=price)

    def best(self) -> frozenset[Hashable]:
        """The keys to choose."""
        if SOURCE not in self.graph:
            return frozenset()
        if SINK not in self.graph:
            return frozenset(networkx.descendants(self.graph, SOURCE))
        residual = boykov_kolmogorov(self.graph, SOURCE, SINK)
        return frozenset(_reachable(residual, SOURCE)) - {SOURCE}


def _reachable(residual: networkx.DiGraph, start: Hashable) -> Iterable[Hashable]:
    seen, stack = {start}, [start]
    while stack:
        node = stack.pop()
        for end, edge in residual[node].items():
            if end not in seen and edge["flow"] < edge["capacity"]:
                seen.add(end)
                stack.append(end)
    return seen
