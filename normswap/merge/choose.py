"""Parallel linear operators with one input that are added become one: (W * x + b) + (V * x + c) = (W + V) * x + b + c.

A smaller kernel is embedded in a larger one, and an Affine of x is a kernel of one tap with a diagonal: of a norm that
stands in a parallel branch nothing is left. `parallel` reads the operands of a sum, `merger` carries a merge out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from normswap import prices
from normswap.emit import Emitter, NotFinite
from normswap.facts import Facts
from normswap.ledger import Refusal, Rewrite
from normswap.merge.merger import Merger, carry_out
from normswap.merge.sums import Sum, is_inner, is_sum, same_shape
from normswap.merge.terms import Term, described, identities, read
from normswap.merge.window import joined
from normswap.norm import Norm
from normswap.rewrite import Broken
from normswap.transfer import Blocked
from normswap.views import label

RULE = "merge"
Views = Mapping[ir.Value, Norm]  # constant Affines by the value they make


def merge(
    model: ir.Model,
    facts: Facts,
    sites: Collection[ir.Value] | None = None,
    affines: Collection[Norm] = (),
    *,
    allow_identity: bool = False,
    proving: bool = True,
) -> tuple[list[Rewrite], list[Refusal]]:
    """Merge parallel operators in every sum with an operand in `sites` (None: every sum) or a vector of `affines`.

    `affines` are the views whose Affine may become part of a weight. An operand that is the plain input counts only
    with `allow_identity`: a residual connection stays one. No value that is left changes its identity or name; norms
    among `affines` whose nodes are in no graph any more have been merged.
    """
    emitter = Emitter.of(facts, eager=proving)
    views = {norm.output: norm for norm in affines if not (norm.parts.center or norm.parts.root_mean_square)}
    rewrites: list[Rewrite] = []
    refusals: list[Refusal] = []
    for graph in model.graphs():
        for node in list(graph):
            if node.graph is None or not is_sum(node) or node.outputs[0] in views:
                continue
            if not is_inner(node.outputs[0], facts) and _is_wanted(Sum.of(node, facts, views), sites, views):
                refusals += _merge_at(node, emitter, views, rewrites, allow_identity=allow_identity, proving=proving)
    return rewrites, refusals


def _is_wanted(total: Sum, sites: Collection[ir.Value] | None, views: Views) -> bool:
    found = {total.root.outputs[0], *total.operands, *(node.outputs[0] for node in total.inner)}
    values = [value for value in found if value is not None]
    return sites is None or any(value in sites or (value in views and views[value].size != 1) for value in values)


def _merge_at(
    root: ir.Node, emitter: Emitter, views: Views, rewrites: list[Rewrite], *, allow_identity: bool, proving: bool
) -> list[Refusal]:
    """Merge in the sum that ends at `root` until nothing is left to merge; why something is left."""
    site, before = label(root), described(root)
    while is_sum(root):
        total = Sum.of(root, emitter.facts, views)
        found = _choose(total, emitter.facts, views, allow_identity=allow_identity)
        if found is None:
            break
        if isinstance(found, Merger):
            detail = " + ".join(str(term) for term in found.terms)
            try:
                proof = carry_out(found, emitter, proving=proving)
            except NotFinite as error:
                found = Blocked("not-finite", str(error))
            except Broken as error:
                found = Blocked("proof-failed", f"{detail}: the new operator {error}")
            else:
                rewrites.append(Rewrite(site, RULE, True, proof, detail))
                continue
        return [Refusal(site, found.reason_id, f"{before}: its operands stay apart: {found.detail}")]
    return []


# --- choosing -------------------------------------------------------------------------------------------------------


def _choose(total: Sum, facts: Facts, views: Views, *, allow_identity: bool) -> Merger | Blocked | None:
    """Terms that can become one, around the largest kernel; else why parallel operators cannot; else None."""
    terms = [term for slot in total.slots if (term := read(slot, facts, views)) is not None]
    # A Gemm takes in a MatMul, bias and all, but not the other way round.
    bases = sorted(
        (term for term in terms if term.frame is not None),
        key=lambda term: (-term.taps, term.node is None or term.node.op_type != "Gemm"),
    )
    problems: list[Blocked] = []
    for base in bases:
        others = [term for term in terms if term is not base and term.source in (base.source, None)]
        if allow_identity:
            others += identities(total, base)
        answer = _gather(total, base, others, facts)
        if isinstance(answer, Merger):
            return answer
        problems += [] if answer is None else [answer]
    for term in terms:
        if term.blocked is not None and any(other.source is term.source for other in terms if other is not term):
            problems.append(term.blocked)
    return problems[0] if problems else None


def _gather(total: Sum, base: Term, others: Sequence[Term], facts: Facts) -> Merger | Blocked | None:
    """`base` and every other term that joins it at no higher price."""
    assert base.frame is not None
    assert base.window is not None
    assert base.source is not None
    if all(term.source is None for term in others):
        return None
    output, dims = total.root.outputs[0], facts.dims(base.source)
    if dims is None or facts.dims(output) is None:
        return Blocked("unknown-shape", f"the shape of `{output.name}` is not known")
    merger = Merger(total, base, (base,), base.window, len(dims))
    problems = [_misfit(merger, base, facts)]
    for term in sorted(others, key=lambda term: -term.taps) if problems[0] is None else ():
        answer = _join(merger, term, dims, facts)
        if isinstance(answer, Merger):
            merger = answer
        elif term.source is not None:  # a constant that stays an operand of its own is no loss
            problems.append(answer)
    if sum(term.source is not None for term in merger.terms) < 2:
        return next((problem for problem in problems if problem is not None), None)
    return _without_copy(merger) if _leaves_full(merger, facts) else Blocked("broadcast", "an operand that is widened")


def _join(merger: Merger, term: Term, dims: Sequence[int | None], facts: Facts) -> Merger | Blocked:
    """The merger with `term` in it as well."""
    problem = term.blocked or _misfit(merger, term, facts)
    if problem is not None:
        return problem
    terms = (*merger.terms, term)
    if term.source is None:
        return Merger(merger.total, merger.base, terms, merger.window, merger.rank)
    frame, output = merger.frame, merger.total.root.outputs[0]
    sizes = dims[2:] if frame.operator == "Conv" else ()
    window = joined(merger.window, term.window or frame.point, sizes)
    if window is None:
        return _other(merger, term)
    price = _price(frame.inputs * math.prod(window.kernel), output, facts)
    apart = _price(frame.inputs * math.prod(merger.window.kernel), output, facts)
    if term.frame is not None:
        apart += _price(frame.inputs * term.taps, output, facts)
    elif term.node is not None:
        apart += prices.elementwise(output, facts)
    if price > apart + prices.elementwise(output, facts):
        return Blocked("not-worthwhile", f"one kernel for {merger.base} and {term} costs more than both")
    return Merger(merger.total, merger.base, terms, window, merger.rank)


def _price(products: int, output: ir.Value, facts: Facts) -> int:
    return prices.linear(products, output, facts)


def _other(merger: Merger, term: Term) -> Blocked:
    return Blocked("not-parallel", f"{term} does not read `{merger.source.name}` as {merger.base} does")


def _misfit(merger: Merger, term: Term, facts: Facts) -> Blocked | None:
    """Why `term` cannot be a part of the operator, whatever its window; None if it can."""
    frame, output = merger.frame, merger.total.root.outputs[0]
    if term.source is not None and not same_shape(term.value, output, facts):
        return Blocked("broadcast", f"{term} has not the shape of the sum")
    if term.frame is not None and term.frame != frame:
        return _other(merger, term)
    if term.gain is not None:
        is_square = frame.outputs == frame.groups * frame.inputs and set(frame.strides) <= {1}
        if not is_square or frame.transposed or frame.per_channel(term.gain, merger.rank) is None:
            return _other(merger, term)
    if term.bias is not None and frame.per_channel(term.bias(), merger.rank) is None:
        return Blocked("broadcast", f"{term}, whose bias is not one number per channel")
    return None


def _leaves_full(merger: Merger, facts: Facts) -> bool:
    """Whether every node of the sum that stays has an operand of the full shape."""
    slots = {term.slot for term in merger.terms}
    left = [node.inputs[index] for node, index in merger.total.slots if (node, index) not in slots]
    small = [value for value in left if value is None or not same_shape(value, merger.total.root.outputs[0], facts)]
    return len(small) < 2


def _without_copy(merger: Merger) -> Merger:
    """The merger without the one constant that a MatMul would only hand on, as it has no bias."""
    biased = [term for term in merger.terms if term.bias is not None]
    if merger.node.op_type != "MatMul" or len(biased) != 1 or biased[0].source is not None:
        return merger
    terms = tuple(term for term in merger.terms if term is not biased[0])
    return Merger(merger.total, merger.base, terms, merger.window, merger.rank)
