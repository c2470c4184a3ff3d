"""What is exported: a transformers model with random weights behind plain tensors, and an example input.

Every parameter is drawn again with a non-zero mean: with the zero biases, unit gains and zero-mean weights that models
are initialized with, dropping a mean or a bias would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

SEED = 20260

BATCH, SEQUENCE, PAST, HEIGHT, WIDTH = "batch", "sequence", "past", "height", "width"
EXAMPLE_SIZES = {BATCH: 2, SEQUENCE: 7, PAST: 5}  # images are given at their own size

Axes = Mapping[int, str]
TOKEN_AXES: Axes = {0: BATCH, 1: SEQUENCE}

Forward = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Subject:
    """A module to export: what to call it with, and which axes of which inputs are free."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    free_axes: Mapping[str, Axes] = field(default_factory=dict)


class PlainTensors(nn.Module):
    """A transformers model called through `function`, which takes and returns nothing but tensors."""

    def __init__(self, model: nn.Module, function: Forward) -> None:
        super().__init__()
        self.model = model
        self.function = function
        self.eval()  # exporters restore the mode of the outermost module, which would turn dropout on

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return self.function(self.model, *arguments)


def randomize(model: nn.Module) -> nn.Module:
    """Draw every parameter from a normal distribution with a non-zero mean; activations stay of order one.

    A kernel with n inputs per output has variance 1/n and mean 1/n: each linear layer then adds the average of its
    inputs to the mean of what it writes, so the mean of a residual stream is visible yet does not drown the rest.
    """
    generator = torch.Generator().manual_seed(SEED)
    drawn: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in drawn:  # tied weights are one parameter
                    drawn.add(id(parameter))
                    mean, deviation = _moments(module, name, parameter)
                    parameter.copy_(mean + deviation * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def _moments(module: nn.Module, name: str, parameter: Tensor) -> tuple[float, float]:
    if name == "bias":
        return 0.2, 0.3
    if parameter.ndim == 1:  # the gain of a norm, or a LayerScale
        return 0.8, 0.3
    if isinstance(module, Conv1D):  # transformers' Linear with a transposed weight
        return 1 / parameter.shape[0], parameter.shape[0] ** -0.5
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        return 1 / parameter[0].numel(), parameter[0].numel() ** -0.5
    return 0.3, 0.7  # embeddings, class tokens, tables of positions


def half(subject: Subject) -> Subject:
    """The same in float16, parameters and inputs."""
    inputs = {name: value.half() if value.is_floating_point() else value for name, value in subject.inputs.items()}
    return Subject(subject.module.half(), inputs, subject.outputs, subject.free_axes)


def tokens(vocabulary: int) -> Tensor:
    """Token ids [batch, sequence], int64."""
    shape = (EXAMPLE_SIZES[BATCH], EXAMPLE_SIZES[SEQUENCE])
    return torch.randint(1, vocabulary, shape, generator=torch.Generator().manual_seed(SEED))


def mask() -> Tensor:
    """Attention mask [batch, sequence], int64; the first token of the first row is padding."""
    ones = torch.ones((EXAMPLE_SIZES[BATCH], EXAMPLE_SIZES[SEQUENCE]), dtype=torch.int64)
    ones[0, 0] = 0
    return ones


def floats(*shape: int) -> Tensor:
    """Random floats with a mean, float32, in the given shape after the batch axis."""
    generator = torch.Generator().manual_seed(SEED)
    return 0.3 + torch.randn((EXAMPLE_SIZES[BATCH], *shape), generator=generator)
