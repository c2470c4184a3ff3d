"""Inputs that can see: families of data, each of which shows a kind of error that the others hide.

Zero-mean data cannot see a missing mean subtraction, ids of 0 and 1 cannot see the rest of a table, equal rows and
zeros reach what only degenerate statistics reach. Every draw has a fixed seed, which the report lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from normswap.check.interface import Port
from normswap.check.ranges import Ids, Lengths, Mask, Numbers, OneOf, Positions, Role
from normswap.check.sizes import Binding
from normswap.reference import Array

Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[np.float64]]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Family:
    """How floats, ids and masks look. `widest`: the largest magnitude of floats, to be kept inside the dtype."""

    name: str
    floats: Draw
    ids: str = "uniform"  # or repeated, zero
    mask: str = "full"  # or right, left, one: padding to the right, to the left, all but one token
    widest: float = 16.0
    needs_floats: bool = False


def _normal(mean: float) -> Draw:
    return lambda generator, shape: mean + generator.standard_normal(shape)


def _constant_rows(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    rows = generator.standard_normal((*shape[:-1], 1)) if shape else generator.standard_normal(shape)
    return np.broadcast_to(rows, shape).copy()


def _sparse(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.where(generator.uniform(size=shape) < 0.1, 10.0 * generator.standard_normal(shape), 0.0)


LARGE_MEAN, HUGE_MEAN = 100.0, 1e4
"""Means that an uncentred norm cannot hide; the square of the first still fits float16."""

QUICK = (
    Family("shifted mean", _normal(1.0)),
    Family("large mean", _normal(LARGE_MEAN), mask="right", widest=2 * LARGE_MEAN),
)
FULL = (
    *QUICK,
    Family("zero mean", _normal(0.0), mask="left"),
    Family("constant rows", _constant_rows, ids="repeated"),
    Family("zeros", lambda generator, shape: np.zeros(shape), ids="zero", mask="one"),
    Family("huge mean", _normal(HUGE_MEAN), widest=HUGE_MEAN**2, needs_floats=True),
    Family("sparse", _sparse, widest=100.0, needs_floats=True),
)

MASKED = -1e4  # added to the logits of what is not attended to; float16 holds it


@dataclass(frozen=True)
class Case:
    """One set of inputs. `seed` is None for the user's data; `expected` are outputs that came with it."""

    family: str
    seed: int | None
    binding: Binding
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array] = field(default_factory=lambda: MappingProxyType({}))


def families(ports: Sequence[Port], roles: Sequence[Role], *, quick: bool) -> tuple[Family, ...]:
    """The families that say something about these inputs and that their dtypes can hold."""
    floats = [
        port.dtype
        for port, role in zip(ports, roles, strict=True)
        if port.dtype is not None and port.dtype.is_floating_point() and isinstance(role, Numbers)
    ]
    largest = min((float(ir_max(dtype)) for dtype in floats), default=np.inf)
    return tuple(f for f in (QUICK if quick else FULL) if (floats or not f.needs_floats) and f.widest < largest)


def ir_max(dtype: ir.DataType) -> float:
    """The largest finite number of a float type."""
    return float(dtype.max)


def synthesize(ports: Sequence[Port], roles: Sequence[Role], binding: Binding, family: Family, seed: int) -> Case:
    """Draw one set of inputs."""
    generator = np.random.default_rng(seed)
    feeds = {
        port.name: _draw(port, role, binding.shape(port), binding, family, generator)
        for port, role in zip(ports, roles, strict=True)
    }
    return Case(family.name, seed, binding, feeds)


def _draw(
    port: Port, role: Role, shape: tuple[int, ...], binding: Binding, family: Family, generator: np.random.Generator
) -> Array:
    dtype = port.dtype or ir.DataType.FLOAT
    if dtype == ir.DataType.STRING:
        return np.full(shape, "a", dtype=object)
    match role:
        case Mask(additive=additive):
            attend = _mask(family.mask, shape, generator)
            return (np.where(attend, 0.0, MASKED) if additive else attend).astype(dtype.numpy())
        case Ids(size=size):
            return _ids(family.ids, size, shape, generator).astype(dtype.numpy())
        case Positions(size=size):
            return _positions(family.ids, size, shape, generator).astype(dtype.numpy())
        case OneOf(values=values):
            return generator.choice(np.array(values), shape).astype(dtype.numpy())
        case Lengths():
            longest = min((size for name, size in binding.sizes if "batch" not in name.lower()), default=1)
            return generator.integers(1, max(1, longest), shape, endpoint=True).astype(dtype.numpy())
        case Numbers(size=size):
            if dtype.is_floating_point():
                return family.floats(generator, shape).astype(dtype.numpy())
            return _ids(family.ids, size, shape, generator).astype(dtype.numpy())


def _ids(style: str, size: int, shape: tuple[int, ...], generator: np.random.Generator) -> Integers:
    if style == "zero":
        return np.zeros(shape, np.int64)
    if style == "repeated":
        return np.full(shape, generator.integers(0, size), np.int64)
    return generator.integers(0, size, shape)


def _positions(style: str, size: int | None, shape: tuple[int, ...], generator: np.random.Generator) -> Integers:
    """Consecutive, from 0 or from a random row of the table; families with degenerate ids have them degenerate too."""
    length = shape[-1] if shape else 1
    if style != "uniform":
        return _ids(style, size or length, shape, generator)
    start = 0 if size is None else generator.integers(0, max(1, size - length + 1))
    consecutive = np.arange(start, start + length)
    if size is not None:
        consecutive %= size
    return np.broadcast_to(consecutive if shape else consecutive[0], shape).astype(np.int64)


def _mask(style: str, shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """True to attend. Every row attends to something; from rank 3 on the last two axes are (query, key)."""
    if not shape or style == "full":
        return np.ones(shape, bool)
    length = shape[-1]
    if style == "one":
        kept = np.ones((*shape[:-1], 1), np.int64)
    else:
        kept = generator.integers(1, max(1, length), (*shape[:-1], 1), endpoint=True)
    position = np.arange(length)
    return position >= length - kept if style == "left" else position < kept
