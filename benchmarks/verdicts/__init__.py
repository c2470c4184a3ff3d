"""Pairs of models, of which it is known whether they compute the same, and what checkers say about them."""
