"""The view of a norm: which region of the graph computes which `Affine ∘ RMS ∘ Center`, over which groups.

A view is a record beside the graph. It changes nothing: the region keeps its operators, constants and names until a
plan or a requested respelling replaces it. Kinds differ only in which of the three parts they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from normswap.reference import Floats

Kind = Literal[
    "LayerNorm",
    "RMSNorm",
    "InstanceNorm",
    "GroupNorm",
    "MeanVarianceNorm",
    "L2Norm",
    "ScaleNorm",
    "PowerNorm",
    "PartialRMSNorm",
    "BatchNorm",
    "Affine",
]
Spelling = Literal["operator", "decomposed"]
# Where ε stands in the divisor of a group: √(ms + ε), √ms + ε, or max(√ms, ε).
EpsilonPlace = Literal["inside", "outside", "floor"]
Part = Literal["gain", "bias"]


@dataclass(frozen=True)
class Parts:
    """Which of the three maps a kind of norm consists of, besides its constant Affine."""

    center: bool
    root_mean_square: bool


PARTS: Mapping[Kind, Parts] = {
    "LayerNorm": Parts(center=True, root_mean_square=True),
    "RMSNorm": Parts(center=False, root_mean_square=True),
    "InstanceNorm": Parts(center=True, root_mean_square=True),
    "GroupNorm": Parts(center=True, root_mean_square=True),
    "MeanVarianceNorm": Parts(center=True, root_mean_square=True),
    "L2Norm": Parts(center=False, root_mean_square=True),
    "ScaleNorm": Parts(center=False, root_mean_square=True),
    "PowerNorm": Parts(center=False, root_mean_square=True),
    "PartialRMSNorm": Parts(center=False, root_mean_square=True),
    "BatchNorm": Parts(center=False, root_mean_square=False),
    "Affine": Parts(center=False, root_mean_square=False),
}


@dataclass(frozen=True, eq=False)
class Parameter:
    """A constant gain or bias: its float64 array, which broadcasts against the norm's output.

    `value` is the graph's own value where the parameter is one tensor taken as it is; None where it was solved for.
    """

    array: Floats
    value: ir.Value | None = None


@dataclass(frozen=True)
class Obstacle:
    """Why a norm is recognized and yet no part of it can move: a reason id, and the sentence a user reads."""

    reason_id: str
    reason: str


@dataclass(frozen=True, eq=False)
class Norm:
    """One recognized norm: output = gain · RMS(ε)(Center(input)) + bias, with Center only where the kind has it.

    `axes` are the normalized axes of `input`, non-negative and ascending; with `groups` > 1 the first of them is cut
    into so many runs of equal length, each normalized by itself (where that is the last one, channels behind space, it
    stands first). `size` is the number of elements in a group, None where it is not static. ε is that of the mean of
    squares (in an L2Norm whose size is not static, of their sum), at its place in the divisor: a floor of 0 is the
    limit of small ones, with which a group of zeros stays zero. That an L2Norm divides by √size besides is no gain, but
    belongs to it.

    The parts in `runtime` are run-time values that the norm's own operator reads, or that its output is multiplied by
    or added to. `nodes` is the region in graph order; every one of them is needed for `output`, and some may also be
    used elsewhere. `name` is the user's word for the site: the name of the node that makes `output`.
    """

    name: str
    kind: Kind
    axes: tuple[int, ...]
    size: int | None
    epsilon: float
    input: ir.Value
    output: ir.Value
    nodes: tuple[ir.Node, ...]
    spelling: Spelling
    gain: Parameter | None = None
    bias: Parameter | None = None
    variant: str = ""
    graph: str = ""
    groups: int = 1
    epsilon_place: EpsilonPlace = "inside"
    runtime: frozenset[Part] = frozenset()
    fractions: Mapping[str, Floats] = field(default_factory=dict)  # constants, by name, that stand for 1/N: exactly
    outer: Norm | None = None  # the same norm with the layout operators around it, as people know it
    obstacle: Obstacle | None = None  # why no part of it can move, whatever the target

    @property
    def parts(self) -> Parts:
        """Which maps this norm consists of."""
        return PARTS[self.kind]

    @property
    def operator(self) -> Kind:
        """The kind of norm that computes the same over `axes`: with Center, or without."""
        return "LayerNorm" if self.parts.center else "RMSNorm"

    @property
    def is_movable(self) -> bool:
        """Whether it is exactly constant Affine ∘ RMS(ε) ∘ Center over its axes, so that its parts can move."""
        plain = self.groups == 1 and self.epsilon_place == "inside" and self.kind not in ("PartialRMSNorm", "L2Norm")
        return plain and self.obstacle is None


@dataclass(frozen=True, eq=False)
class Unrecognized:
    """A reduction that is not a norm we know, with the reason: nothing that looks like a norm goes unmentioned."""

    node: ir.Node
    reason_id: str
    reason: str


@dataclass(frozen=True, eq=False)
class Recognition:
    """What `recognize` found in one model: norms whose parts can move, and those that are only named."""

    norms: tuple[Norm, ...] = ()
    named: tuple[Norm, ...] = ()
    unrecognized: tuple[Unrecognized, ...] = ()
    by_output: Mapping[ir.Value, Norm] = field(default_factory=dict)
