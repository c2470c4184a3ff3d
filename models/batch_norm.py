"""Test models that keep their BatchNorms: convolutional, recurrent, transformers; and one whose norms are scalars.

Exported in evaluation mode as they are, without the exporter's own folding. Statistics are drawn like parameters, and
some gains are negative: with a mean of zero, a variance of one or a gain above zero, mistakes would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.subject import BATCH, SEED, SEQUENCE, Subject, floats

PIXELS = 16
LABELS = 10
STEPS = 4

Parts = Sequence[nn.Module]


def randomize(model: nn.Module) -> nn.Module:
    """Draw every parameter and every running statistic; activations stay of order one."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(tensor: Tensor, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                inputs = parameter.numel() // parameter.shape[_output_axis(module)] if parameter.ndim > 1 else 0
                if inputs:
                    normal(parameter, 1 / inputs, inputs**-0.5)
                elif parameter.ndim and "bias" not in name:  # the gain of a norm: one in four is negative
                    normal(parameter, 0.9, 0.2)
                    parameter[2::4] *= -1
                elif parameter.ndim:
                    normal(parameter, 0.2, 0.3)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                normal(module.running_mean, 0.2, 0.4)
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model.eval()


def _output_axis(module: nn.Module) -> int:
    return 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0


class Tupled(nn.Module):
    """What exporters and the comparison afterwards expect: outputs in a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.model(*inputs)
        return output if isinstance(output, tuple) else (output,)


def _subject(model: nn.Module, *shape: int, name: str = "pixel_values", output: str = "logits") -> Subject:
    return Subject(Tupled(randomize(model)), {name: floats(*shape)}, (output,), {name: {0: BATCH}})


def _images(model: nn.Module, pixels: int = PIXELS, output: str = "logits") -> Subject:
    return _subject(model, 3, pixels, pixels, output=output)


def _normed(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Parts:
    """Conv without a bias, BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outputs)


def _head(channels: int, labels: int = LABELS) -> Parts:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, labels)


class Residual(nn.Module):
    """A branch, a straight way past it, and what follows their sum."""

    def __init__(self, branch: Parts, straight: Parts = (), after: Parts = ()) -> None:
        super().__init__()
        self.branch, self.straight, self.after = nn.Sequential(*branch), nn.Sequential(*straight), nn.Sequential(*after)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.branch(x) + self.straight(x))


