"""How large the free dimensions of the inputs are: same name, same size, and sums of names added up.

Sizes are distinct primes where the model allows, so that a transposed or mixed-up axis shows. A model that demands
more (a multiple of 32, a height of 48, equal sizes it did not name) is found out by trying.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from normswap.check.interface import Dimension, Port

Sizes = Mapping[str, int]

SEQUENCES = (7, 5, 11, 13, 17, 19)
"""Sequence-like sizes of the first attempt, in order of appearance: odd, distinct, small."""
LARGER_SEQUENCES = (31, 23, 29, 37, 41, 43)
SPACES = (64, 96, 64)
"""Heights, widths and depths of images: distinct multiples of 32, the usual product of strides."""
FALLBACKS = (7, 1, 16, 32, 48, 64, 128, 224, 256, 320, 384, 512, 576, 640)
"""Sizes tried for all of them together when the model rejects the first attempt: small ones first, then common image
sizes and audio chunks."""


@dataclass(frozen=True)
class Symbol:
    """A free dimension: `kind` is batch, sequence or space; `leading`: it belongs to the model's first input."""

    name: str
    kind: str
    leading: bool


@dataclass(frozen=True)
class Binding:
    """One size per symbol, under a name for the report."""

    name: str
    sizes: tuple[tuple[str, int], ...]

    def shape(self, port: Port) -> tuple[int, ...]:
        """The sizes of an input's axes. Raises `KeyError` for a dimension that is not bound."""
        sizes = dict(self.sizes)
        if port.shape is None:  # as many axes as are bound
            return tuple(size for name, size in self.sizes if name.rpartition("[")[0] == port.name)
        return tuple(_size(port, axis, dimension, sizes) for axis, dimension in enumerate(port.shape))


def _size(port: Port, axis: int, dimension: Dimension, sizes: Sizes) -> int:
    """What is bound by position counts more than what is bound by name."""
    if (position := f"{port.name}[{axis}]") in sizes:
        return sizes[position]
    return dimension if isinstance(dimension, int) else evaluate(dimension or position, sizes)


def dimensions(port: Port) -> tuple[Dimension, ...]:
    """The shape; an input of unknown rank is taken for [batch, sequence], the commonest one."""
    return (None, None) if port.shape is None else port.shape


def _named(port: Port, axis: int, dimension: str | None) -> str:
    return f"{port.name}[{axis}]" if dimension is None else dimension


def symbols(ports: Sequence[Port]) -> tuple[Symbol, ...]:
    """The free dimensions of all inputs, each once, in order of appearance; expressions contribute their names."""
    found: dict[str, Symbol] = {}
    for position, port in enumerate(ports):
        shape = dimensions(port)
        for axis, dimension in enumerate(shape):
            if isinstance(dimension, int):
                continue
            text = _named(port, axis, dimension)
            for name in _atoms(text):
                kind = _kind(name, port, axis, len(shape)) if name == text else "sequence"
                found.setdefault(name, Symbol(name, kind, leading=position == 0))
    return tuple(symbol for symbol in found.values() if symbol.name not in _totals(found))


def _kind(name: str, port: Port, axis: int, rank: int) -> str:
    lower = name.lower()
    sequence_like = any(word in lower for word in ("seq", "past", "length", "cache"))
    if "batch" in lower or (axis == 0 and rank >= 2 and not sequence_like):
        return "batch"
    image = rank >= 4 and axis >= 2 and port.dtype is not None and port.dtype.is_floating_point()
    return "space" if image and not sequence_like else "sequence"


# --- expressions -----------------------------------------------------------------------------------------------------

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}
_FUNCTIONS: Mapping[str, Callable[[Sequence[int]], int]] = {"max": max, "min": min}


