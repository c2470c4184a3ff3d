"""The course of a check: interface, inputs, every arm, truth, verdict.

The verdict rests on onnxruntime with its optimizations off; the optimized arms are reported. Where the first verdict
is a failure by rounding only, or the truth looks wrong, a second look asks how much the original amplifies rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from normswap.check import arms, files, inputs, runtime, sources
from normswap.check.arms import Arm
from normswap.check.choose import Plan, choose
from normswap.check.inputs import Case
from normswap.check.interface import Interface, compare, interface
from normswap.check.judge import Evidence, judge
from normswap.check.ranges import role
from normswap.check.result import CheckResult
from normswap.check.runtime import Rejected
from normswap.check.truth import TruthUnavailable, Unrounded
from normswap.errors import UsageError
from normswap.model import Source
from normswap.reference import Array

REPEATS = 8
"""Fresh seeds of the second look: when an output has too few elements for its largest error to mean much, and when a
failure is a close one. The factors allowed stay the same; both models' errors are measured on more inputs."""


@dataclass(frozen=True)
class Request:
    """What is compared, and how."""

    original: Path
    converted: Path
    control: Path | None
    provider: str
    quick: bool
    changed_outputs: frozenset[str]
    unrounded: Unrounded | None
    fractions: Unrounded
    progress: Callable[[str], None]


def check(
    original: Source,
    converted: Source,
    *,
    provider: str,
    given: Path | Mapping[str, Array] | None,
    quick: bool,
    control: Source | None,
    changed_outputs: frozenset[str],
    unrounded: Unrounded | None,
    fractions: Unrounded,
    progress: Callable[[str], None],
) -> CheckResult:
    """See `normswap.check.check`."""
    version = runtime.require(provider)
    with TemporaryDirectory(prefix="normswap-check-") as folder:
        scratch = Path(folder)
        paths = [
            None if source is None else sources.place(source, _new(scratch / name))
            for name, source in (("original", original), ("converted", converted), ("control", control))
        ]
        assert paths[0] is not None
        assert paths[1] is not None
        request = Request(
            paths[0], paths[1], paths[2], provider, quick, changed_outputs, unrounded, fractions, progress
        )
        result = _check(request, given, scratch)
    return replace(result, provider=provider, onnxruntime=version)


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _check(request: Request, given: Path | Mapping[str, Array] | None, scratch: Path) -> CheckResult:
    request.progress("comparing the interfaces")
    model = sources.load(request.original)
    expected = interface(model)
    if unknown := request.changed_outputs - {port.name for port in expected.outputs}:
        raise UsageError(f"`{min(unknown)}` is not an output of the original")
    comparison = compare(expected, interface(sources.load(request.converted)))
    if comparison.broken:
        return CheckResult("fail", "the interface changed: " + "; ".join(comparison.broken), warnings=comparison.notes)
    own = {value.name: value for value in model.graph.inputs}
    roles = [role(own[port.name]) for port in expected.inputs]
    chosen = inputs.families(expected.inputs, roles, quick=request.quick)
    data = [] if given is None else files.load(given, expected)

    result = CheckResult("inconclusive", "")
    for repeats in (1, REPEATS):
        plan = Plan(expected.inputs, roles, chosen, repeats, request.quick)
        try:
            choice = choose(request.original, request.provider, plan, data, request.progress)
        except Rejected as error:
            return CheckResult(
                "inconclusive", f"onnxruntime cannot run the original: {error}", warnings=comparison.notes
            )
        notes = (*comparison.notes, *choice.notes)
        result, again = _compare(request, expected, choice.cases, notes, _new(scratch / f"x{repeats}"))
        if not again:
            break
    return result


def _compare(
    request: Request, ports: Interface, cases: Sequence[Case], notes: tuple[str, ...], scratch: Path
) -> tuple[CheckResult, bool]:
    """The result of all arms on `cases`, and whether more seeds could overturn it."""
    names = [port.name for port in ports.outputs]

    def deployed(path: Path, name: str, *, optimized: bool = False) -> Arm:
        request.progress(f"onnxruntime: {name}")
        return arms.deployed(path, request.provider, cases, scratch / name, optimized=optimized)

    try:
        original = deployed(request.original, "original")
    except Rejected as error:
        return CheckResult("inconclusive", f"onnxruntime cannot run the original: {error}", warnings=notes), False
    try:
        converted = deployed(request.converted, "converted")
    except Rejected as error:
        reason = f"onnxruntime runs the original but not the converted model: {error}"
        return CheckResult("fail", reason, warnings=notes, case=cases[0]), False
    evidence = Evidence(names, cases, original, converted, request.changed_outputs, notes)
    if request.provider == "cpu" and any(array.dtype == np.float16 for array in original.read(0)):
        evidence = evidence.noting("float16 outputs: onnxruntime's CPU provider computes in float32, a GPU may not")

    def optimized(path: Path, name: str) -> tuple[Arm | None, str]:
        try:
            return deployed(path, f"{name} optimized", optimized=True), ""
        except Rejected as error:
            return None, f"with onnxruntime's own optimizations the {name} model does not run: {error}"

    arms_on = [optimized(request.original, "original"), optimized(request.converted, "converted")]
    if arms_on[0][0] is not None and arms_on[1][0] is None:
        return CheckResult("fail", f"{arms_on[1][1]}; the original does", warnings=notes, case=cases[0]), False
    evidence = replace(
        evidence,
        optimized=(arms_on[0][0], arms_on[1][0]),
        notes=(*evidence.notes, *(note for _, note in arms_on if note)),
    )

    try:
        request.progress("float64: original")
        truth = arms.exact(request.original, cases, scratch / "truth", unrounded=request.fractions)
        evidence = replace(evidence, truth=truth)
    except TruthUnavailable as error:
        return judge(replace(evidence, no_truth=str(error))).result, False
    try:
        request.progress("float64: converted")
        known = {**request.fractions, **(request.unrounded or {})}
        exact = arms.exact(request.converted, cases, scratch / "converted truth", unrounded=known)
        evidence = replace(evidence, converted_truth=exact, must_be_exact=request.unrounded is not None)
    except TruthUnavailable as error:
        evidence = evidence.noting(f"the converted model could not be run in float64: {error}")
    if request.control is not None:
        try:
            evidence = replace(evidence, controls=(deployed(request.control, "control"),))
        except Rejected as error:
            evidence = evidence.noting(f"onnxruntime cannot run the control: {error}")

    judged = judge(evidence)
    if judged.needs_noise:
        request.progress("float64 with rounding noise: original")
        try:
            noise = arms.exact(request.original, cases, scratch / "noise", noisy=True, unrounded=request.fractions)
        except TruthUnavailable as error:
            return judge(
                evidence.noting(f"rounding noise could not be simulated: {error}")
            ).result, judged.open_to_change
        judged = judge(replace(evidence, noise=noise))
    return judged.result, judged.open_to_change
