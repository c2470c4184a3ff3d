"""One random graph: what is recognized in it, and what the judge says of that."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import onnx_ir as ir

from normswap import affine
from normswap.learn import learn
from normswap.norm import Norm
from normswap.recognize import recognize
from tests.random_non_norms.expressions import expression
from tests.random_non_norms.graph import Graph
from tests.random_non_norms.judge import Claim, NotRun, Untrue, judge
from tests.random_non_norms.mutations import mutated
from tests.random_non_norms.spellings import spelled

# A share of the graphs is left as it was spelled, and must be recognized; another is no norm from the beginning.
CONTROL, EXPRESSIONS = 0.1, 0.25


@dataclass
class Outcome:
    """Of one graph or many: how many there were, what they were made of, norms named by kind, reasons for others."""

    graphs: int = 0
    controls: int = 0
    recognized: int = 0  # of the controls
    elements: int = 0  # that the judge compared
    invalid: int = 0  # named in graphs that onnx's evaluator does not run
    made: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    missed: list[int] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Count another one in."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True)
class Case:
    """A graph, and what was done to it; nothing where it is a control."""

    graph: Graph
    made: tuple[str, ...]

    @property
    def is_control(self) -> bool:
        """Whether it is a norm, and nothing else."""
        return not self.made


def drawn(seed: int) -> Case:
    """The graph of a seed."""
    source = random.Random(seed)
    chance = source.random()
    if chance < EXPRESSIONS:
        graph = expression(source)
        return Case(graph, ("expression", *(mutated(graph, source) if source.random() < 0.3 else ())))
    graph = spelled(source)
    if chance < EXPRESSIONS + CONTROL:
        return Case(graph, ())
    return Case(graph, (graph.spelled, *mutated(graph, source)))


def examined(seed: int) -> Outcome:
    """What becomes of the graph of a seed. Raises `Untrue`, and what the program raises."""
    case = drawn(seed)
    model = ir.from_proto(case.graph.model())
    facts = learn(model)
    seen = recognize(model, facts)
    covered = {node for norm in (*seen.norms, *seen.named) for node in norm.nodes}
    affines = [found for found in affine.find(model.graph, "", facts, covered) if isinstance(found, Norm)]
    outcome = Outcome(1, made=Counter(case.made), reasons=Counter(item.reason_id for item in seen.unrecognized))
    for norm in (*seen.norms, *seen.named, *affines):
        for view in _views(norm):
            outcome.kinds[view.kind] += 1
            try:
                outcome.elements += judge(case.graph, claim_of(view), seed)
            except NotRun:
                outcome.invalid += 1
    if case.is_control:
        outcome.controls = 1
        outcome.recognized = int(
            any(view.output.name in case.graph.outputs for norm in (*seen.norms, *seen.named) for view in _views(norm))
        )
        outcome.missed = [] if outcome.recognized else [seed]
    return outcome


def _views(norm: Norm) -> Iterator[Norm]:
    yield norm
    if norm.outer is not None:
        yield from _views(norm.outer)


def claim_of(norm: Norm) -> Claim:
    """What a view says, as the judge reads it: an L2Norm of D elements is 1/√D times its root mean square."""
    length = norm.kind == "L2Norm"
    gain = np.asarray(1.0) if norm.gain is None else norm.gain.array
    return Claim(
        kind=norm.kind,
        axes=norm.axes,
        epsilon=norm.epsilon,
        place=norm.epsilon_place,
        groups=norm.groups,
        elements=norm.size if norm.kind == "PartialRMSNorm" else None,
        total=length and norm.size is None,
        input=norm.input.name or "",
        output=norm.output.name or "",
        gain=gain * norm.size**-0.5 if length and norm.size is not None else gain,
        bias=np.asarray(0.0) if norm.bias is None else norm.bias.array,
    )


__all__ = ["Case", "Outcome", "Untrue", "drawn", "examined"]
