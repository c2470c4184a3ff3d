"""Norms in the bodies of If, Loop and Scan, in local functions, and in recurrent cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from benchmarks.coverage.pieces import Site
from benchmarks.coverage.readers import SHAPE, plain_norm
from benchmarks.coverage.sketch import Feeds, Floats, Sketch
from benchmarks.coverage.spelling import Parts, Recipe, Spelling, Truths, core, finish
from benchmarks.coverage.truth import Truth

# Bodies hold no initializers of their own here: they capture them, or have nodes.
FORMS = ("initializer", "Constant")


def spellings() -> Iterator[Spelling]:
    """All of them."""
    for kind in ("LayerNorm", "RMSNorm"):
        for form in FORMS:
            yield Spelling(kind, "body", f"If+{form}", _in_if(kind, form), copies=3)
            yield Spelling(kind, "body", f"Loop+{form}", _in_loop(kind, form), since=9)
            yield Spelling(kind, "body", f"Scan+{form}", _in_scan(kind, form), since=9)
        yield Spelling(kind, "function", "called-once", _in_function(kind, calls=1), since=8, copies=3)
        yield Spelling(kind, "function", "called-twice", _in_function(kind, calls=2), since=8)
        yield Spelling(kind, "function", "gain-of-the-caller", _in_function(kind, calls=1, passed=True), since=8)
    yield Spelling("LayerNorm", "recurrent", "LSTM-in-Scan", _recurrent("Scan"), since=9, copies=3)
    yield Spelling("LayerNorm", "recurrent", "LSTM-in-Loop", _recurrent("Loop"), since=9)
    yield Spelling("LayerNorm", "recurrent", "LSTM-unrolled", _recurrent(""), copies=3)


# --- bodies ---------------------------------------------------------------------------------------------------------


def _in_if(kind: str, form: str) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        x, condition = s.input("x", SHAPE), s.input("condition", "", "bool")
        yes, no = s.body(form), s.body(form)
        put, truth = plain_norm(yes, x, kind)
        yes.output(put.output, SHAPE)
        no.output(no("Neg", x), SHAPE)
        y = s("If", condition, then_branch=yes, else_branch=no)
        s.formula = lambda feeds: [truth(feeds["x"]) if feeds["condition"] else -feeds["x"]]
        return finish(s, y, SHAPE, truth)

    return recipe


def _in_loop(kind: str, form: str) -> Recipe:
    """v ← norm(v + x), three times."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", SHAPE)
        body = s.body(form)
        body.input("i", "", "int64")
        body.input("go_in", "", "bool")
        v = body.input("v", SHAPE)
        put, truth = plain_norm(body, body("Add", v, x), kind)
        body.output(body("Identity", "go_in"), "", "bool")
        body.output(put.output, SHAPE)
        s.constants.append("bool go = {1}")
        y = s("Loop", s.ints(3), "go", x, body=body)

        def formula(feeds: Feeds) -> list[Floats]:
            value = np.asarray(feeds["x"], np.float64)
            for _ in range(3):
                value = truth(value + feeds["x"])
            return [value]

        s.formula = formula
        return finish(s, y, SHAPE, truth)

    return recipe


def _in_scan(kind: str, form: str) -> Recipe:
    """h ← norm(h + x[i]), where x[i] is one of B pieces."""

    def recipe(s: Sketch) -> Truths:
        x, start = s.input("x", "B,2,T,12"), s.input("start", "2,T,12")
        body = s.body(form)
        h, piece = body.input("h", "2,T,12"), body.input("piece", "2,T,12")
        put, truth = plain_norm(body, body("Add", h, piece), kind)
        body.output(put.output, "2,T,12")
        body.output(body("Identity", put.output), "2,T,12")
        state, each = s.several(2, "Scan", start, x, num_scan_inputs=1, body=body)
        s.output(state, "2,T,12")
        s.output(each, "B,2,T,12")

        def formula(feeds: Feeds) -> list[Floats]:
            states = [np.asarray(feeds["start"], np.float64)]
            for piece in feeds["x"]:
                states.append(truth(states[-1] + piece))
            return [states[-1], np.stack(states[1:])]

        s.formula = formula
        return (truth,)

    return recipe


