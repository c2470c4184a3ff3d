"""Pieces inside of others: branches, loops, scans and local functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from tests.random_folds.draft import Draft, Unfit, Value, declared
from tests.random_folds.norms import norm
from tests.random_folds.pieces import Piece, require, same_shape, shuffled
from tests.random_folds.table import TABLE


def inner(g: Draft, v: Value, count: int = 2) -> Value:
    """A few pieces, inside a body."""
    for _ in range(g.random.randint(1, count)):
        for _ in range(4):
            piece = norm if g.maybe(0.4) else TABLE[g.random.choice(sorted(TABLE))]
            try:
                with g.attempt():
                    made = piece(g, v)
                    require(1 <= made.rank <= 5)
                    v = made
                    break
            except Unfit:
                continue
    return v


def _body(g: Draft, name: str, inputs: Sequence[str], lines: Sequence[str], outputs: Sequence[Value]) -> str:
    results = ", ".join(f"{declared('double', g.dims(value, 'u'))} {value.name}" for value in outputs)
    return f"{name} ({', '.join(inputs)}) => ({results}) {{ {' '.join(lines)} }}"


def branches(g: Draft, v: Value) -> Value:
    """An If, of which each branch captures v."""
    condition = g.input([], "bool")
    bodies, results = [], []
    for name in ("then_branch", "else_branch"):
        with g.within() as lines:
            made = inner(g, v)
            made = g.node("Identity", made) if made is v else made
            bodies.append(f"{name} = {_body(g, g.name('b'), [], [line.text for line in lines], [made])}")
            results.append(made)
    require(results[0].rank == results[1].rank)
    chosen = results[0 if bool(condition.arrays[0]) else 1]
    result = Value(g.name("v"), chosen.arrays)
    if results[0].sizes != results[1].sizes:
        differing = [a if a == b else None for a, b in zip(results[0].sizes, results[1].sizes, strict=True)]
        require(all(size is None or size == chosen.sizes[axis] for axis, size in enumerate(differing)))
        require(None not in differing)
    g.text_line([result], f"[{g.name('n')}] {result.name} = If ({condition.name}) <{', '.join(bodies)}>")
    return result


def loop(g: Draft, v: Value) -> Value:
    """A Loop that carries v, adds something of it to itself, and collects."""
    state = Value(g.name("h"), v.arrays)
    with g.within() as lines:
        g.values.append(state)
        made = inner(g, state, 3)
        made = g.node("Identity", made) if made is state or made is v else made
        require(same_shape(made, v))
        texts = [line.text for line in lines]
        count, going, on = g.name("k"), g.name("k"), g.name("k")
        texts.append(f"[{g.name('n')}] {on} = Identity ({going})")
        given = [f"int64 {count}", f"bool {going}", f"{declared('double', g.dims(v, 'u'))} {state.name}"]
        body = _body(g, g.name("b"), given, texts, [made]).replace("=> (", f"=> (bool {on}, ", 1)
    trips = g.integers(g.random.randint(1, 3))
    result = Value(g.name("v"), v.arrays)
    g.text_line([result], f"[{g.name('n')}] {result.name} = Loop ({trips.name}, , {v.name}) <body = {body}>")
    return result


def scan(g: Draft, v: Value) -> Value:
    """A Scan over the first axis of v, with a state that has the sizes of its rows."""
    require(v.rank >= 2)
    rows = Value(g.name("r"), (v.arrays[0][0], v.arrays[1][0]))
    state = Value(g.name("h"), rows.arrays)
    first = g.node("Gather", v, g.integers(0), axis=0)
    with g.within() as lines:
        g.values[:] = [rows, state]
        step = g.node("Add", *shuffled(g, [inner(g, state), inner(g, rows)]))
        require(same_shape(step, state))
        made = inner(g, step)
        made = g.node("Identity", made) if made is step else made
        given = [f"{declared('double', g.dims(rows, 'u'))} {name}" for name in (state.name, rows.name)]
        body = _body(g, g.name("b"), given, [line.text for line in lines], [step, made])
    results = [
        Value(g.name("v"), state.arrays),
        Value(g.name("v"), tuple(np.stack([m] * len(whole)) for m, whole in zip(made.arrays, v.arrays, strict=True))),  # type: ignore[arg-type]
    ]
    left = ", ".join(value.name for value in results)
    g.text_line(results, f"[{g.name('n')}] {left} = Scan ({first.name}, {v.name}) <num_scan_inputs = 1, body = {body}>")
    return g.random.choice(results)


def function(g: Draft, v: Value) -> Value:
    """A call of a local function, which reads nothing but its inputs."""
    with g.within() as lines:
        made = inner(g, v)
        require(made is not v)
        texts = [line.text for line in lines]
        own = {name for line in lines for name in line.outputs}
        require(made.name in own and not any("local." in text or "body = " in text for text in texts))
    given = dict.fromkeys(name for text in texts for name in re.findall(r"\w+", text[text.rindex("(") :]))
    inputs = ", ".join(name for name in given if name not in own)
    require(inputs)
    name, result = g.name("f"), Value(g.name("v"), made.arrays)
    imports = f'"" : {g.opset}' + (', "com.microsoft" : 1' if "com.microsoft" in "".join(texts) else "")
    body = "\n    ".join(texts)
    head = f'<domain: "local", opset_import: [{imports}]>'
    g.functions[name] = f"\n{head}\n{name} ({inputs}) => ({made.name}) {{\n    {body}\n}}"
    g.text_line([result], f"[{g.name('n')}] {result.name} = local.{name} ({inputs})")
    return result


BODIES: Mapping[str, Piece] = {"If": branches, "Loop": loop, "Scan": scan, "a function": function}