class Joined(nn.Module):
    """A branch beside what it reads: both, along the channels."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], dim=1)


def _basic(inputs: int, outputs: int, stride: int) -> nn.Module:
    straight = _normed(inputs, outputs, 1, stride) if inputs != outputs else ()
    branch = (*_normed(inputs, outputs, 3, stride), nn.ReLU(), *_normed(outputs, outputs))
    return Residual(branch, straight, [nn.ReLU()])


def _bottleneck(inputs: int, outputs: int, stride: int) -> nn.Module:
    width = outputs // 4
    straight = _normed(inputs, outputs, 1, stride) if inputs != outputs else ()
    reduced = (*_normed(inputs, width, 1), nn.ReLU(), *_normed(width, width, 3, stride), nn.ReLU())
    return Residual((*reduced, *_normed(width, outputs, 1)), straight, [nn.ReLU()])


def resnet() -> Subject:
    """ResNet: basic blocks, two of them with a projection; BatchNorm after every Conv."""
    stem = (*_normed(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return _images(nn.Sequential(*stem, _basic(8, 8, 1), _basic(8, 12, 2), _basic(12, 12, 1), *_head(12)))


def resnet50() -> Subject:
    """ResNet-50 at 224 pixels."""
    stages = ((64, 256, 3, 1), (256, 512, 4, 2), (512, 1024, 6, 2), (1024, 2048, 3, 2))
    blocks = [
        _bottleneck(outputs if block else inputs, outputs, 1 if block else stride)
        for inputs, outputs, number, stride in stages
        for block in range(number)
    ]
    stem = (*_normed(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return _images(nn.Sequential(*stem, *blocks, *_head(2048, 1000)), 224)


def _inverted(inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
    width = expansion * inputs
    deep = (*_normed(inputs, width, 1), nn.ReLU6(), *_normed(width, width, 3, stride, width), nn.ReLU6())
    branch = (*deep, *_normed(width, outputs, 1))
    return Residual(branch) if (inputs, stride) == (outputs, 1) else nn.Sequential(*branch)


def mobilenet() -> Subject:
    """MobileNet-V2: inverted residuals, depthwise Conv, ReLU6."""
    stem = (*_normed(3, 8, 3, 2), nn.ReLU6())
    blocks = (_inverted(8, 8, 1, 2), _inverted(8, 12, 2, 2), _inverted(12, 12, 1, 2))
    return _images(nn.Sequential(*stem, *blocks, *_normed(12, 24, 1), nn.ReLU6(), *_head(24)))


def _double(inputs: int, outputs: int) -> Parts:
    return (*_normed(inputs, outputs), nn.ReLU(), *_normed(outputs, outputs), nn.ReLU())


def _unet(channels: Sequence[int]) -> nn.Module:
    """Two Conv, and below them, at half the size, the rest: what comes back up is joined to what went down."""
    here, *below = channels
    if not below:
        return nn.Identity()
    up = (nn.ConvTranspose2d(below[0], here, 2, 2), nn.BatchNorm2d(here), nn.ReLU())
    deeper = Joined(nn.MaxPool2d(2), *_double(here, below[0]), _unet(below), *up)
    return nn.Sequential(deeper, *_double(2 * here, here))


def unet() -> Subject:
    """U-Net: Conv and ConvTranspose with BatchNorm, MaxPool, Concat with what went down."""
    return _images(nn.Sequential(*_double(3, 4), _unet((4, 6, 8)), nn.Conv2d(4, 2, 1)), output="masks")


def unet_large() -> Subject:
    """U-Net at 256 pixels, 32 to 512 channels."""
    model = nn.Sequential(*_double(3, 32), _unet((32, 64, 128, 256, 512)), nn.Conv2d(32, 2, 1))
    return _images(model, 256, "masks")


def _before(inputs: int, outputs: int, kernel: int, stride: int = 1) -> Parts:
    """BatchNorm, ReLU, Conv without a bias."""
    return nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def preact_resnet() -> Subject:
    """Pre-activation ResNet: BatchNorm and ReLU before each Conv; the stream itself is never normalized."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        straight = [nn.Conv2d(inputs, outputs, 1, stride, bias=False)] if inputs != outputs else ()
        return Residual((*_before(inputs, outputs, 3, stride), *_before(outputs, outputs, 3)), straight)

    blocks = (block(8, 8, 1), block(8, 12, 2), block(12, 12, 1), nn.BatchNorm2d(12), nn.ReLU())
    return _images(nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), *blocks, *_head(12)))


class RepVGGBlock(nn.Module):
    """3×3, 1×1 and, where the shapes allow, identity, each with BatchNorm, added: the form that is trained."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        branches = [nn.Sequential(*_normed(inputs, outputs, kernel, stride)) for kernel in (3, 1)]
        straight = [nn.BatchNorm2d(inputs)] if (inputs, stride) == (outputs, 1) else []
        self.branches = nn.ModuleList([*branches, *straight])

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(sum(branch(x) for branch in self.branches))


def repvgg() -> Subject:
    """RepVGG in its training form: parallel branches, each normalized, added."""
    blocks = (RepVGGBlock(3, 8, 2), RepVGGBlock(8, 8, 1), RepVGGBlock(8, 12, 2), RepVGGBlock(12, 12, 1))
    return _images(nn.Sequential(*blocks, *_head(12)))


def densenet() -> Subject:
    """DenseNet: BatchNorm over everything joined so far, which later layers read again."""

    def layer(inputs: int) -> nn.Module:
        return Joined(*_before(inputs, 8, 1), *_before(8, 4, 3))

    def dense(inputs: int) -> Parts:
        return layer(inputs), layer(inputs + 4), layer(inputs + 8)

    stem = (*_normed(3, 8), nn.ReLU())
    transition = (*_before(20, 10, 1), nn.AvgPool2d(2))
    last = (nn.BatchNorm2d(22), nn.ReLU())
    return _images(nn.Sequential(*stem, *dense(8), *transition, *dense(10), *last, *_head(22)))


class BatchNormLSTM(nn.Module):
    """BatchNorm of a sequence, shared by its steps (Laurent et al. 2015), then a bidirectional LSTM."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        normalized = self.norm(x).transpose(1, 2)
        return self.head(self.lstm(normalized)[0])


def bn_lstm() -> Subject:
    """BatchNorm in front of a bidirectional LSTM."""
    return _subject(BatchNormLSTM(6, 8), 6, 7, name="features")


