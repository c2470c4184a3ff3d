"""Copies: regions that are alike are fingerprinted once, so that the 500th copy of a layer costs a look-up.

Regions are alike when they differ in the values of constant vectors alone. A vector that is only added, or multiplies
once, scales and shifts what was proved of the first copy; on the values of any other the outcome may rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from normswap import fingerprint, regions
from normswap.facts import Facts
from normswap.fingerprint import Match
from normswap.reference import ONNX_DOMAINS, Array
from normswap.regions import Region

# Where the quietest element of a gain is quieter than this, next to the loudest, what it scales was not proved: probes
# are judged by the loudest.
LOUD = 1e-3
# Linear in all inputs together, and in their first.
SUMMING = frozenset({"Add", "Cast", "Identity", "Mean", "Neg", "Sub", "Sum"})
LINEAR = (
    frozenset({"CastLike", "Dropout", "GlobalAveragePool", "ReduceMean", "ReduceSum"}) | regions.RIGID | regions.SIZED
)
PRODUCTS = frozenset({"MatMul", "Mul"})


@dataclass(eq=False)
class Copies:
    """The outcomes so far: by structure, by the vectors that an outcome rests on, by the values of these."""

    facts: Facts
    outcomes: dict[Hashable, dict[frozenset[int], dict[Hashable, Match | str]]] = field(default_factory=dict)

    def outcome(self, region: Region) -> Match | str:
        """What `fingerprint.match` says of the region, or said of one that is alike."""
        alike = self.outcomes.setdefault(regions.key(region, self.facts), {})
        for bound, known in alike.items():
            values = self._values(region, bound)
            if values in known:
                return known[values]
        found = fingerprint.match(region, self.facts)
        bound = frozenset(self._bound(region, found))
        alike.setdefault(bound, {})[self._values(region, bound)] = found
        return found

    def _values(self, region: Region, bound: frozenset[int]) -> Hashable:
        arrays = (_array(region.externals[number], self.facts) for number in sorted(bound))
        return tuple(None if a is None else hashlib.blake2b(a.tobytes()).digest() for a in arrays)

    def _bound(self, region: Region, found: Match | str) -> Iterator[int]:
        """The vectors, by number, whose values an outcome rests on."""
        vectors = [(n, value) for n, value in enumerate(region.externals) if regions.is_vector(value, self.facts)]
        if isinstance(found, Match):
            targets = [target for n, target in enumerate(region.targets(self.facts)) if n in found.targets]
            nodes = regions.needed_for(set(targets), region.nodes)
            whole = _is_loud(region, found, self.facts)
        else:
            nodes, whole = region.nodes, True
        for number, value in vectors:
            hides = isinstance(found, str) and not _has_no_zero(_array(value, self.facts))
            if not whole or hides or not scales_or_shifts(value, nodes):
                yield number


def _array(value: ir.Value, facts: Facts) -> Array | None:
    return facts.float64(value) if value in facts.moved else facts.constant(value)


def _has_no_zero(array: Array | None) -> bool:
    return array is not None and bool(array.all())


def _is_loud(region: Region, found: Match, facts: Facts) -> bool:
    """Whether no element of what was proved was hidden by its gain."""
    solved = fingerprint.parameters(region, found, facts)
    if solved is None:
        return False
    gains = (np.abs(affine.gain) for affine in solved[1].values())
    return all(bool((gain >= LOUD * gain.max()).all()) for gain in gains)


def scales_or_shifts(vector: ir.Value, nodes: tuple[ir.Node, ...]) -> bool:
    """Whether all that `nodes` make is affine in `vector`, or in its inverse: A(x) + L(x)·vector."""
    behind = {vector}
    readers = [node for node in nodes if vector in node.inputs]
    divides = len(readers) == 1 and readers[0].op_type == "Div" and readers[0].inputs[0] is not vector
    for node in nodes:
        read = [place for place, value in enumerate(node.inputs) if value in behind]
        if not read:
            continue
        known = node.domain in ONNX_DOMAINS
        summed = node.op_type in SUMMING or (node.op_type in LINEAR and read == [0])
        scaled = node.op_type in PRODUCTS and len(read) == 1
        divided = node.op_type == "Div" and (read == [0] or (divides and node is readers[0]))
        if not (known and (summed or scaled or divided)):
            return False
        behind.update(node.outputs)
    return True
