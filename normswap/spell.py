"""Respell norms for a runtime: every `normswap.*` node becomes what a rule of the runtime writes for it.

The rules of the runtime are tried first, then those of `primitive`, which know every norm from opset 9 on. Each
replacement is run in float64 against the definition of the norm before it is put in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from normswap import reference, rules
from normswap.emit import Emitter
from normswap.facts import Facts
from normswap.learn import learn
from normswap.rules import Rule, RuleError
from normswap.rules.execute import difference
from normswap.rules.pattern import Match, find
from normswap.rules.read import NORMS, Definitions
from normswap.rules.replacement import Emitted, Inapplicable, emit, fits, substitute

# Largest relative difference between a replacement and the definition of the norm, both in float64.
TOLERANCE = 1e-9
FALLBACK = "primitive"
SEED = 4


class Unspelled(Exception):
    """A norm that no rule writes, or a rule that writes it wrongly: a bug in normswap or in its rules."""


@dataclass(frozen=True)
class Spelled:
    """One replacement: the node it was put in for, the rule, and the largest relative error of its proof."""

    site: str
    rule: str
    max_relative_error: float


def spell(
    model: ir.Model,
    facts: Facts | None = None,
    runtime: str = "onnx",
    from_rules: Sequence[Rule] | None = None,
    definitions: Definitions | None = None,
) -> list[Spelled]:
    """Replace the `normswap.*` nodes of `model`, in place, by what the rules of `runtime` write for them.

    Raises `Unspelled`, with the node's name, where no rule applies or a proof fails; a pinned opset is respected.
    """
    facts = learn(model) if facts is None else facts
    chosen = choose(rules.library().rules if from_rules is None else from_rules, (runtime, FALLBACK))
    definitions = rules.library().definitions if definitions is None else definitions
    fresh = Emitter.of(facts).name
    by_operator: dict[str, list[ir.Node]] = {}
    for node in _nodes(model):
        by_operator.setdefault(node.op_type, []).append(node)
    done = [
        spelled
        for rule in chosen
        for node in by_operator.get(rule.match.root.op_type, ())
        if (spelled := apply(rule, node, facts, definitions, fresh)) is not None
    ]
    for node in _nodes(model):
        if node.domain == NORMS:
            raise Unspelled(f"no rule of {runtime} or {FALLBACK} writes {node.op_type} `{node.name}`")
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        imports.pop(NORMS, None)
    return done


def choose(from_rules: Sequence[Rule], runtimes: Sequence[str]) -> list[Rule]:
    """The exact rules of one runtime after the other, each in the order given."""
    return [rule for name in dict.fromkeys(runtimes) for rule in from_rules if rule.runtime == name and rule.exact]


def apply(
    rule: Rule, node: ir.Node, facts: Facts, definitions: Definitions, fresh: Callable[[str], str]
) -> Spelled | None:
    """Apply `rule` where its root is `node`; None where it does not match or cannot be written for this opset or type.

    Raises `Unspelled` if the replacement does not compute the same.
    """
    if node.graph is None or not rule.covers(_opset(node, facts)):  # without a graph: already replaced
        return None
    match = find(rule.match, node, facts)
    if match is None or not fits(rule, match, facts):
        return None
    site = str(node.name or node.outputs[0].name)
    try:
        emitted = emit(rule, match, facts, site, fresh)
    except Inapplicable:
        return None
    error = proved(rule, match, emitted, facts, definitions, site)
    substitute(rule, match, emitted, facts)
    return Spelled(site, rule.name, error)


def proved(rule: Rule, match: Match, emitted: Emitted, facts: Facts, definitions: Definitions, site: str) -> float:
    """The largest relative error of a replacement that computes the same.

    Raises `Unspelled` for one that does not, or that cannot be run; `RuleError` where the rule is the user's own.
    """
    try:
        error = difference(rule, match, emitted, facts, definitions, SEED)
        wrong = "" if error <= TOLERANCE else f"computes something else: relative error {error:.1e}"
    except reference.Unexecutable as reason:
        wrong = f"could not be proved: {reason}"
    if wrong and not rule.path.is_relative_to(rules.rules_directory()):
        raise RuleError(rule.complaint(f"at `{site}`, `replace` {wrong}", "replace"))
    if wrong:
        raise Unspelled(f"`{site}`: rule {rule.name} {wrong}")
    return error


def _opset(node: ir.Node, facts: Facts) -> int:
    assert node.graph is not None
    return node.graph.opset_imports.get("") or facts.model.opset_imports.get("") or 1


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()