def _parse(text: str) -> ast.expr | None:
    """The expression, or None when the text is just a name that happens to contain other characters."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return tree if _supported(tree) else None


def _supported(tree: ast.expr) -> bool:
    match tree:
        case ast.Name():
            return True
        case ast.Constant(value=value):
            return isinstance(value, int)
        case ast.BinOp(left=left, op=op, right=right):
            return type(op) in _OPERATORS and _supported(left) and _supported(right)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return name.lower() in _FUNCTIONS and all(map(_supported, args))
    return False


def _atoms(text: str) -> Iterator[str]:
    tree = _parse(text)
    if tree is None:
        yield text
        return
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in functions)


def evaluate(text: str, sizes: Sizes) -> int:
    """The size that a dimension's name or expression stands for, at least 0."""
    if text in sizes:
        return sizes[text]
    if parts := _totals(sizes).get(text):
        return sum(sizes[part] for part in parts)
    tree = _parse(text)
    if tree is None or isinstance(tree, ast.Name):
        raise KeyError(text)
    return max(0, _value(tree, sizes))


def _value(tree: ast.expr, sizes: Sizes) -> int:
    match tree:
        case ast.Name(id=name):
            return evaluate(name, sizes)
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name.lower()]([_value(argument, sizes) for argument in args])
    raise KeyError(ast.unparse(tree))


def _totals(names: Mapping[str, object]) -> Mapping[str, tuple[str, str]]:
    """onnxruntime-genai writes the sum of two lengths as a name of its own."""
    parts = ("past_sequence_length", "sequence_length")
    return {"total_sequence_length": parts} if all(part in names for part in parts) else {}


# --- bindings --------------------------------------------------------------------------------------------------------


def attempts(free: Sequence[Symbol]) -> Iterator[Binding]:
    """Sizes to try, the most telling first."""
    if not free:
        yield Binding("fixed", ())
        return
    yield _distinct("odd", free, 2, SEQUENCES, 1)
    for size in FALLBACKS:
        for batch in (2, 1):
            yield _equal(f"all {size}", free, batch, size, others=size)
        # Two dimensions without names may have to agree: all but the first input's are a batch of one.
        yield _equal(f"first input {size}", free, 1, size, others=1)


def further(free: Sequence[Symbol], accepted: Binding) -> Iterator[Sequence[Binding]]:
    """Other sizes for a model that accepted `accepted`: ones, and larger; each with alternatives, best first."""
    if not free:
        return
    kinds = {symbol.name: symbol.kind for symbol in free}
    flexible = [name for name, kind in kinds.items() if kind != "batch"]

    def changed(name: str, change: Callable[[str, int], int]) -> Binding:
        return Binding(name, tuple((symbol, change(symbol, size)) for symbol, size in accepted.sizes))

    yield (
        changed("one", lambda symbol, size: size if kinds[symbol] == "space" else 1),
        changed("batch of one", lambda symbol, size: 1 if kinds[symbol] == "batch" else size),
    )
    yield (
        *([_distinct("larger", free, 3, LARGER_SEQUENCES, 2)] if accepted.name == "odd" else []),
        changed("larger", lambda symbol, size: 2 * size if symbol in flexible else size),
        changed("wider", lambda symbol, size: 2 * size if symbol in flexible[-1:] else size),
        changed("larger batch", lambda symbol, size: size + 1 if kinds[symbol] == "batch" else size),
    )


def _distinct(name: str, free: Sequence[Symbol], batch: int, sequences: Sequence[int], factor: int) -> Binding:
    counts = {"sequence": 0, "space": 0}
    sizes: list[tuple[str, int]] = []
    for symbol in free:
        if symbol.kind == "batch":
            sizes.append((symbol.name, batch))
            continue
        choices = sequences if symbol.kind == "sequence" else [factor * size for size in SPACES]
        sizes.append((symbol.name, choices[counts[symbol.kind] % len(choices)]))
        counts[symbol.kind] += 1
    return Binding(name, tuple(sizes))


def _equal(name: str, free: Sequence[Symbol], batch: int, size: int, *, others: int) -> Binding:
    return Binding(name, tuple((s.name, batch if s.kind == "batch" else size if s.leading else others) for s in free))
