"""What folds constant normalizations into weights: the same small graphs through several tools."""
