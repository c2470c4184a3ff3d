"""What a check found, as data: the verdict, one line per output, one per run, and the JSON that CI reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from normswap.bisect.result import BisectResult
    from normswap.check.inputs import Case

SCHEMA = "normswap/check/1"

Verdict = Literal["pass", "fail", "inconclusive"]
JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]


@dataclass(frozen=True)
class OutputResult:
    """One output over all runs; None where a number could not be had.

    Errors are absolute distances to the float64 truth of the original, worst over all runs; `rmse_ratio` is the
    converted model's root mean square error over the original's, worst over the families of inputs.
    `max_abs_difference` and `cosine` compare the two models as deployed. `float64_difference` compares them in
    float64, relative to the largest true value: at the end of `convert`, before new weights are rounded, so that it is
    below 1e-9 for an exact rewrite; between two files, rounding of the weights to their format is included (about
    1e-7 in float32). The `optimized` errors are those under onnxruntime's own graph optimizations, which never decide.
    """

    name: str
    verdict: Verdict | Literal["not judged"]
    reason: str
    dtype: str
    elements: int
    constant: bool
    max_error: float | None
    original_max_error: float | None
    rmse_ratio: float | None
    max_abs_difference: float | None
    cosine: float | None
    float64_difference: float | None
    optimized_max_error: float | None
    optimized_original_max_error: float | None


@dataclass(frozen=True)
class RunError:
    """One output of one run: errors to truth, and the largest true magnitude that they are to be seen against."""

    name: str
    max_error: float | None
    original_max_error: float | None
    max_truth: float | None


@dataclass(frozen=True)
class RunResult:
    """One set of inputs; `seed` is None for the user's own data."""

    family: str
    seed: int | None
    binding: str
    sizes: tuple[tuple[str, int], ...]
    outputs: tuple[RunError, ...]


@dataclass(frozen=True)
class CheckResult:
    """The verdict and everything it rests on; `case` is the run that fails worst, if one was made."""

    verdict: Verdict
    reason: str
    outputs: tuple[OutputResult, ...] = ()
    runs: tuple[RunResult, ...] = ()
    warnings: tuple[str, ...] = ()
    provider: str = ""
    onnxruntime: str = ""
    bisect: BisectResult | None = None
    case: Case | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, object]:
        """The `normswap/check/1` document; numbers that are not finite become null."""
        return {
            "schema": SCHEMA,
            **_plain(self),
            "outputs": [_plain(output) for output in self.outputs],
            "runs": [
                {
                    **_plain(run),
                    "sizes": dict(run.sizes),
                    "outputs": [_plain(output) for output in run.outputs],
                }
                for run in self.runs
            ],
            "warnings": list(self.warnings),
            "bisect": None if self.bisect is None else self.bisect.to_json(),
        }


def _plain(record: CheckResult | OutputResult | RunResult | RunError) -> dict[str, JSON]:
    """A record's scalar fields."""
    values: Mapping[str, object] = {item.name: getattr(record, item.name) for item in fields(record)}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
        if value is None or isinstance(value, bool | int | float | str)
    }
