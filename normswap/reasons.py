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
        "a node that is not a norm over the same axis reads the residual stream, and would see the missing mean",
        "none, if that node matters; the norm stays as it is",
    ),
    "graph-output": Reason(
        "the residual stream is an output of the model, and would be delivered centered",
        "name the output with --allow-changed-outputs if a centered one is acceptable",
    ),
    "post-norm": Reason(
        "the norm's input is the sum of a branch and another norm's output (post-norm); after a gain that is not "
        "uniform, that output is not zero-mean",
        "none: the rewrite is not exact for post-norm models",
    ),
    "opaque-producer": Reason(
        "the norm's input comes from an operator through which a mean cannot be moved, and one explicit Center there "
        "would cost as much as it saves",
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
    "unknown-operator": Reason("normswap has no transfer for this operator", "none"),
    "unknown-shape": Reason("the shape of the value could not be found", "add shapes to the model, or fix the input"),
    "subgraph-capture": Reason("the value is read inside a control-flow body", "none"),
    "not-worthwhile": Reason("the rewrite is exact, but the result would cost as much as it saves", "none"),
    "not-selected": Reason("left out by --only or --except", "change the selection"),
    "already": Reason("the norm is already of the wanted kind", "nothing to do"),
    "proof-failed": Reason(
        "a step of the plan could not be proved on the model's own weights; this is a bug in normswap",
        "report it with the reproducer",
    ),
}
