"""Every operator that maps cross, with the piece that is made of it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.random_folds.elementwise import alone, along_axis, binary, cast, clip, prelu, several, where
from tests.random_folds.layout import (
    concat,
    depth_to_space,
    expand,
    flatten,
    gather,
    pad,
    reshape,
    resize,
    shape_of,
    slicing,
    space_to_depth,
    split,
    squeeze,
    tile,
    transpose,
    unsqueeze,
)
from tests.random_folds.norms import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from tests.random_folds.pieces import Piece
from tests.random_folds.pooling import everywhere, pool, reduction
from tests.random_folds.weights import conv, conv_transpose, einsum, gemm, matmul, recurrent

TABLE: Mapping[str, Piece] = {
    **{op: alone(op) for op in ("Identity", "Neg", "Relu", "Dropout", "Tanh")},
    **{op: along_axis(op) for op in ("Softmax", "LogSoftmax")},
    **{op: binary(op) for op in ("Add", "Sub", "Mul", "Div")},
    **{op: everywhere(op) for op in ("GlobalAveragePool", "GlobalMaxPool")},
    **{op: pool(op) for op in ("AveragePool", "MaxPool")},
    **{op: reduction(op) for op in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")},
    **{op: several(op) for op in ("Max", "Min", "Sum")},
    **{op: shape_of(op) for op in ("Shape", "Size")},
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": flatten,
    "GRU": recurrent("GRU", 3),
    "Gather": gather,
    "Gemm": gemm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LSTM": recurrent("LSTM", 4),
    "LayerNormalization": layer_norm,
    "LeakyRelu": alone("LeakyRelu", alpha=[0.2, 1.5, -0.5, 0.0]),
    "MatMul": matmul,
    "PRelu": prelu,
    "Pad": pad,
    "RMSNormalization": rms_norm,
    "RNN": recurrent("RNN", 1),
    "Reshape": reshape,
    "Resize": resize,
    "Slice": slicing,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": where,
}
