"""Parallel linear operators with one input that are added become one: a step of its own after folding.

`sums` sees trees of Adds, `terms` reads their operands as W * x + b, `window` says which kernels fit into one,
`choose` what is merged, and `merger` makes the new operator, proves it, and puts it into the graph.
"""

from normswap.merge.choose import merge

__all__ = ["merge"]
