"""Operators that onnx's evaluator has wrong, by definitions other than the program's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

Floats = npt.NDArray[np.float64]


class ConvTranspose(OpRun):
    """ConvTranspose as the convolution of its input, with zeros between, by the turned kernel; onnx mixes up groups."""

    op_domain = ""

    def _run(
        self,
        x: Floats,
        weight: Floats,
        bias: Floats | None = None,
        auto_pad: str = "NOTSET",
        dilations: Sequence[int] | None = None,
        group: int = 1,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Floats]:
        rank = x.ndim - 2
        assert auto_pad == "NOTSET"
        between, apart = strides or [1] * rank, dilations or [1] * rank
        spread = np.zeros((*x.shape[:2], *(s * (n - 1) + 1 for n, s in zip(x.shape[2:], between, strict=True))))
        spread[(..., *(slice(None, None, stride) for stride in between))] = x
        spans = [d * (k - 1) for k, d in zip(weight.shape[2:], apart, strict=True)]
        ends = [s + more for s, more in zip(spans, output_padding or [0] * rank, strict=True)]
        padded = np.pad(spread, [(0, 0), (0, 0), *zip(spans, ends, strict=True)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, [s + 1 for s in spans], tuple(range(2, 2 + rank)))
        windows = windows[(..., *(slice(None, None, dilation) for dilation in apart))]
        turned = np.flip(weight, tuple(range(2, 2 + rank)))
        places, taps = "abc"[:rank], "uvw"[:rank]
        full = np.concatenate(
            [
                np.einsum(f"ni{places}{taps},io{taps}->no{places}", part, kernel)
                for part, kernel in zip(np.split(windows, group, 1), np.split(turned, group, 0), strict=True)
            ],
            axis=1,
        )
        heads, tails = list(pads or [0] * 2 * rank)[:rank], list(pads or [0] * 2 * rank)[rank:]
        if output_shape:
            too_many = [size - wanted for size, wanted in zip(full.shape[2:], output_shape, strict=True)]
            tails = [pad // 2 for pad in too_many]
            heads = [pad - tail for pad, tail in zip(too_many, tails, strict=True)]
        inside = [slice(h, n - t) for n, h, t in zip(full.shape[2:], heads, tails, strict=True)]
        y = full[(..., *inside)]
        return (y if bias is None else y + bias.reshape(-1, *[1] * rank),)
