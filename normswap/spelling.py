"""How norms are to be written: which norms are written so already, which are not, and why one cannot be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from normswap.canonical import operator_of
from normswap.emit import Emitter
from normswap.facts import Facts
from normswap.ledger import Refusal
from normswap.norm import Kind, Norm
from normswap.operator_views import operator_kind
from normswap.raised import needed_opset, raise_norm, restore
from normswap.reference import ONNX_DOMAINS
from normswap.rules import Rule
from normswap.session import Session
from normswap.spell import choose

# Obstacles to moving that are none to writing the norm in another way.
HARMLESS = frozenset({"kind-not-moved"})


@dataclass(frozen=True)
class Spelling:
    """How norms are to be written: the rules of which runtimes may write them, and which norms are written so."""

    runtimes: tuple[str, ...]
    is_written: Callable[[Norm, Session], bool]

    def rules(self, session: Session) -> list[Rule]:
        """The rules to try, in this order."""
        return choose(session.library.rules, self.runtimes)


def norms_to_write(session: Session, spelling: Spelling) -> dict[str, Norm]:
    """By its site: every norm that is not written so; none of them shares nodes with another.

    The layout operators around a norm are a part of it only where they make it one of another kind.
    """
    found: dict[str, Norm] = {}
    taken: set[ir.Node] = set()
    for inner in (*session.norms, *session.named):
        norm = inner if inner.outer is None or inner.outer.kind == inner.kind else inner.outer
        if norm.parts.root_mean_square and taken.isdisjoint(norm.nodes) and not spelling.is_written(norm, session):
            found[norm.output.name or ""] = norm
            taken.update(norm.nodes)
    return found


# --- what is written so already --------------------------------------------------------------------------------------


def in_operators_of_onnx(norm: Norm, session: Session) -> bool:
    """Whether it is one operator that onnx has in the opset of the model."""
    node = norm.nodes[0]
    if len(norm.nodes) > 1 or node.domain not in ONNX_DOMAINS or _is_bundled(norm, session):
        return False
    return onnx.defs.has(node.op_type, session.facts.opset(node), "" if node.domain == "ai.onnx" else node.domain)


def in_primitives(norm: Norm, session: Session) -> bool:
    """Whether no operator of it is a norm by itself."""
    return not _is_bundled(norm, session) and all(operator_kind(node) is None for node in norm.nodes)


def in_operators_of(*runtimes: str, left: Collection[Kind] = ()) -> Callable[[Norm, Session], bool]:
    """Whether it is one operator, and one that a rule of the runtimes writes; unless a larger pattern takes it.

    Norms of the kinds in `left` are taken to be written well.
    """

    def is_written(norm: Norm, session: Session) -> bool:
        node, rules = norm.nodes[0], choose(session.library.rules, runtimes)
        written = {(item.domain, item.op_type) for rule in rules for item in rule.replace if len(rule.replace) == 1}
        if _is_bundled(norm, session) or norm.kind in left:
            return True
        if len(norm.nodes) > 1 or (node.domain, node.op_type) not in written:
            return False
        return not _taken_by([rule for rule in rules if rule.takes_more], norm, session)

    return is_written


def _is_bundled(norm: Norm, session: Session) -> bool:
    return any(norm.nodes[-1] in bundle.pieces for bundle in session.bundles)


def _taken_by(rules: Sequence[Rule], norm: Norm, session: Session) -> bool:
    if not rules or not operator_of(norm, session.facts):
        return False
    raised = raise_norm(Emitter.of(session.facts), norm)
    found = any(isinstance(needed_opset(rule, raised.core, session.facts), int) for rule in rules)
    restore(raised)
    return found


# --- what cannot be written -----------------------------------------------------------------------------------------


def obstacle_to(norm: Norm, session: Session) -> Refusal | None:
    """Why no rule could even be tried."""
    obstacle = norm.obstacle
    if obstacle is not None and obstacle.reason_id not in HARMLESS:
        return Refusal(norm.name, obstacle.reason_id, obstacle.reason)
    if any(function.graph is norm.nodes[0].graph for function in session.model.functions.values()):
        reason = f"{norm.kind} `{norm.name}` is inside a local function"
        return Refusal(norm.name, "local-function", reason)
    if not operator_of(norm, session.facts):
        return _refusal(norm, f"rules know no {norm.kind} {_described(norm, session.facts)}")
    return None


def unwritten(norm: Norm, spelling: Spelling, session: Session, why: str = "") -> Refusal:
    """What to say of a norm that no rule takes, and why if that is known."""
    operator, where = operator_of(norm, session.facts), " or ".join(spelling.runtimes)
    if not any(rule.norm == operator for rule in spelling.rules(session)):
        return _refusal(norm, f"there is no rule of {where} for {operator}")
    said = f"no rule of {where} writes {operator} {_described(norm, session.facts)}"
    return _refusal(norm, f"{said}; {why}" if why else said)


def _refusal(norm: Norm, why: str) -> Refusal:
    return Refusal(norm.name, "no-rule", f"{norm.kind} `{norm.name}`: {why}")


def _described(norm: Norm, facts: Facts) -> str:
    dtype = facts.dtype(norm.input)
    dims = "" if facts.dims(norm.input) is None else f" of a value of rank {len(facts.dims(norm.input) or ())}"
    groups = f" in {norm.groups} groups" if norm.groups > 1 else ""
    place = {"inside": "", "outside": " outside the root", "floor": " as a floor"}[norm.epsilon_place]
    axes = ", ".join(map(str, norm.axes))
    return f"over axes {axes}{dims}{groups}, in {dtype.name if dtype else '?'}, with ε = {norm.epsilon:g}{place}"