def _in_function(kind: str, *, calls: int, passed: bool = False) -> Recipe:
    """A local function, reported once, however often it is called."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", SHAPE)
        body = s.body("Constant")
        body.outer = None
        gain = s.drawn("caller's gain", [12]) if passed else None
        put, truth = plain_norm(body, "v", kind, "no-affine" if passed else "gain-bias")
        output = body("Mul", put.output, "g") if passed else put.output
        s.functions.append(body.function("norm", ["v", "g"] if passed else ["v"], output))
        y = x
        for _ in range(calls):
            y = s("local.norm", y, *([gain.name] if gain else []))

        def formula(feeds: Feeds) -> list[Floats]:
            value = np.asarray(feeds["x"], np.float64)
            for _ in range(calls):
                value = truth(value) * (gain.values if gain else 1)
            return [value]

        s.formula = formula
        # what a caller passes is a constant to it, and known at run time only to the function
        return finish(s, y, SHAPE, replace(truth, any_gain=passed))

    return recipe


# --- LayerNorm within an LSTM ---------------------------------------------------------------------------------------

STEPS, WIDTH = 3, 4


def _recurrent(operator: str) -> Recipe:
    """Ba et al. 2016: the norms of both products, and of the cell; gates i, f, g, o."""

    def recipe(s: Sketch) -> Truths:
        x, h, c = s.input("x", f"{STEPS},B,6"), s.input("h", f"B,{WIDTH}"), s.input("c", f"B,{WIDTH}")
        inner = s.body() if operator else s
        truths: list[Truth] = []
        if operator == "Scan":
            h, c, piece = (inner.input(name, f"B,{width}") for name, width in (("hs", 4), ("cs", 4), ("piece", 6)))
        elif operator == "Loop":
            inner.input("i", "", "int64")
            inner.input("go_in", "", "bool")
            h, c = inner.input("hs", f"B,{WIDTH}"), inner.input("cs", f"B,{WIDTH}")
            piece = inner("Gather", x, "i", axis=0)
        weights = s.drawn("W", [6, 4 * WIDTH], mean=0.1), s.drawn("R", [WIDTH, 4 * WIDTH], mean=0.1)
        bias = s.drawn("b", [4 * WIDTH], mean=0.2)
        parameters = [
            (s.drawn(f"gain {n}", [w]), s.drawn(f"bias {n}", [w], mean=0.2)) for n, w in enumerate((16, 16, 4))
        ]

        def normed(value: str, number: int) -> str:
            site = Site(inner, f"B,{(16, 16, 4)[number]}")
            u, held = core(site, value, Parts(), centered=True, epsilon=1e-3)
            gain, shift = parameters[number]
            truths.append(Truth("LayerNorm", (1,), held, gain=gain.values, bias=shift.values))
            return inner("Add", inner("Mul", u, gain.name), shift.name)

        def step(piece: str, h: str, c: str) -> tuple[str, str]:
            total = inner(
                "Add",
                normed(inner("MatMul", piece, weights[0].name), 0),
                normed(inner("MatMul", h, weights[1].name), 1),
            )
            gates = inner("Add", total, bias.name)
            if s.opset < 13:
                i, f, g, o = inner.several(4, "Split", gates, axis=-1, split=[WIDTH] * 4)
            else:
                i, f, g, o = inner.several(4, "Split", gates, inner.ints([WIDTH] * 4), axis=-1)
            kept = inner("Mul", inner("Sigmoid", f), c)
            cell = inner("Add", kept, inner("Mul", inner("Sigmoid", i), inner("Tanh", g)))
            return inner("Mul", inner("Sigmoid", o), inner("Tanh", normed(cell, 2))), cell

        if operator:
            hidden, cell = step(piece, h, c)
            if operator == "Loop":
                inner.output(inner("Identity", "go_in"), "", "bool")
            inner.output(hidden, f"B,{WIDTH}")
            inner.output(cell, f"B,{WIDTH}")
            if operator == "Scan":
                results = s.several(2, "Scan", "h", "c", x, num_scan_inputs=1, body=inner)
            else:
                s.constants.append("bool go = {1}")
                results = s.several(2, "Loop", s.ints(STEPS), "go", "h", "c", body=inner)
            s.output(results[0], f"B,{WIDTH}")
        else:
            for number in range(STEPS):
                h, c = step(s("Gather", x, s.ints(number), axis=0), h, c)
            s.output(h, f"B,{WIDTH}")
        s.formula = _lstm(truths[:3], weights[0].values, weights[1].values, bias.values)
        return tuple(truths)

    return recipe


def _lstm(norms: list[Truth], w: Floats, r: Floats, bias: Floats) -> Callable[[Feeds], list[Floats]]:
    def sigmoid(v: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-v)))

    def formula(feeds: Feeds) -> list[Floats]:
        h, c = feeds["h"].astype(np.float64), feeds["c"].astype(np.float64)
        for piece in feeds["x"]:
            i, f, g, o = np.split(norms[0](piece @ w) + norms[1](h @ r) + bias, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(norms[2](c))
        return [h]

    return formula
