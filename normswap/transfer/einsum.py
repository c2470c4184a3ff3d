"""Products of two operands whose axes are named by letters: Einsum, and with it MatMul and Gemm.

pull    T(Σ x W) = Σ x T(W)                     a linear T, along letters that one operand brings alone
push    Σ (s·x + t) W = Σ x (s·W) + Σ t W       s along letters of the weight; along those that are kept, s passes
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from normswap import maps
from normswap.maps import UNTOUCHED, Deferred, Map
from normswap.reference import Floats
from normswap.transfer.step import Along, Blocked, Request, Step

Number = TypeVar("Number", np.int64, np.float64)

# Stands for an axis of size 1 along which an operand is broadcast: not the other operand's axis, so not its letter.
BROADCAST = "."
ELLIPSIS = "..."
TWO_MAPS = Blocked("does-not-commute", "a map that both centers and scales the input of a weight")


@dataclass(frozen=True)
class Product:
    """y = Σ a · b: a letter per axis of the operands, inputs 0 and 1, and of the output; what is not kept is summed."""

    request: Request
    operands: tuple[str, str]
    output: str

    @staticmethod
    def of(request: Request, left: str, right: str, output: str) -> Product | Blocked:
        """The product of inputs 0 and 1 with these letters; blocked where the ranks are not those."""
        dims = request.dims(0), request.dims(1)
        if dims[0] is None or dims[1] is None or (len(dims[0]), len(dims[1])) != (len(left), len(right)):
            return Blocked("unknown-shape", "a product of operands of unknown rank")
        if request.map.rank != len((left, right, output)[2 if request.at is None else request.at]):
            return Blocked("unknown-shape", "a product whose rank is not what was inferred")
        sizes = dict(zip(left, dims[0], strict=True)), dict(zip(right, dims[1], strict=True))

        def named(term: str, own: int) -> str:
            broadcast = (sizes[own][letter] == 1 and sizes[1 - own].get(letter, 1) != 1 for letter in term)
            return "".join(BROADCAST if alone else letter for letter, alone in zip(term, broadcast, strict=True))

        return Product(request, (named(left, 0), named(right, 1)), output)

    def sizes(self, index: int) -> dict[str, int | None]:
        """The static size of every letter of an operand, None for a free one."""
        return dict(zip(self.operands[index], self.request.dims(index) or (), strict=True))

    def before(self, a_map: Map) -> tuple[int, Map] | Blocked:
        """The operand that takes a linear map wanted on the output, a constant one first, and its map there."""
        for index in sorted((0, 1), key=lambda index: not self.request.is_constant(index)):
            own, other = set(self.operands[index]), set(self.operands[1 - index])
            centered, scaled = _looks_at(a_map, self.output)
            # A mean along a letter of both operands is no product of means; a factor may go to either.
            if centered <= own - other and scaled <= own:
                return index, relabelled(a_map, self.output, self.operands[index])
        return Blocked("does-not-commute", "a product, along axes that no operand brings alone")

    def behind(self, at: int, a_map: Map) -> tuple[Map | None, Map] | Blocked:
        """What a linear map on operand `at` makes of the other operand, a constant, and of the output."""
        own, other, kept = set(self.operands[at]), set(self.operands[1 - at]), set(self.output)
        if a_map.is_identity:
            return None, maps.identity(len(self.output))
        centered, scaled = _looks_at(a_map, self.operands[at])
        if self.request.is_constant(1 - at) and centered <= (own & other) - kept and scaled <= own & other:
            # Σ s·C(x)·W = Σ x·C(s·W): a map of W where s and C commute
            if centered & scaled:
                return TWO_MAPS
            return relabelled(a_map, self.operands[at], self.operands[1 - at]), maps.identity(len(self.output))
        if centered <= (own & kept) - other and scaled <= own & kept:
            return None, relabelled(a_map, self.operands[at], self.output)
        return Blocked("does-not-commute", "a product, along axes that the weight cannot take")

    def shift(self, at: int, factor: float = 1.0) -> Deferred | Blocked:
        """factor · Σ t W: what the shift t of operand `at` adds to the output."""
        request, t, weight = self.request, self.request.map, self.request.value(1 - at)
        if weight is None or not request.is_constant(1 - at):
            return Blocked("no-bias", "a product of two activations, which has no bias to shift")
        own, other = self.operands[at], self.operands[1 - at]
        theirs = self.sizes(1 - at)
        # A letter that is summed over and that the weight lacks multiplies t by its size.
        sums = {letter: size for letter, size in self.sizes(at).items() if letter not in other + self.output}
        if None in sums.values():
            return Blocked("unknown-shape", "a sum over an axis whose size is not known")
        wide = {
            letter: max(size, theirs.get(letter) or sums.get(letter) or 1)
            for letter, size in zip(own, t.shift.shape, strict=True)
            if letter != BROADCAST
        }
        equation = f"{own},{other}->{self.output}".replace(BROADCAST, "")

        def product() -> Floats:
            offset = np.broadcast_to(_lettered(t.offset(), own), tuple(wide.values()))
            result: Floats = np.einsum(equation, offset, _lettered(request.facts.float64(weight), other), optimize=True)
            return factor * result

        return Deferred(tuple(wide.get(letter) or theirs.get(letter) or 1 for letter in self.output), product)

    def cut(self, kept: Collection[str], more: Mapping[int, str] | None = None) -> list[tuple[Along, ...]]:
        """For proofs: every letter that is not in `kept`, on all inputs that have it; `more` names those of others."""
        terms = {**dict(enumerate(self.operands)), **(more or {})}
        return [
            tuple(Along(index, term.index(letter)) for index, term in terms.items() if letter in term)
            for letter in dict.fromkeys("".join(terms.values()))
            if letter not in kept and letter != BROADCAST
        ]


def relabelled(a_map: Map, source: str, target: str) -> Map:
    """The linear part of a map on the axes `source`, for the axes `target`, which have all letters it looks at."""
    group = _turned(a_map.group, source, target)
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    named = first.astype(np.int64)[inverse].reshape(group.shape)  # by the smallest element, as groups always are
    scale = _turned(a_map.scale, source, target)
    return Map(np.where(group == UNTOUCHED, UNTOUCHED, named), scale, np.zeros((1,) * len(target)))


def _turned(array: npt.NDArray[Number], source: str, target: str) -> npt.NDArray[Number]:
    """An array with the axes `source` as one with the axes `target`; an axis that it lacks has size 1."""
    sizes = dict(zip(source, array.shape, strict=True))
    shared = [letter for letter in source if letter in target and letter != BROADCAST]
    order = sorted(range(len(shared)), key=lambda place: target.index(shared[place]))
    narrow = array.reshape([sizes[letter] for letter in shared]).transpose(order)
    return narrow.reshape([sizes[letter] if letter in shared else 1 for letter in target])


def _lettered(array: Floats, term: str) -> Floats:
    """An array without the axes that have no letter."""
    return array.reshape([size for letter, size in zip(term, array.shape, strict=True) if letter != BROADCAST])


def _looks_at(a_map: Map, term: str) -> tuple[set[str], set[str]]:
    """The letters along which a map centers, and those along which it scales."""
    centered, scaled = (
        {letter for letter, size in zip(term, array.shape, strict=True) if size > 1}
        for array in (a_map.group, a_map.scale)
    )
    return centered, scaled


def passed(product: Product | Blocked) -> Step | Blocked:
    """A product without a bias, in both directions: MatMul and Einsum."""
    if isinstance(product, Blocked):
        return product
    request, a_map, at = product.request, product.request.map, product.request.at
    linear = maps.linear(a_map)
    if at is None:
        if a_map.shifts:
            return Blocked("no-bias", "a product without a bias to shift")
        found = product.before(linear)
        if isinstance(found, Blocked):
            return found
        inputs, constants = placed(request, *found)
        return Step(inputs, {0: a_map}, constants, cut=product.cut(seen(a_map, product.output)))
    answer = product.behind(at, linear)
    if isinstance(answer, Blocked):
        return answer
    on_weight, out = answer
    if a_map.shifts:
        shift = product.shift(at)
        if isinstance(shift, Blocked):
            return shift
        out = Map(out.group, out.scale, shift)
    return Step(
        {at: a_map},
        {} if out.is_identity else {0: out},
        {} if on_weight is None else {1 - at: on_weight},
        cut=product.cut(whole(product, at, labelled=True)),
    )


def placed(request: Request, index: int, a_map: Map) -> tuple[dict[int, Map], dict[int, Map]]:
    """A map on input `index`, among the labels or the constants; the identity is neither."""
    if a_map.is_identity:
        return {}, {}
    return ({}, {index: a_map}) if request.is_constant(index) else ({index: a_map}, {})


def seen(a_map: Map, term: str) -> set[str]:
    """The letters of the axes that a map looks at."""
    return {term[axis] for axis in a_map.axes()}


def whole(product: Product, at: int, *, labelled: bool) -> set[str]:
    """The letters that no proof of a push may cut: those that the map looks at, and those of a sum that makes a shift.

    Where the output is `labelled` with that shift, those of the weight too.
    """
    own, a_map = product.operands[at], product.request.map
    summed = set(own) - set(product.output) if a_map.shifts else set()
    return seen(a_map, own) | summed | (set(product.operands[1 - at]) if a_map.shifts and labelled else set())


def einsum(request: Request) -> Step | Blocked:
    """Einsum of two operands, whose letters are each kept or summed over."""
    terms = _terms(request)
    return terms if isinstance(terms, Blocked) else passed(Product.of(request, *terms))


def _terms(request: Request) -> tuple[str, str, str] | Blocked:
    """The letters of both operands and of the output, an ellipsis written out."""
    equation = request.node.attributes["equation"].as_string().replace(" ", "")
    given, arrow, output = equation.partition("->")
    dims = [request.dims(index) for index in range(len(request.node.inputs))]
    if len(dims) != 2 or given.count(",") != 1:
        return Blocked("does-not-commute", "an Einsum of other than two operands")
    unused = "".join(letter for letter in string.ascii_letters if letter not in equation)
    terms, widest = [], ""
    for term, known in zip(given.split(","), dims, strict=True):
        width = len(known or ()) - len(term.replace(ELLIPSIS, ""))
        if known is None or width < 0 or (width > 0 and ELLIPSIS not in term):
            return Blocked("unknown-shape", "an Einsum of operands of unknown rank")
        stands_for = unused[-width:] if width else ""  # aligned at the last axis
        widest = max(widest, stands_for, key=len)
        terms.append(term.replace(ELLIPSIS, stands_for))
    if not arrow:
        written = given.replace(",", "").replace(ELLIPSIS, "")
        output = ELLIPSIS + "".join(sorted(letter for letter in written if written.count(letter) == 1))
    elif widest and ELLIPSIS not in output:
        return Blocked("does-not-commute", "an Einsum that sums over an ellipsis")
    terms.append(output.replace(ELLIPSIS, widest))
    if any(len(set(term)) != len(term) for term in terms):
        return Blocked("does-not-commute", "an Einsum along a diagonal")
    return terms[0], terms[1], terms[2]