class RecurrentBatchNorm(nn.Module):
    """An LSTM cell with BatchNorm of what comes in, of what comes back and of the cell (Cooijmans et al. 2016)."""

    def __init__(self, inputs: int, hidden: int, statistics: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.Linear(inputs, 4 * hidden)
        self.from_hidden = nn.Linear(hidden, 4 * hidden, bias=False)
        self.input_norms = nn.ModuleList(nn.BatchNorm1d(4 * hidden) for _ in range(statistics))
        self.hidden_norms = nn.ModuleList(nn.BatchNorm1d(4 * hidden) for _ in range(statistics))
        self.cell_norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(statistics))

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.hidden)
        for step in range(STEPS):
            norm = min(step, len(self.cell_norms) - 1)
            gates = self.input_norms[norm](self.from_input(x[:, step]))
            gates = gates + self.hidden_norms[norm](self.from_hidden(h))
            forget, write, read, candidate = gates.chunk(4, dim=1)
            c = forget.sigmoid() * c + write.sigmoid() * candidate.tanh()
            h = read.sigmoid() * self.cell_norms[norm](c).tanh()
        return h


def recurrent_bn() -> Subject:
    """Recurrent BatchNorm, four steps unrolled, with the statistics of all steps in common."""
    return _subject(RecurrentBatchNorm(6, 8, 1), STEPS, 6, name="features", output="state")


def recurrent_bn_per_step() -> Subject:
    """Recurrent BatchNorm, four steps unrolled, each with statistics of its own, as in the paper."""
    return _subject(RecurrentBatchNorm(6, 8, STEPS), STEPS, 6, name="features", output="state")


class LoopedBatchNorm(nn.Module):
    """A recurrent cell with BatchNorm of what comes in and of what comes back, over any number of steps."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input, self.from_hidden = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.input_norm, self.hidden_norm = nn.BatchNorm1d(hidden), nn.BatchNorm1d(hidden)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        h = torch.zeros([x.size(0), self.hidden])
        for step in range(x.size(1)):
            h = torch.tanh(self.input_norm(self.from_input(x[:, step])) + self.hidden_norm(self.from_hidden(h)))
        return (h,)


def recurrent_bn_loop() -> Subject:
    """Recurrent BatchNorm in the body of a Loop: the module is scripted, not traced."""
    inputs = {"features": floats(STEPS, 6)}
    model = torch.jit.script(randomize(LoopedBatchNorm(6, 8)))
    return Subject(model, inputs, ("state",), {"features": {0: BATCH, 1: SEQUENCE}})


class TokenBatchNorm(nn.BatchNorm1d):
    """BatchNorm of tokens [batch, token, channel]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with query, key and value from Linear layers of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, dim=-1)
        return self.out((weights @ value).transpose(1, 2).flatten(-2))


class Tokens(nn.Module):
    """Patches as tokens, with positions."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.empty((PIXELS // patch) ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(2).transpose(1, 2) + self.positions


class MeanToken(nn.Module):
    """The mean of all tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def vit_bn() -> Subject:
    """ViT with BatchNorm in place of LayerNorm, and one more between the two layers of the MLP (BN-FFN-BN)."""
    width = 16

    def layer() -> Parts:
        up, down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        return (
            Residual((TokenBatchNorm(width), Attention(width, 4))),
            Residual((TokenBatchNorm(width), up, TokenBatchNorm(2 * width), nn.GELU(), down)),
        )

    head = (TokenBatchNorm(width), MeanToken(), nn.Linear(width, LABELS))
    return _images(nn.Sequential(Tokens(width, 4), *layer(), *head))


class StandardizedConv(nn.Conv2d):
    """Conv whose weight is standardized per output channel when it is used, with a gain."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.gain = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        standardized = functional.batch_norm(rows, None, None, weight=self.gain, training=True, momentum=0.0)
        scale = self.weight[0].numel() ** -0.5
        weight = scale * standardized.reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class SkipInit(nn.Module):
    """A squeeze-and-excite gate and a scalar at the end of a branch, as in NF-ResNets: the gate is doubled."""

    def __init__(self, channels: int, alpha: float) -> None:
        super().__init__()
        squeeze, excite = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels // 2, channels, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), squeeze, nn.ReLU(), excite, nn.Sigmoid())
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * self.gate(x) * x * self.alpha


def nfnet() -> Subject:
    """NF-ResNet: no norms but standardized weights; SkipInit scalars behind squeeze-and-excite gates."""

    def block(alpha: float) -> nn.Module:
        inner = (StandardizedConv(8, 12, 1), nn.ReLU(), StandardizedConv(12, 12, 3), nn.ReLU())
        return Residual((nn.ReLU(), *inner, StandardizedConv(12, 8, 1), SkipInit(8, alpha)))

    return _images(nn.Sequential(StandardizedConv(3, 8, 3), block(0.4), block(-0.3), nn.ReLU(), *_head(8)))
