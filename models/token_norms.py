"""Test models with norms of tokens: gains from a condition, recurrent cells, and every norm without a mean.

Each has the formula that its authors published: with a floor instead of an epsilon, in groups of channels, by a part of
the channels, or in the cell of a recurrent network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.batch_norm import LABELS, STEPS, Attention, Residual, Tokens, randomize
from models.spatial_norms import STYLE, Inputs, drawn, image
from models.subject import BATCH, EXAMPLE_SIZES, SEQUENCE, TOKEN_AXES, Subject, floats

CHANNELS = 16
HEADS = 4
PATCH = 4


def _sequence(width: int) -> Inputs:
    return {"features": (floats(EXAMPLE_SIZES[SEQUENCE], width), TOKEN_AXES)}


# --- gains computed at run time -------------------------------------------------------------------------------------


class DiTBlock(nn.Module):
    """Attention and MLP whose norms take shift and scale from a condition, and whose branches are gated by it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, HEADS)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(STYLE, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attention(modulated(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulated(self.norm2(x), shift2, scale2))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class DiT(nn.Module):
    """A diffusion transformer: patches, two blocks, and a last norm with shift and scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = Tokens(width, PATCH)
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(2))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(STYLE, 2 * width))
        self.out = nn.Linear(width, PATCH * PATCH * 3)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        return self.out(modulated(self.norm(x), shift, scale))


def dit() -> Subject:
    """DiT: every LayerNorm takes its gain and bias from the condition (AdaLN)."""
    return drawn(DiT(CHANNELS), image() | {"condition": (floats(STYLE), {0: BATCH})}, "patches")


# --- in the cell of a recurrent network -----------------------------------------------------------------------------


class LayerNormCell(nn.Module):
    """An LSTM cell with LayerNorm of what comes in, of what comes back and of the cell (Ba et al. 2016)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(inputs, 4 * hidden, bias=False)
        self.from_hidden = nn.Linear(hidden, 4 * hidden, bias=False)
        self.input_norm, self.hidden_norm = nn.LayerNorm(4 * hidden), nn.LayerNorm(4 * hidden)
        self.cell_norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = self.input_norm(self.from_input(x)) + self.hidden_norm(self.from_hidden(h))
        forget, write, read, candidate = gates.chunk(4, dim=1)
        c = self.cell_norm(forget.sigmoid() * c + write.sigmoid() * candidate.tanh())
        return read.sigmoid() * c.tanh(), c


class Unrolled(nn.Module):
    """A fixed number of steps of the cell, one after the other."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell, self.hidden = LayerNormCell(inputs, hidden), hidden

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.hidden)
        for step in range(STEPS):
            h, c = self.cell(x[:, step], h, c)
        return h


class Looped(nn.Module):
    """Any number of steps of the cell, in a loop."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell, self.hidden = LayerNormCell(inputs, hidden), hidden

    def forward(self, x: Tensor) -> tuple[Tensor]:
        h = torch.zeros([x.size(0), self.hidden])
        c = torch.zeros([x.size(0), self.hidden])
        for step in range(x.size(1)):
            h, c = self.cell(x[:, step], h, c)
        return (h,)


def ln_lstm() -> Subject:
    """LN-LSTM, four steps unrolled."""
    return drawn(Unrolled(6, 8), {"features": (floats(STEPS, 6), {0: BATCH})}, "state")


def ln_lstm_loop() -> Subject:
    """LN-LSTM in the body of a Loop: the module is scripted, not traced."""
    model = torch.jit.script(randomize(Looped(6, 8)))
    return Subject(model, {"features": floats(STEPS, 6)}, ("state",), {"features": TOKEN_AXES})


# --- without a mean -------------------------------------------------------------------------------------------------


class ScaleNorm(nn.Module):
    """One gain for all channels over the Euclidean norm, which has a floor (Nguyen and Salazar 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor(0.8 * math.sqrt(width)))  # scalars are not drawn

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.g / torch.norm(x, dim=-1, keepdim=True).clamp(min=1e-5))


class CosineAttention(nn.Module):
    """Self-attention by the cosine between query and key, with a temperature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.temperature = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        cosine = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).transpose(-2, -1)
        weights = torch.softmax(cosine * self.temperature, dim=-1)
        return self.out((weights @ value).transpose(1, 2).flatten(-2))


class Embedded(nn.Module):
    """The mean token, on the unit sphere."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x.mean(dim=1), dim=-1)


def _layers(width: int, norm: Callable[[int], nn.Module], attention: Callable[[int], nn.Module]) -> Sequence[nn.Module]:
    """Two layers of a Pre-norm transformer."""

    def mlp() -> Sequence[nn.Module]:
        return nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)

    return [
        layer
        for _ in range(2)
        for layer in (Residual((norm(width), attention(width))), Residual((norm(width), *mlp())))
    ]


def scale_norm() -> Subject:
    """ScaleNorm in front of every branch, cosine attention, embeddings of unit length."""
    model = nn.Sequential(*_layers(CHANNELS, ScaleNorm, CosineAttention), ScaleNorm(CHANNELS), Embedded())
    return drawn(model, _sequence(CHANNELS), "embedding")


class PowerNorm(nn.Module):
    """PowerNorm as released: each group of channels of a token by its root mean square, then a constant Affine."""

    def __init__(self, width: int, groups: int = HEADS, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_phi", torch.ones(1, width, 1))
        self.groups, self.epsilon = groups, epsilon

    def scaled(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        grouped = x.view(batch, steps, self.groups, width // self.groups)
        moment = torch.mean(grouped * grouped, dim=3, keepdim=True)
        moment = moment.repeat(1, 1, 1, width // self.groups).contiguous().view(batch, steps, width)
        return x / torch.sqrt(moment + self.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scaled(x).permute(0, 2, 1)
        x = x / (self.running_phi + self.epsilon).sqrt()
        return (self.weight.reshape(-1, 1) * x + self.bias.reshape(-1, 1)).permute(0, 2, 1)


def power_norm() -> Subject:
    """PowerNorm with as many groups as heads, in front of every branch."""

    def attention(width: int) -> nn.Module:
        return Attention(width, HEADS)

    model = nn.Sequential(*_layers(CHANNELS, PowerNorm, attention), nn.Linear(CHANNELS, LABELS))
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, PowerNorm):
            module.running_phi.copy_(0.5 + torch.rand(module.running_phi.shape, generator=generator))
    return drawn(model, _sequence(CHANNELS), "logits")


class PartialRMSNorm(nn.Module):
    """pRMSNorm (Zhang and Sennrich 2019): by the root mean square of the first quarter of the channels."""

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.scale, self.part, self.epsilon = nn.Parameter(torch.ones(width)), width // 4, epsilon

    def forward(self, x: Tensor) -> Tensor:
        mean_square = x[..., : self.part].pow(2).mean(-1, keepdim=True)
        return self.scale * (x * torch.rsqrt(mean_square + self.epsilon))


class AuthorsPartialRMSNorm(nn.Module):
    """The same as in the authors' code, whose epsilon stands outside the root."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.part = nn.Parameter(torch.ones(width)), width // 4

    def forward(self, x: Tensor) -> Tensor:
        part, _ = torch.split(x, [self.part, x.shape[-1] - self.part], dim=-1)
        root = part.norm(2, dim=-1, keepdim=True) * self.part ** (-1.0 / 2)
        return self.scale * (x / (root + 1e-8))


def partial_rms_norm() -> Subject:
    """pRMSNorm in front of every branch; the last norm is the authors' code."""

    def attention(width: int) -> nn.Module:
        return Attention(width, HEADS)

    model = nn.Sequential(*_layers(CHANNELS, PartialRMSNorm, attention), AuthorsPartialRMSNorm(CHANNELS))
    return drawn(model, _sequence(CHANNELS), "states")
