"""The ledger: what was done, to what, why, and how exact; the results of the public functions and their JSON.

Field names are those of DESIGN.md §8, on which other programs rely: fields may be added, never renamed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict

from normswap.errors import GoalNotMet, Inconclusive

if TYPE_CHECKING:
    from normswap.check.result import CheckResult


@dataclass(frozen=True)
class Proof:
    """How a rewrite was proved: the number of obligations, and the largest relative error among them (float64)."""

    obligations: int
    max_relative_error: float


@dataclass(frozen=True)
class Rewrite:
    """One change that was made: at which site, by which rule, and its proof. `detail` is a sentence for people."""

    site: str
    rule: str
    exact: bool
    proof: Proof
    detail: str = ""


@dataclass(frozen=True)
class Refusal:
    """One change that was not made, and why; `reason_id` is a key of `reasons.REASONS`."""

    site: str
    reason_id: str
    reason: str


class Can(TypedDict):
    """Whether a norm can become a target, and if not, why; what is exact and has a reason can become it in part."""

    exact: bool
    reason_id: str
    reason: str


@dataclass(frozen=True)
class Conditioning:
    """Of one constant Affine: the range of |gain|, its dead channels, and the largest constants it was moved into.

    `largest_weight_before` and `_after` are over all constants that took a part of it in, None where none did;
    `float16_headroom` is how many times larger they could be before float16 overflows.
    """

    smallest_gain: float
    largest_gain: float
    channels: int
    dead: int
    nearly_dead: int
    largest_weight_before: float | None = None
    largest_weight_after: float | None = None
    float16_headroom: float | None = None


@dataclass(frozen=True)
class NodeRow:
    """One node of a norm: what it reads and makes by name, "" where it reads nothing.

    Its attributes, and the constants that it reads, are told in words: `1e-05`, `[768]` for the shape of a larger one.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ParameterRow:
    """A constant gain or bias: its shape, and its name where it is one tensor of the model taken as it is."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CoreRow:
    """The norm within the layout operators of another, which is what a target moves: its kind, axes and size."""

    kind: str
    axes: tuple[int, ...]
    size: int | None


@dataclass(frozen=True)
class NormRow:
    """One norm as `inspect` reports it; `conditioning` is that of folding its gain, where it has a constant one.

    `written_axes` are `axes` as the model counts them, from the end where it does; `epsilon` is that of the mean of
    squares, of an L2Norm or ScaleNorm that of their sum. `region` is the subgraph itself, which the JSON leaves out.
    `calls` is how often the local function is called that the norm stands in.
    """

    name: str
    kind: str
    axes: tuple[int, ...]
    size: int | None
    epsilon: float
    groups: int
    scale: str
    bias: str
    spelling: str
    nodes: tuple[str, ...]
    graph: str
    can: Mapping[str, Can] = field(default_factory=dict)
    variant: str = ""
    conditioning: Conditioning | None = None
    epsilon_place: str = "inside"
    written_axes: tuple[int, ...] | None = None
    operator: str = ""
    input: str = ""
    output: str = ""
    parameters: Mapping[str, ParameterRow] = field(default_factory=dict)
    core: CoreRow | None = None
    calls: int = 1
    region: tuple[NodeRow, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class UnrecognizedRow:
    """One reduction that is not a norm we know, as `inspect` reports it."""

    node: str
    op: str
    reason_id: str
    reason: str


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`."""

    model: Mapping[str, object]
    norms: tuple[NormRow, ...]
    unrecognized: tuple[UnrecognizedRow, ...]

    def to_json(self) -> dict[str, object]:
        """The `normswap/inspect/1` object."""
        report = asdict(replace(self, norms=tuple(replace(norm, region=()) for norm in self.norms)))
        for norm in report["norms"]:
            del norm["region"]
        return {"schema": "normswap/inspect/1", **report}


@dataclass(frozen=True)
class Inventory:
    """What a model consists of: its opset, nodes, bytes of weights, and norms by kind."""

    opset: int | None
    nodes: int
    bytes: int
    norms: Mapping[str, int]


@dataclass(frozen=True)
class Conversion:
    """The result of `convert`. `model` is of the kind that was given; for a path, an onnx_ir.Model.

    `before` and `after` are inventories; `check` is None where it was not asked for. `candidates` counts the norms
    that the targets are about, whether or not they could be converted.
    """

    model: object
    input: str | None
    to: tuple[str, ...]
    rewrites: tuple[Rewrite, ...]
    refused: tuple[Refusal, ...]
    before: Inventory
    after: Inventory
    candidates: int
    strict: bool
    check: CheckResult | None
    writer: Callable[[str | os.PathLike[str]], None] = field(repr=False)

    @property
    def exit_code(self) -> int:
        """0 done, 1 the goal was not met, 4 the check was inconclusive (DESIGN.md §8)."""
        nothing_converted = self.candidates > 0 and not self.rewrites
        if nothing_converted or (self.strict and self.refused):
            return GoalNotMet.exit_code
        if self.check is None or self.check.verdict == "pass":
            return 0
        return GoalNotMet.exit_code if self.check.verdict == "fail" else Inconclusive.exit_code

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path`, whole or not at all.

        Raises `GoalNotMet` if the check failed, `UsageError` if `path` is the input's own, `WriteError` if it cannot
        be written.
        """
        if self.check is not None and self.check.verdict == "fail":
            raise GoalNotMet(f"{os.fspath(path)}: not written, since the check failed: {self.check.reason}")
        self.writer(path)

    def to_json(self) -> dict[str, object]:
        """The `normswap/convert/1` object."""
        return {
            "schema": "normswap/convert/1",
            "input": self.input,
            "output": None,
            "to": list(self.to),
            "rewrites": [asdict(rewrite) for rewrite in self.rewrites],
            "refused": [asdict(refusal) for refusal in self.refused],
            "before": asdict(self.before),
            "after": asdict(self.after),
            "check": None if self.check is None else self.check.to_json(),
        }
