"""Respell: every norm that is not written as a target wants it becomes what a rule of the runtime writes for it.

Nothing moves. A norm becomes one `normswap.*` node, which must compute what its region does, rules take such nodes,
each with its own proof, and what no rule took is exactly the nodes that it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from normswap.emit import Emitter
from normswap.facts import Facts
from normswap.goals import Sites
from normswap.graph_edits import remove_dead
from normswap.ledger import Proof, Refusal, Rewrite
from normswap.loadable import operators_run
from normswap.raised import Raised, needed_opset, opset_of, raise_norm, region_error, restore
from normswap.reference import Unexecutable
from normswap.rules import Rule
from normswap.rules.pattern import Match, find
from normswap.rules.read import Definitions
from normswap.rules.replacement import Emitted, Inapplicable, discard, emit, fits, substitute
from normswap.session import Session
from normswap.spell import TOLERANCE, Unspelled, proved
from normswap.spelling import Spelling, norms_to_write, obstacle_to, unwritten


def choose_sites(trial: Session, sites: Sites, spelling: Spelling) -> tuple[frozenset[str], tuple[int, ...]]:
    """The norms that a rule writes, and the opsets above the model's that this takes, the highest first."""
    rules, emitter = spelling.rules(trial), Emitter.of(trial.facts)
    chosen: set[str] = set()
    opsets: set[int] = set()
    for site, norm in norms_to_write(trial, spelling).items():
        if sites is not None and site not in sites:
            continue
        obstacle = obstacle_to(norm, trial)
        if obstacle is not None:
            trial.refused.append(obstacle)
            continue
        raised = raise_norm(emitter, norm)
        answers = [needed_opset(rule, raised.core, trial.facts) for rule in rules]
        restore(raised)
        needed = [answer for answer in answers if isinstance(answer, int)]
        if needed:
            chosen.add(site)
            opsets.add(min(needed))
        else:
            why = next((answer for answer in answers if answer), "")
            trial.refused.append(unwritten(norm, spelling, trial, str(why)))
    present = trial.model.opset_imports.get("", 1)
    return frozenset(chosen), tuple(sorted((opset for opset in opsets if opset > present), reverse=True))


@dataclass
class Kernels:
    """Whether onnxruntime has kernels for what a rule writes: asked once for each rule, type and rank."""

    facts: Facts
    answers: dict[tuple[object, ...], bool] = field(default_factory=dict)

    def run(self, rule: Rule, match: Match, emitted: Emitted, opset: int) -> bool:
        """Whether a model of the new nodes alone loads."""
        values = [match.values[value] for value in rule.match.function.inputs]
        key = (rule, opset, *((self.facts.dtype(value), self.facts.rank(value)) for value in values))
        if key not in self.answers:
            imports = {**rule.replace.opset_imports, "": opset}
            self.answers[key] = operators_run(emitted.nodes, self.facts, imports)
        return self.answers[key]


def respell(session: Session, sites: frozenset[str], spelling: Spelling) -> None:
    """Write the norms at `sites` by rules; those that no rule takes are refused and stay as they are."""
    facts, library, emitter = session.facts, session.library, Emitter.of(session.facts)
    pending: dict[Raised, float] = {}
    now: dict[ir.Value, ir.Value] = {}  # what stands for the outputs of norms, which other norms may read
    for site, norm in norms_to_write(session, spelling).items():
        obstacle = obstacle_to(norm, session) if site in sites else None
        if obstacle is not None:
            session.refused.append(obstacle)
        elif site in sites:
            raised = raise_norm(emitter, replace(norm, input=now.get(norm.input, norm.input)))
            error, why = _judged(raised, facts, library.definitions) if session.proving else (0.0, "")
            if why:
                restore(raised)
                session.refused.append(Refusal(norm.name, "proof-failed", f"{norm.kind} `{norm.name}`: {why}"))
            else:
                pending[raised] = error
                now[norm.output] = raised.nodes[-1].outputs[0]
    kernels, lacking, unproved = Kernels(facts), dict[Raised, str](), dict[Raised, str]()
    for rule in spelling.rules(session):
        for raised in [item for item in pending if item.core.op_type == rule.match.root.op_type]:
            try:
                found = _apply(rule, raised, session, emitter, kernels)
            except Unspelled as error:
                unproved[raised] = str(error)
                continue
            if isinstance(found, str):
                lacking[raised] = found or lacking.get(raised, "")
                continue
            proof = Proof(2, max(found, pending.pop(raised)))
            session.rewrites.append(Rewrite(raised.norm.name, f"spell/{rule.name}", True, proof))
            for node in reversed(raised.norm.nodes):
                remove_dead(node)
    for raised in pending:
        why = lacking.get(raised) or _too_old(raised, spelling, session)
        restore(raised)
        if raised in unproved:
            session.refused.append(Refusal(raised.norm.name, "proof-failed", unproved[raised]))
        else:
            session.refused.append(unwritten(raised.norm, spelling, session, why))


def _too_old(raised: Raised, spelling: Spelling, session: Session) -> str:
    """Which rule would write a norm in a newer opset."""
    present = opset_of(raised.core, session.facts)
    for rule in spelling.rules(session):
        needed = needed_opset(rule, raised.core, session.facts)
        if isinstance(needed, int) and needed > present:
            return f"{rule.name} needs opset {needed}, the model is at {present}"
    return ""


def _judged(raised: Raised, facts: Facts, definitions: Definitions) -> tuple[float, str]:
    """The error of what stands for a norm, and what is wrong with it."""
    try:
        error = region_error(raised, facts, definitions)
    except (Unexecutable, KeyError) as problem:
        return np.inf, f"could not be executed: {problem}"
    return error, "" if error <= TOLERANCE else f"its definition differs by {error:.1e}"


def _apply(rule: Rule, raised: Raised, session: Session, emitter: Emitter, kernels: Kernels) -> float | str:
    """Write a norm by a rule: the error of its proof, or why not, "" where it does not match. Raises `Unspelled`."""
    facts, core = session.facts, raised.core
    opset = opset_of(core, facts)
    match = find(rule.match, core, facts) if rule.covers(opset) else None
    if match is None or not fits(rule, match, facts):
        return ""
    site = str(core.name or core.outputs[0].name)
    try:
        emitted = emit(rule, match, facts, site, emitter.name)
    except (Inapplicable, Unexecutable) as reason:
        return str(reason)
    if not kernels.run(rule, match, emitted, opset):
        discard(emitted)
        return f"onnxruntime has no kernel for what {rule.name} writes"
    try:
        error = proved(rule, match, emitted, facts, session.library.definitions, site)
    except Unspelled:
        discard(emitted)
        raise
    substitute(rule, match, emitted, facts)
    return error
