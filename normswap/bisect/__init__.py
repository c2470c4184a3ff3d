"""Why a check fails: the smallest set of rewrites that breaks it, and the first value that diverges.

`culprits` searches the ledger, `divergence` the graph, `reproducer` writes a few nodes that show it; `locate` is the
course of the search.
"""
