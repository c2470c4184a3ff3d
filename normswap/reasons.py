"""Why something was not done: one table of stable ids, from which messages, JSON and documentation are made.

An id never changes its meaning. The sentence that a user reads is built where the refusal happens, in the user's own
node names; the table says what the id means in general and what can be done about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Reason(NamedTuple):
    """What a `reason_id` means, and what the user can do."""

    meaning: str
    remedy: str


REASONS: Mapping[str, Reason] = {
    # moving Center up
    "foreign-reader": Reason(
        "a node through which the map cannot go reads the value that would be changed (of a residual stream: one that "
        "is no norm over the same axis, and would see the missing mean)",
        "none, if that node matters; the norm stays as it is",
    ),
    "graph-output": Reason(
        "the value is an output of the model, and would be delivered changed",
        "if it is a residual stream that may be delivered centered, name it with --allow-changed-outputs",
    ),
    "post-norm": Reason(
        "the norm's input is the sum of a branch and another norm's output (post-norm); after a gain that is not "
        "uniform, that output is not zero-mean",
        "none: the rewrite is not exact for post-norm models",
    ),
    "opaque-producer": Reason(
        "the value comes from an operator through which the map cannot be moved, and one explicit map there (a Center, "
        "or a Mul and an Add) would cost as much as it saves",
        "none",
    ),
    "coarser-groups": Reason(
        "pieces are concatenated or regrouped along the centered axis: centering the pieces is not centering the whole",
        "none",
    ),
    "grouped-weights": Reason(
        "the weight's groups cut through the centered axis, so the mean would mix them",
        "none",
    ),
    "overridable-initializer": Reason(
        "the weight is an initializer that the caller may replace (it is also a graph input)",
        "remove the initializer from the graph inputs if nobody replaces it",
    ),
    "quantized-weights": Reason("the weight is stored quantized", "convert before quantizing"),
    "does-not-commute": Reason("an operator on the way does not commute with the map", "none"),
    "unknown-shape": Reason("the shape of the value could not be found", "add shapes to the model, or fix the input"),
    "subgraph-capture": Reason("the value is read inside a control-flow body", "none"),
    "shared-weights": Reason(
        "the weight is read by others, too, which need it as it is; a copy would cost more than it saves",
        "--allow-larger makes the copy",
    ),
    "not-worthwhile": Reason("the rewrite is exact, but the result would cost as much as it saves", "none"),
    "already": Reason("the norm is already of the wanted kind", "nothing to do"),
    "not-finite": Reason(
        "a new weight would not be finite in the type it must be stored in",
        "convert the model before reducing its precision",
    ),
    "broadcast": Reason("an operand that is the same along the axis of the map would have to be widened", "none"),
    "elementwise-scale": Reason(
        "a product with something that differs along the axis of the map, or is known at run time only", "none"
    ),
    "no-bias": Reason("a shift would need a bias where there is none", "none"),
    "training-mode": Reason("a Dropout or a norm is in training mode", "export the model for inference"),
    "zero-padding": Reason("a shift before zero padding would be another one at the border", "none"),
    "negative-scale": Reason("a negative factor does not pass a maximum or a rectifier", "none"),
    "piecewise-bounds": Reason(
        "the bounds of a Clip are one number each, or computed at run time, and cannot take what differs from place to "
        "place",
        "none",
    ),
    "not-parallel": Reason(
        "operators that are added read one value in different ways (stride, dilation, padding, groups, axis), so that "
        "one weight cannot stand for both",
        "none",
    ),
    "proof-failed": Reason(
        "a step of the plan could not be proved on the model's own weights; this is a bug in normswap",
        "report it with the reproducer",
    ),
    # weight norm, put back
    "narrow-type": Reason(
        "the weight's type is too narrow to take its norms in: their squares would not be finite, or not exact",
        "convert the model before reducing its precision",
    ),
    "computed-weight": Reason("the weight is computed from other constants", "fold it first: --to folded"),
    "disagreeing-readers": Reason(
        "the nodes that read the weight have their outputs along different axes of it, or one of them is to keep it",
        "select them together, or give each a weight of its own",
    ),
    # respelling
    "no-rule": Reason(
        "no rule of the runtime writes this norm: for its kind, axes, epsilon or element type there is none, or only "
        "one for a newer opset, or for operators that onnxruntime has no kernel for",
        "`normswap rules` shows the rules, and --rules DIR adds your own",
    ),
    # recognition
    "not-a-norm": Reason("this reduction is no part of a norm", "nothing to do"),
    "center-only": Reason("a mean is subtracted, but nothing is divided by a root mean square", "nothing to do"),
    "negated": Reason(
        "x is subtracted from its mean (mean − x): the norm of x with every sign turned",
        "write x − mean, if it is meant",
    ),
    "different-axes": Reason(
        "its statistics are taken over other axes than those they are combined over (reductions that differ in their "
        "axes, or a keepdims=0 that broadcasts along another axis)",
        "none: this is neither a LayerNorm nor an RMSNorm",
    ),
    "partial-statistics": Reason("its statistics are taken from a part of the values that they scale", "none"),
    "group-statistics": Reason(
        "its statistics are taken over parts of the axis, group by group, not over the whole of it", "none"
    ),
    "epsilon-outside": Reason(
        "epsilon is added to the root, not under it, which no norm operator can express", "put epsilon under the root"
    ),
    "piecewise": Reason(
        "a Min, Max, Clip, Where or comparison inside changes the result for some inputs",
        "remove it, if those inputs do not occur",
    ),
    "size-dependent": Reason(
        "over a dynamic axis its gain or epsilon changes with the size (as with a sample variance, N − 1)",
        "export with a static axis, or with the population variance",
    ),
    "other-statistic": Reason("it divides by a statistic that is not a root mean square", "none"),
    "other-value": Reason("the root mean square of one value scales another value", "none"),
    "other-type": Reason("the norm gives out another element type than it takes", "cast around the norm, not within"),
    "not-executable": Reason("the operators around this reduction could not be run on small inputs", "none"),
    "kind-not-moved": Reason("no target moves the parts of this kind of norm", "none"),
    "bundled-operator": Reason(
        "the norm is one of several things that one operator does, and in this form they cannot be told apart", "none"
    ),
    "runtime-parameter": Reason("the gain or bias of this norm is not constant", "none"),
    "widening-parameter": Reason(
        "the gain or bias of this norm has a higher rank than its input, or fixes one of its free dimensions", "none"
    ),
    "local-function": Reason(
        "the norm is inside a local function that could not be inlined",
        "give the function the opset of the model, or inline it first (onnx.inliner.inline_local_functions)",
    ),
    "invalid-statistics": Reason(
        "the variance is negative, or with it the gain or bias is not finite", "mend the statistics, or train again"
    ),
    "statistics-used": Reason("the mean or deviation that this norm also gives out is used", "none"),
}


def page() -> str:
    """The table as a Markdown page: what `docs/reasons.md` holds."""
    rows = (f"| `{name}` | {reason.meaning} | {reason.remedy} |" for name, reason in sorted(REASONS.items()))
    return "\n".join(
        [
            "# Why something was not done",
            "",
            "Made from `normswap/reasons.py` by `python -m normswap.reasons > docs/reasons.md`.",
            "",
            "| reason_id | what it means | what helps |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
