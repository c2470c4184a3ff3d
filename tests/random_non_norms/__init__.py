"""Random graphs around reductions, most of them no norms, and a judge who knows nothing of how norms are recognized."""
