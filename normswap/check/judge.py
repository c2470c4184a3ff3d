"""From the results of all arms to a verdict with its reasons.

`judge` is a function of what was run: it measures every output of every run, pools them, applies the bounds of
`verdict`, and says whether a second look (rounding noise, more seeds) could change its mind.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from normswap.check import files
from normswap.check import verdict as rules
from normswap.check.arms import Arm
from normswap.check.inputs import Case
from normswap.check.measure import Error, error, is_float, measure, relative_difference
from normswap.check.result import CheckResult, OutputResult, RunError, RunResult, Verdict
from normswap.check.verdict import Pooled, Sample, epsilon, pool
from normswap.reference import Array, promote


@dataclass(frozen=True)
class Evidence:
    """The arms that were run; `no_truth` says why there is none.

    `must_be_exact`: the converted model was evaluated before its weights were rounded, so only float64's own rounding
    may separate it from the truth.
    """

    names: Sequence[str]
    cases: Sequence[Case]
    original: Arm
    converted: Arm
    changed_outputs: frozenset[str]
    notes: tuple[str, ...]
    optimized: tuple[Arm | None, Arm | None] = (None, None)
    truth: Arm | None = None
    converted_truth: Arm | None = None
    controls: tuple[Arm, ...] = ()
    noise: Arm | None = None
    no_truth: str = ""
    must_be_exact: bool = False

    def noting(self, note: str) -> Evidence:
        """The same with one more warning."""
        return replace(self, notes=(*self.notes, note))


@dataclass(frozen=True)
class Judged:
    """The result; whether rounding noise or more inputs could still change it."""

    result: CheckResult
    needs_noise: bool
    open_to_change: bool


@dataclass(frozen=True)
class _Output:
    """What the runs show about one output."""

    samples: Sequence[Sample]
    constant: bool
    float64_difference: float | None
    dtype: np.dtype[np.generic]


def judge(evidence: Evidence) -> Judged:
    """Judge all outputs of all runs."""
    seen = [_observe(evidence, index) for index in range(len(evidence.names))]
    outputs: list[OutputResult] = []
    needs_noise = open_to_change = False
    warnings = list(evidence.notes)
    for name, output in zip(evidence.names, seen, strict=True):
        judged = name not in evidence.changed_outputs
        result, doubtful = _judge_output(name, output, evidence)
        if judged:
            needs_noise |= doubtful and evidence.noise is None and evidence.truth is not None
            open_to_change |= result.verdict == "fail" and _may_change(output)
        else:
            result = replace(result, verdict="not judged", reason="the change of this output was accepted")
        outputs.append(result)
        if is_float_dtype(output.dtype) and rules.miscomputed(output.samples, epsilon(output.dtype)):
            warnings.append(f"onnxruntime's own optimizations miscompute output `{name}` of the original model")
        if output.constant and judged:
            warnings.append(f"output `{name}` does not depend on the inputs that were tried")

    for run, case in enumerate(evidence.cases):
        warnings += files.unreproduced(case, evidence.names, evidence.original.read(run))
    verdicts = {o.name: str(o.verdict) for o in outputs if o.verdict != "not judged"}
    varying = [name for name, output in zip(evidence.names, seen, strict=True) if not output.constant]
    verdict = rules.overall(verdicts, varying)
    whole = CheckResult(
        _verdict(verdict), _reason(verdict, outputs, varying, evidence), tuple(outputs), _runs(evidence, seen),
        tuple(dict.fromkeys(warnings)), case=_worst(evidence, seen, outputs) if verdict == "fail" else None,
    )  # fmt: skip
    return Judged(whole, needs_noise, open_to_change)


def _worst(evidence: Evidence, seen: Sequence[_Output], results: Sequence[OutputResult]) -> Case:
    """The run on which the outputs that fail do so by the largest factor."""
    failing = [output for output, result in zip(seen, results, strict=True) if result.verdict == "fail"]

    def excess(run: int) -> float:
        return max(rules.excess(output.samples[run], _spacing(output.dtype)) for output in failing)

    return evidence.cases[max(range(len(evidence.cases)), key=excess)]


def _spacing(dtype: np.dtype[np.generic]) -> float:
    return epsilon(dtype) if is_float_dtype(dtype) else 0.0


def _may_change(output: _Output) -> bool:
    return is_float_dtype(output.dtype) and rules.may_change(pool(output.samples), epsilon(output.dtype))


def is_float_dtype(dtype: np.dtype[np.generic]) -> bool:
    """Whether errors of this dtype can be measured."""
    return is_float(np.empty(0, dtype))


def _verdict(text: str) -> Verdict:
    return "pass" if text == "pass" else "fail" if text == "fail" else "inconclusive"


def _observe(evidence: Evidence, index: int) -> _Output:
    samples: list[Sample] = []
    by_shape: dict[tuple[int, ...], list[Array]] = defaultdict(list)
    differences: list[float] = []
    dtype: np.dtype[np.generic] = np.dtype(np.float32)
    for run, case in enumerate(evidence.cases):
        original, converted = evidence.original.read(run)[index], evidence.converted.read(run)[index]
        truth = None if evidence.truth is None else evidence.truth.read(run)[index]
        dtype = original.dtype
        by_shape[original.shape].append(original)
        measured = measure(truth, original, converted)
        controls: tuple[Error, ...] = ()
        optimized: tuple[Error | None, Error | None] = (None, None)
        if truth is not None and measured.original is not None:
            others = [*evidence.controls, *([] if evidence.noise is None else [evidence.noise])]
            controls = tuple(_error(arm.read(run)[index], truth) for arm in others)
            first, second = (None if arm is None else _error(arm.read(run)[index], truth) for arm in evidence.optimized)
            optimized = (first, second)
            if evidence.converted_truth is not None:
                difference = relative_difference(truth, evidence.converted_truth.read(run)[index])
                differences += [] if difference is None else [difference]
        samples.append(Sample(case.family, measured, controls, optimized))
    constant = all(np.array_equal(a, same[0], equal_nan=is_float(a)) for same in by_shape.values() for a in same[1:])
    return _Output(samples, constant, max(differences, default=None), dtype)


def _error(computed: Array, truth: Array) -> Error:
    """The error of an arm that only informs: a different shape counts as infinitely wrong."""
    if computed.shape != truth.shape:
        return Error(math.inf, math.inf)
    return error(promote(computed).astype(np.float64), truth.astype(np.float64))


def _judge_output(name: str, output: _Output, evidence: Evidence) -> tuple[OutputResult, bool]:
    """The line of one output, and whether more evidence could change its verdict."""
    samples, pooled = output.samples, pool(output.samples)
    verdict, reason, doubtful = _decide(output, pooled, evidence)
    floats = is_float_dtype(output.dtype)
    original, optimized = [[s.optimized[i] for s in samples] for i in (0, 1)]
    norms = [s.measured.norms for s in samples]
    cosines = [s.measured.dot / math.sqrt(a * b) for s, (a, b) in zip(samples, norms, strict=True) if a and b]
    ratios = [p.ratio for p in pooled]
    result = OutputResult(
        name=name,
        verdict=verdict,
        reason=reason,
        dtype=str(output.dtype),
        elements=sum(s.measured.elements for s in samples),
        constant=output.constant,
        max_error=max((p.converted.largest for p in pooled), default=None),
        original_max_error=max((p.original.largest for p in pooled), default=None),
        rmse_ratio=None if None in ratios else max((r for r in ratios if r is not None), default=None),
        max_abs_difference=max((s.measured.difference for s in samples), default=None) if floats else None,
        cosine=min(cosines, default=None),
        float64_difference=output.float64_difference,
        optimized_max_error=_largest(optimized),
        optimized_original_max_error=_largest(original),
    )
    return result, doubtful


def _largest(errors: Sequence[Error | None]) -> float | None:
    return max((e.largest for e in errors if e is not None), default=None)


Line = Literal["pass", "fail", "inconclusive"]


def _decide(output: _Output, pooled: Sequence[Pooled], evidence: Evidence) -> tuple[Line, str, bool]:
    for case, sample in zip(evidence.cases, output.samples, strict=True):
        if sample.measured.mismatch:
            return "fail", f"{sample.measured.mismatch} on {case.family} inputs", False
    if not is_float_dtype(output.dtype):
        return "pass", "equal in every element", False
    if not any(s.measured.finite for s in output.samples):
        return "inconclusive", "not one value is finite, in either model", False
    if evidence.truth is None:
        return "inconclusive", f"no float64 truth: {evidence.no_truth}", False
    for sample in output.samples:
        if sample.measured.truth_disagrees:
            return "inconclusive", sample.measured.truth_disagrees, False
    if evidence.must_be_exact and (output.float64_difference or 0.0) > rules.EXACT:
        difference = f"{output.float64_difference:.1e}"
        return "fail", f"in float64, before any rounding, the two models differ by {difference}", False
    eps = epsilon(output.dtype)
    unexplained = [family for family in pooled if rules.unexplained(family, eps)]
    for family in pooled:  # where the original and its truth agree, a failure is one, whatever happens elsewhere
        if family not in unexplained and (reason := rules.too_large(family, eps)):
            return "fail", reason, True
    for family in unexplained:
        reason = (
            f"onnxruntime and the float64 evaluation of the original disagree by {family.original.largest:.3g} "
            f"where values reach {family.scale:.3g}, more than rounding explains: one of them is wrong"
        )
        return "inconclusive", reason, True
    return "pass", "as close to the float64 truth as the original", any(rules.suspicious(p, eps) for p in pooled)


def _reason(verdict: str, outputs: Sequence[OutputResult], varying: Sequence[str], evidence: Evidence) -> str:
    judged = [o for o in outputs if o.verdict != "not judged"]
    runs = f"{len(evidence.cases)} run{'' if len(evidence.cases) == 1 else 's'}"
    if verdict != "pass":
        found = [f"output `{o.name}`: {o.reason}" for o in judged if o.verdict == verdict]
        if found:
            seen = ""
            if evidence.truth is None:
                gaps = [o.max_abs_difference for o in judged if o.max_abs_difference is not None]
                seen = f"; as deployed the two models differ by at most {max(gaps):.3g}" if gaps else ""
            return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "") + seen
        return "no output was judged" if not judged else "no output depends on the inputs that were tried"
    ratios = [o.rmse_ratio for o in judged if o.rmse_ratio is not None]
    worst = ""
    if ratios:
        allowed = f"where {rules.FACTOR:g} are allowed"
        if max(ratios) > rules.FACTOR:
            allowed = "which is within what rounding its outputs may make"
        worst = f": at most {max(ratios):.2f} times its error, {allowed}"
    return f"about as close to the float64 truth as the original{worst}; {runs}"


def _runs(evidence: Evidence, seen: Sequence[_Output]) -> tuple[RunResult, ...]:
    return tuple(
        RunResult(
            case.family,
            case.seed,
            case.binding.name,
            case.binding.sizes,
            tuple(
                RunError(
                    name,
                    None if (m := output.samples[run].measured).converted is None else m.converted.largest,
                    None if m.original is None else m.original.largest,
                    m.max_truth if is_float_dtype(output.dtype) else None,
                )
                for name, output in zip(evidence.names, seen, strict=True)
            ),
        )
        for run, case in enumerate(evidence.cases)
    )
