"""Test models with norms over channels and space: GroupNorm, LayerNorm of channels in the middle, gains from a style.

Each has the formula that its authors published, where that differs from torch's own module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from models.batch_norm import LABELS, PIXELS, Residual, Tupled, randomize
from models.subject import BATCH, HEIGHT, SEQUENCE, WIDTH, Axes, Subject, floats

WIDTHS = (8, 12)  # channels of the two stages of a convolutional network
STYLE = 6

IMAGE_AXES: Axes = {0: BATCH}
ANY_IMAGE_AXES: Axes = {0: BATCH, 2: HEIGHT, 3: WIDTH}
SIGNAL_AXES: Axes = {0: BATCH, 2: SEQUENCE}

Inputs = dict[str, tuple[Tensor, Axes]]


def drawn(model: nn.Module, inputs: Inputs, output: str) -> Subject:
    """A model with drawn weights, its inputs and which of their axes are free."""
    tensors = {name: tensor for name, (tensor, _) in inputs.items()}
    axes = {name: free for name, (_, free) in inputs.items()}
    return Subject(Tupled(randomize(model)), tensors, (output,), axes)


def image(axes: Axes = IMAGE_AXES) -> Inputs:
    return {"pixel_values": (floats(3, PIXELS, PIXELS), axes)}


# --- over groups of channels ----------------------------------------------------------------------------------------


def _group_block(inputs: int, outputs: int) -> nn.Module:
    """GroupNorm, SiLU, Conv, twice, beside a 1×1 Conv where the width changes."""
    branch = (
        *(nn.GroupNorm(4, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)),
        *(nn.GroupNorm(6, outputs, eps=1e-6), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1)),
    )
    return Residual(branch, [nn.Conv2d(inputs, outputs, 1)])


def group_norm() -> Subject:
    """A residual block of a denoiser, a norm over all channels, one over each channel, one without parameters."""
    narrow, wide = WIDTHS
    model = nn.Sequential(
        *(nn.Conv2d(3, narrow, 3, padding=1), _group_block(narrow, wide)),
        *(nn.GroupNorm(1, wide), nn.Conv2d(wide, wide, 1), nn.GroupNorm(wide, wide), nn.Conv2d(wide, wide, 1)),
        *(nn.GroupNorm(3, wide, affine=False), nn.Conv2d(wide, 3, 1)),
    )
    return drawn(model, image(ANY_IMAGE_AXES), "pixels")


# --- over the channels of an image or a signal ----------------------------------------------------------------------


class ChannelsFirst(nn.Module):
    """ConvNeXt's LayerNorm over axis 1, as its authors wrote it."""

    def __init__(self, channels: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.epsilon)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    """Depthwise Conv, then channels last: LayerNorm, two Linear layers, LayerScale; added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.gamma * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + branch.permute(0, 3, 1, 2)


def convnext() -> Subject:
    """ConvNeXt in its authors' code: LayerNorm channels first around downsampling, channels last in the blocks."""
    narrow, wide = WIDTHS
    stem = (nn.Conv2d(3, narrow, 4, 4), ChannelsFirst(narrow), ConvNeXtBlock(narrow))
    down = (ChannelsFirst(narrow), nn.Conv2d(narrow, wide, 2, 2), ConvNeXtBlock(wide))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(wide, eps=1e-6), nn.Linear(wide, LABELS))
    return drawn(nn.Sequential(*stem, *down, *head), image(), "logits")


class TransposedLayerNorm(nn.LayerNorm):
    """VITS' LayerNorm over axis 1 of a signal: transposed to the end and back."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


class GlowLayerNorm(nn.Module):
    """Glow-TTS' LayerNorm over axis 1 of a signal, with the reciprocal root of torch."""

    def __init__(self, channels: int, epsilon: float = 1e-4) -> None:
        super().__init__()
        self.gamma, self.beta_bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.mean(x, 1, keepdim=True)
        variance = torch.mean((x - mean) ** 2, 1, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + self.epsilon)
        shape = [1, -1] + [1] * (x.ndim - 2)
        return x * self.gamma.view(*shape) + self.beta_bias.view(*shape)


