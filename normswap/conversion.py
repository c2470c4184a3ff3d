"""Apply one target to a model: try, choose, then do and prove only what was chosen.

The trial runs on a copy, without proofs, and finds out which norms convert. The second run does only that, on another
copy whose opset may have been raised, with every step proved; where onnxruntime does not load its result, it is run
once more in the opset the model had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

import onnx_ir as ir

from normswap import regroup
from normswap.emit import NotFinite
from normswap.errors import UsageError
from normswap.ledger import Inventory, Refusal, Rewrite
from normswap.norm import Norm
from normswap.reference import Floats
from normswap.session import Session
from normswap.targets import TARGETS, Selection, Target
from normswap.views import label, operator_kind


@dataclass(frozen=True)
class Options:
    """What the user asked for: the opset, shell patterns of norm names, outputs that may change."""

    opset: int | Literal["auto"]
    only: Sequence[str]
    exclude: Sequence[str]
    changeable: frozenset[str]
    progress: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Applied:
    """A model after a target, and what was done; `unrounded` computes its new weights in float64, by name."""

    model: ir.Model
    before: Inventory
    after: Inventory
    rewrites: tuple[Rewrite, ...] = ()
    refused: tuple[Refusal, ...] = ()
    candidates: int = 0
    unrounded: Mapping[str, Callable[[], Floats]] = field(default_factory=dict)

    @staticmethod
    def nothing(model: ir.Model) -> Applied:
        """The model before any target."""
        empty = inventory(model, ())
        return Applied(model, empty, empty)


def apply_target(name: str, model: ir.Model, options: Options) -> Applied:
    """`model` after the target `name`, which is `model` itself where nothing could be done.

    Raises `UsageError` if a pinned opset cannot be reached without a loss.
    """
    target = TARGETS[name]
    options.progress(f"{name}: looking for norms")
    trial = Session.of(model, options.changeable, proving=False)
    before = inventory(model, trial.norms)
    names = {norm.output.name or "": norm.name for norm in trial.norms}
    sites, unread = _sites(trial.norms, target, options), _unread(trial, target)
    unchanged = Applied(model, before, before, candidates=len(sites) + len(unread))
    try:
        selection = target.choose(trial, sites)
    except NotFinite as error:
        return replace(unchanged, refused=(*unread, *_not_finite(names, sites, error)))
    refused = (*trial.refused, *unread)
    if not selection.centers:
        return replace(unchanged, refused=refused)
    options.progress(f"{name}: moving and proving {len(selection.centers)} norms")
    try:
        session, spelled = _run(target, model, selection, options)
    except NotFinite as error:
        return replace(unchanged, refused=(*refused, *_not_finite(names, selection.centers, error)))
    refused = (*refused, *session.refused)
    after = inventory(session.model, session.norms)
    if after.norms.get(target.result, 0) <= before.norms.get(target.result, 0):
        return replace(unchanged, refused=refused)  # what only served norms that failed is not kept without them
    return replace(
        unchanged,
        model=session.model,
        after=after,
        rewrites=(*session.rewrites, *spelled),
        refused=refused,
        unrounded=session.unrounded(),
    )


def _unread(trial: Session, target: Target) -> list[Refusal]:
    """Norm operators of the target's kind that could not be read: refused, not passed over in silence."""
    return [
        Refusal(label(item.node), item.reason_id, item.reason)
        for item in trial.unrecognized
        if operator_kind(item.node) == target.kind
    ]


def _not_finite(names: Mapping[str, str], sites: Iterable[str], error: NotFinite) -> tuple[Refusal, ...]:
    return tuple(Refusal(names[site], "not-finite", str(error)) for site in sorted(sites))


def _run(target: Target, model: ir.Model, selection: Selection, options: Options) -> tuple[Session, list[Rewrite]]:
    results: list[tuple[Session, list[Rewrite]]] = []
    for base in regroup.bases(model, options.opset):
        session = Session.of(base, options.changeable)
        target.run(session, selection)
        results.append((session, regroup.write(session)))
        if regroup.is_accepted(session.model):
            break
    return results[-1]


def _sites(norms: Sequence[Norm], target: Target, options: Options) -> frozenset[str]:
    """The output names of the norms that the target is about and that the patterns select.

    Raises `UsageError` for a pattern that matches no norm: most likely a slip of the pen.
    """
    names = [norm.name for norm in norms]
    for pattern in (*options.only, *options.exclude):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"no norm is called `{pattern}`; `normswap inspect` lists their names")

    def wanted(name: str) -> bool:
        included = not options.only or any(fnmatchcase(name, pattern) for pattern in options.only)
        return included and not any(fnmatchcase(name, pattern) for pattern in options.exclude)

    return frozenset(norm.output.name or "" for norm in norms if norm.kind == target.kind and wanted(norm.name))


def inventory(model: ir.Model, norms: Iterable[Norm]) -> Inventory:
    """What the model consists of."""
    return Inventory(
        model.opset_imports.get(""), count_nodes(model), count_bytes(model), dict(Counter(norm.kind for norm in norms))
    )


def count_nodes(model: ir.Model) -> int:
    """The number of nodes, in the main graph and in control-flow bodies."""
    return sum(1 for graph in model.graphs() for _ in graph)


def count_bytes(model: ir.Model) -> int:
    """The bytes of all constants: initializers, and tensors in Constant nodes, where some exporters keep weights."""
    stored = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    nodes = (node for graph in model.graphs() for node in graph if node.op_type == "Constant")
    written = (
        attribute.as_tensor() for node in nodes for name, attribute in node.attributes.items() if name == "value"
    )
    return sum(tensor.nbytes for tensor in (*stored, *written) if tensor is not None)
