"""Smaller sizes for a region with layout operators, whose operands name sizes: each of these is named anew.

An axis of x may be cut where nothing but operands looks at its size: no vector lies along it, and no number is its
inverse. The small sizes under the two bindings differ, so that what only happens to be the size of an axis, such as a
number of groups, is seen: a norm has one form under both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from normswap import reference
from normswap.facts import Facts
from normswap.reference import Array, Unexecutable
from normswap.regions import Region, Shape

# Axes that are longer than this are cut to primes that nothing else in the region has as its size.
LONG = 16
PRIMES = ((5, 11, 17, 23), (7, 13, 19, 29))
# Operators that name positions along an axis: the first 48 of 768 elements are all of a shorter one.
POSITIONED = frozenset({"Slice", "Split"})
# Of how many operators a shape operand is computed: exporters write a dozen for a Reshape, and none more than this.
MOST_STEPS = 64


@dataclass(frozen=True)
class Sizes:
    """The shape of x under one binding, and how the numbers that name its sizes are changed with it.

    `names` are the products of neighbouring axes before and after; `cut` those of all axes that were cut, and `rest`
    is the product of the others, which a part of may have been merged with them.
    """

    shape: Shape
    names: Mapping[int, int] = field(default_factory=dict)
    cut: tuple[int, int] = (1, 1)
    rest: int = 1

    def of(self, number: int) -> int:
        """What stands for a number in a shape."""
        if number in self.names or abs(number) <= LONG:
            return self.names.get(number, number)
        before, after = self.cut
        factor, left = divmod(number, before)
        return factor * after if before > 1 and not left and factor > 0 and self.rest % factor == 0 else number

    def named(self, array: Array) -> Array:
        """An array of integers with every size in it named anew."""
        return np.array([self.of(int(number)) for number in array.reshape(-1)], array.dtype).reshape(array.shape)


def smaller(region: Region, facts: Facts) -> Iterator[tuple[Sizes, Sizes]]:
    """Sizes to try in turn, under both bindings: all axes cut that may be, all but the channels, the free ones."""
    one, other = facts.shape(region.x, 0), facts.shape(region.x, 1)
    if one is None or other is None or any(node.op_type in POSITIONED for node in region.nodes):
        return
    read = [_looked_at(region, shape, binding, facts) for binding, shape in enumerate((one, other))]
    pairs = list(zip(one, other, strict=True))
    able = [axis for axis, (a, b) in enumerate(pairs) if min(a, b) > LONG and a not in read[0] and b not in read[1]]
    tried = set[tuple[int, ...]]()
    for axes in (able, [axis for axis in able if axis != 1], [axis for axis in able if len({*pairs[axis]}) > 1]):
        if axes and tuple(axes) not in tried:
            tried.add(tuple(axes))
            first, second = _cut(one, axes, read[0], PRIMES[0]), _cut(other, axes, read[1], PRIMES[1])
            if first is not None and second is not None:
                yield first, second


def _cut(shape: Shape, axes: list[int], read: set[int], primes: tuple[int, ...]) -> Sizes | None:
    """The shape with these axes cut; equal sizes stay equal, and no other axis may be as long as a cut one."""
    long = {shape[axis] for axis in axes}
    if any(size in long for axis, size in enumerate(shape) if axis not in axes):
        return None
    free = (prime for prime in primes if prime not in {*shape, *read})
    new = dict(zip(sorted(long), free, strict=False))
    if len(new) < len(long):
        return None
    cut = tuple(new.get(size, size) for size in shape)
    names: dict[int, int] = {}
    for first, last in itertools.combinations(range(len(shape) + 1), 2):
        names.setdefault(int(np.prod(shape[first:last])), int(np.prod(cut[first:last])))
    names.update(zip(shape, cut, strict=True))
    before, after = (int(np.prod([sizes[axis] for axis in axes])) for sizes in (shape, cut))
    return Sizes(cut, names, (before, after), int(np.prod(shape)) // before)


def _looked_at(region: Region, shape: Shape, binding: int, facts: Facts) -> set[int]:
    """The sizes that constants and attributes know of: those of vectors, and those that numbers are made of."""
    found = set[int]()
    for value in region.externals:
        dtype, own = facts.dtype(value), facts.shape(value, binding)
        if dtype is None or own is None or not dtype.is_floating_point():
            continue
        found.update(own)
        array = facts.constant(value) if not own or max(own) == 1 else None
        if array is not None and array.size == 1:
            found.update(_made_of(float(reference.promote(array).item()), array.dtype, shape))
    for node in region.nodes:
        for item in node.attributes.values():
            if item.type == ir.AttributeType.INTS:
                found.update(item.as_ints())
    return found


def _made_of(number: float, dtype: np.dtype[np.generic], shape: Shape) -> Iterator[int]:
    """The sizes of the axes whose product N the number knows: N, its inverse, its root, or N − 1 and N / (N − 1)."""
    step = 2 * float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    for length in range(1, len(shape) + 1):
        for sizes in itertools.combinations(shape, length):
            n = float(np.prod(sizes))
            known = (n, n**0.5, n - 1, n / (n - 1)) if n > LONG else ()
            if any(abs(abs(number) * form - 1) <= step or abs(abs(number) - form) <= step * form for form in known):
                yield from sizes


def external(value: ir.Value, sizes: Sizes, binding: int, facts: Facts) -> Array | None:
    """The array of a value from outside where x has these sizes; None where it does not follow from constants and x."""
    if not sizes.names:
        return facts.derived(value, binding)
    try:
        return _evaluated(value, sizes, binding, facts, {}, MOST_STEPS)
    except Unexecutable:
        return None


def _evaluated(
    value: ir.Value, sizes: Sizes, binding: int, facts: Facts, seen: dict[ir.Value, Array], steps: int
) -> Array:
    if value in seen:
        return seen[value]
    if steps == 0 or len(seen) > MOST_STEPS:
        raise Unexecutable(f"more than {MOST_STEPS} operators make a shape")
    node, array = value.producer(), facts.constant(value)
    if array is not None:
        seen[value] = sizes.named(array) if array.dtype.kind in "iu" else array
    elif node is None or facts.derived(value, binding) is None:
        raise Unexecutable(f"`{value.name}` does not follow from shapes")
    elif node.op_type in ("Shape", "Size") and node.inputs[0] is not None:
        whole = sizes.named(np.asarray(facts.shape(node.inputs[0], binding), np.int64))
        part = slice(reference.attribute(node, "start", 0), reference.attribute(node, "end", whole.size))
        seen[value] = whole[part] if node.op_type == "Shape" else np.asarray(whole.prod(), np.int64)
    else:
        inputs = [
            None if item is None else _evaluated(item, sizes, binding, facts, seen, steps - 1) for item in node.inputs
        ]
        outputs = reference.run(node, inputs, facts.opset(node))
        seen.update(zip(node.outputs, outputs, strict=False))
    return seen[value]
