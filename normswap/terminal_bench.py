"""What people read of a benchmark: the times of all models, the ratios with their intervals, and what they say."""

from __future__ import annotations

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from normswap.bench.profile import Kind
from normswap.bench.ratio import EFFECT, trusted
from normswap.bench.result import Arm, BenchResult, Sweep
from normswap.terminal import escaped, heading, line, table

VERDICT_STYLES = {"faster": "bold green", "slower": "bold red", "inconclusive": "bold yellow"}
COLUMNS = ("model", "p50 ms", "p90 ms", "p99 ms", "least ms", "ratio [95 %]", "session ms", "first ms", "memory", "")
PROFILE = ("operator", "nodes", "µs", "nodes", "µs", "difference µs")
# Kinds of operators that are shown of a profile: those whose times changed most.
MOST_KINDS = 12


def show_bench(out: Console, result: BenchResult) -> None:
    """One table per shape, where the time goes if that was asked for, and the verdict."""
    line(out, _conditions(result))
    for sweep in result.sweeps:
        heading(out, sweep.shapes or "no inputs")
        table(out, COLUMNS, (_cells(arm) for arm in sweep.arms), right=tuple(range(1, 9)))
        if not trusted(sweep.control):
            line(out, f"the original differs from itself: {sweep.control}; nothing can be said about another model")
        _profiles(out, sweep)
    style = VERDICT_STYLES.get(result.verdict, "bold")
    out.print(Text(result.verdict, style=style) + escaped(f": {result.ratio} (control {result.control})"))


def _conditions(result: BenchResult) -> str:
    settings, machine = result.settings, result.machine
    spinning = "spinning" if settings["spinning"] else "not spinning"
    without = settings["without"]
    disabled = f" without {', '.join(without)}" if isinstance(without, tuple) and without else ""
    load = "" if machine["load"] is None else f", load {machine['load']:.1f}"
    return (
        f"onnxruntime {result.onnxruntime} on {settings['provider']}, all optimizations{disabled}, "
        f"threads: {settings['threads']}, {spinning}; {settings['rounds']} interleaved rounds; "
        f"{machine['cpus']} × {machine['processor']}{load}; differences below {EFFECT:.0%} are not called any"
    )


def _cells(arm: Arm) -> tuple[str, ...]:
    name = arm.model if arm.verdict is not None else f"{arm.model} (and as control)"
    p99 = "" if arm.p99_ms is None else f"{arm.p99_ms:.3f}"
    times = (f"{arm.p50_ms:.3f}", f"{arm.p90_ms:.3f}", p99, f"{arm.least_ms:.3f}")
    start = (f"{arm.session_ms:.0f}", f"{arm.first_run_ms:.1f}", decimal(arm.memory_bytes))
    return name, *times, str(arm.ratio), *start, arm.verdict or ""


def _profiles(out: Console, sweep: Sweep) -> None:
    """Each model's kinds of operators next to the original's, those that changed most first."""
    original = sweep.arms[0]
    for arm in sweep.arms[1:] if original.profile else ():
        heading(out, f"where the time goes: {original.model} → {arm.model}")
        table(out, PROFILE, _changes(original, arm)[:MOST_KINDS], right=range(1, 6))


def _changes(original: Arm, converted: Arm) -> list[tuple[str, ...]]:
    before, after = ({kind.operator: kind for kind in arm.profile} for arm in (original, converted))
    nothing = Kind("", 0, 0.0)
    pairs = [(name, before.get(name, nothing), after.get(name, nothing)) for name in {**before, **after}]
    pairs.sort(key=lambda pair: -abs(pair[2].microseconds - pair[1].microseconds))
    return [
        (
            name,
            *(f"{one.nodes:,}", f"{one.microseconds:,.0f}"),
            *(f"{other.nodes:,}", f"{other.microseconds:,.0f}"),
            f"{other.microseconds - one.microseconds:+,.0f}",
        )
        for name, one, other in pairs
    ]
