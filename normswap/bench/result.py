"""What a benchmark found, as data: per shape the times of all models and the ratios, one verdict, and the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from normswap.bench.machine import Machine
from normswap.bench.profile import Kind
from normswap.bench.ratio import Ratio, Verdict, worst
from normswap.errors import GoalNotMet, Inconclusive

SCHEMA = "normswap/bench/1"
EXIT_CODES = {"slower": GoalNotMet.exit_code, "inconclusive": Inconclusive.exit_code}


@dataclass(frozen=True)
class Arm:
    """One model on one shape: milliseconds per run; `p99_ms` is None where too few runs were taken to say.

    `ratio` is that of its time to the original's, in the same rounds, and `verdict` what it says; the original's own
    are the control's.
    """

    model: str
    runs: int
    least_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    session_ms: float
    first_run_ms: float
    memory_bytes: int
    ratio: Ratio
    verdict: Verdict | None = None
    profile: tuple[Kind, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """All models on one shape; the first arm is the original, and its ratio that of the control."""

    shapes: str
    arms: tuple[Arm, ...]

    @property
    def control(self) -> Ratio:
        """The original against itself."""
        return self.arms[0].ratio


@dataclass(frozen=True)
class BenchResult:
    """Everything that was measured. The verdict is the worst over all models and shapes."""

    sweeps: tuple[Sweep, ...]
    settings: dict[str, object]
    machine: Machine = field(default_factory=dict)
    onnxruntime: str = ""

    @property
    def verdict(self) -> Verdict:
        """Slower if any is slower, else inconclusive if any is, else equal if any is, else faster."""
        return worst([verdict for _, _, verdict in self._compared()])

    @property
    def ratio(self) -> Ratio:
        """The ratio that the verdict rests on."""
        return self._decisive()[1].ratio

    @property
    def control(self) -> Ratio:
        """The control of that ratio."""
        return self._decisive()[0].control

    @property
    def exit_code(self) -> int:
        """0, 1 if a model is slower, 4 if that cannot be told (DESIGN.md §8)."""
        return EXIT_CODES.get(self.verdict, 0)

    def _compared(self) -> Sequence[tuple[Sweep, Arm, Verdict]]:
        return [(sweep, arm, arm.verdict) for sweep in self.sweeps for arm in sweep.arms if arm.verdict is not None]

    def _decisive(self) -> tuple[Sweep, Arm]:
        same = [(sweep, arm) for sweep, arm, verdict in self._compared() if verdict == self.verdict]
        return max(same, key=lambda pair: pair[1].ratio.median)

    def to_json(self) -> dict[str, object]:
        """The `normswap/bench/1` document."""
        sweeps = [asdict(sweep) for sweep in self.sweeps]
        decisive = next(i for i, sweep in enumerate(self.sweeps) if sweep is self._decisive()[0])
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "ratio": asdict(self.ratio),
            "control": asdict(self.control),
            "arms": sweeps[decisive]["arms"],
            "sweeps": sweeps,
            "settings": self.settings,
            "machine": self.machine,
            "onnxruntime": self.onnxruntime,
        }