class GatedConv(nn.Module):
    """WaveNet's layer: one weight-normed Conv makes a signal and its gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = weight_norm(nn.Conv1d(channels, 2 * channels, 5, padding=2))
        self.out = weight_norm(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        signal, gate = self.gates(x).chunk(2, dim=1)
        return x + self.out(torch.tanh(signal) * torch.sigmoid(gate))


def vocoder() -> Subject:
    """Text encoder, flow and generator in the style of VITS: norms over axis 1, weight norm on nearly every Conv."""
    width, narrow = 12, 6
    encoder = (
        *(nn.Conv1d(8, width, 3, padding=1), TransposedLayerNorm(width), nn.ReLU()),
        *(Residual([nn.Conv1d(width, width, 3, padding=1), nn.ReLU()]), TransposedLayerNorm(width)),
        *(Residual([nn.Conv1d(width, width, 3, padding=1), nn.ReLU()]), GlowLayerNorm(width)),
    )
    resolved = Residual([nn.LeakyReLU(0.1), weight_norm(nn.Conv1d(narrow, narrow, 3, padding=1))])
    generator = (
        *(nn.Conv1d(width, width, 7, padding=3), nn.LeakyReLU(0.1)),
        *(weight_norm(nn.ConvTranspose1d(width, narrow, 4, 2, 1)), resolved, nn.LeakyReLU(0.1)),
        *(nn.Conv1d(narrow, 1, 7, padding=3, bias=False), nn.Tanh()),
    )
    model = nn.Sequential(*encoder, GatedConv(width), *generator)
    return drawn(model, {"phonemes": (floats(8, 7), SIGNAL_AXES)}, "waveform")


# --- gains computed from a style ------------------------------------------------------------------------------------


class StyleLayer(nn.Module):
    """Conv, a norm of each channel over space, and gain and bias from a style (StyleGAN)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.InstanceNorm2d(outputs)
        self.style = nn.Linear(STYLE, 2 * outputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gain, bias = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return functional.leaky_relu(self.norm(self.conv(x)) * (gain + 1) + bias, 0.2)


class StyleGenerator(nn.Module):
    """A style, mapped after a normalization of its own, that modulates every layer of a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(STYLE, STYLE), nn.LeakyReLU(0.2), nn.Linear(STYLE, STYLE))
        self.layers = nn.ModuleList([StyleLayer(3, 8), StyleLayer(8, 8), StyleLayer(8, 4)])
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        normalized = latent * torch.rsqrt(torch.mean(latent**2, dim=1, keepdim=True) + 1e-8)  # StyleGAN's PixelNorm
        style = self.mapping(normalized)
        for layer in self.layers:
            x = layer(x, style)
        return self.out(x)


def stylegan() -> Subject:
    """A generator in the style of StyleGAN: PixelNorm of the latent, InstanceNorm with gains from the style."""
    inputs = image(ANY_IMAGE_AXES) | {"latent": (floats(STYLE), IMAGE_AXES)}
    return drawn(StyleGenerator(), inputs, "pixels")


def _mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel over space, with the sample variance, as in the authors' code of AdaIN."""
    flat = x.view(x.shape[0], x.shape[1], -1)
    deviation = (flat.var(dim=2) + 1e-5).sqrt()
    return flat.mean(dim=2).view(*x.shape[:2], 1, 1), deviation.view(*x.shape[:2], 1, 1)


class StyleTransfer(nn.Module):
    """Adaptive instance normalization: the statistics of one image are replaced by those of another."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.decoder = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        x, other = self.encoder(content), self.encoder(style)
        mean, deviation = _mean_and_deviation(x)
        style_mean, style_deviation = _mean_and_deviation(other)
        normalized = (x - mean.expand(x.shape)) / deviation.expand(x.shape)
        return self.decoder(normalized * style_deviation.expand(x.shape) + style_mean.expand(x.shape))


def adain() -> Subject:
    """Style transfer with AdaIN: the sample variance over a static number of pixels, gain and bias from a style."""
    inputs = {
        "content": (floats(3, PIXELS, PIXELS), IMAGE_AXES),
        "style": (0.5 * floats(3, PIXELS, PIXELS), IMAGE_AXES),
    }
    return drawn(StyleTransfer(), inputs, "pixels")
