"""Weights and sizes that several pairs share."""

from __future__ import annotations

from benchmarks.verdicts.pairs import normal

WIDTH = 64
MODEL_WIDTH = 768  # of BERT and GPT-2: the means of random rows are small

ONE_GAIN = normal("gain", WIDTH, mean=1, deviation=0.2)
SHIFT = normal("shift", WIDTH)
SQUARE = normal("square", WIDTH, WIDTH, deviation=WIDTH**-0.5)
