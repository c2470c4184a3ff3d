"""The course of a search: the rewrites that break the model, the first value that diverges, and a reproducer of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from normswap.bisect import reproducer
from normswap.bisect.divergence import Divergence, divergence, first_divergence
from normswap.bisect.observation import observe
from normswap.bisect.relation import Axes
from normswap.bisect.reproducer import Unwritable
from normswap.bisect.result import BisectResult
from normswap.check import files, protocol, sources
from normswap.check.inputs import Case
from normswap.check.interface import interface
from normswap.check.result import CheckResult
from normswap.check.runtime import Rejected
from normswap.check.truth import TruthUnavailable, Unrounded
from normswap.model import Source


@dataclass(frozen=True)
class Request:
    """The failed check: its models, how it was done, and where a reproducer is to be written, if at all."""

    original: Source
    converted: Source
    provider: str
    changed_outputs: frozenset[str]
    unrounded: Unrounded | None
    reproduce: Path | None
    progress: Callable[[str], None]


def locate(request: Request, case: Case | None, found: BisectResult) -> BisectResult:
    """`found`, with the first divergence of the two models on `case`, and a reproducer of it."""
    if case is None:
        return _noting(found, "no values were compared, since nothing was run")
    with TemporaryDirectory(prefix="normswap-bisect-") as folder:
        scratch = Path(folder)
        try:
            paths = [
                sources.place(source, _new(scratch / name))
                for name, source in (("original", request.original), ("converted", request.converted))
            ]
            found_at = _diverge(request, paths[0], paths[1], case, scratch)
        except (TruthUnavailable, Rejected) as error:
            return _noting(found, f"no values were compared: {error}")
        if found_at is None:
            return _noting(found, "on the run that fails worst, no output differs by more than rounding explains")
        centered = [name for name, axes in {**found_at.agree, found_at.first: found_at.axes}.items() if axes]
        found = replace(
            found,
            agree=tuple(found_at.agree),
            centered=tuple(centered),
            differ=found_at.differ,
            first=found_at.first,
            arithmetic=found_at.observation.arithmetic,
        )
        return found if request.reproduce is None else _reproduce(request, request.reproduce, found_at, found)


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _noting(found: BisectResult, note: str) -> BisectResult:
    return replace(found, notes=(*found.notes, note))


def _diverge(request: Request, original: Path, converted: Path, case: Case, scratch: Path) -> Divergence | None:
    """The first divergence, in the first arithmetic in which there is one."""
    request.progress("bisect: running both models, every value kept")
    for observation in observe(
        original,
        converted,
        case,
        scratch / "values",
        provider=request.provider,
        unjudged=request.changed_outputs,
        unrounded=request.unrounded,
    ):
        request.progress(f"bisect: comparing {len(observation.pair.names)} values in {observation.arithmetic}")
        found = first_divergence(observation)
        if found is not None:
            return found
    return None


def _reproduce(request: Request, destination: Path, first: Divergence, found: BisectResult) -> BisectResult:
    """Write the first pair of parts that fails the check by itself: up to the divergence, or else to an output."""
    others = [name for name in first.observation.failing() if name != first.first]
    why = ""
    for way in (first, *(divergence(first.observation, name) for name in others)):
        request.progress(f"bisect: a reproducer for `{way.first}`")
        with reproducer.beside(destination) as folder:
            built, scratch = _new(Path(folder) / "reproducer"), Path(folder) / "values"
            try:
                original, converted = reproducer.build(way, built)
            except Unwritable as error:
                why = str(error)
                continue
            result = _check(request, original, converted, built / reproducer.INPUTS)
            if result.verdict != "fail" or not _diverges(request, way, original, converted, scratch):
                why = f"the part that computes `{way.first}` passes the check by itself"
                continue
            reproducer.publish(built, _readme(way, found, result), destination)
            nodes = len(sources.load(destination / reproducer.CONVERTED).graph)
            return replace(found, reproducer=str(destination), nodes=nodes)
    return _noting(found, f"no reproducer was written: {why}")


def _check(request: Request, original: Path, converted: Path, inputs: Path) -> CheckResult:
    """What the command in the README will find."""
    return protocol.check(
        original,
        converted,
        provider=request.provider,
        given=inputs,
        quick=False,
        control=None,
        changed_outputs=frozenset(),
        unrounded=None,
        fractions={},
        progress=request.progress,
    )


def _diverges(request: Request, way: Divergence, original: Path, converted: Path, scratch: Path) -> bool:
    """Whether the parts differ on their own inputs, as the models did: not only on others, for another reason."""
    inputs = files.load(original.parent / reproducer.INPUTS, interface(sources.load(original)))
    looks = observe(original, converted, inputs[0], scratch, provider=request.provider)
    return any(look.failing() for look in looks if look.arithmetic == way.observation.arithmetic)


def _readme(way: Divergence, found: BisectResult, result: CheckResult) -> str:
    lines = [reproducer.TITLE, "", "These two parts of two models compute the same value, or ought to:"]
    lines += [
        f"  {way.first}{_over(way.axes, reproducer.ORIGINAL)}",
        "from values on which the two models still agree:",
    ]
    lines += [f"  {name}{_over(axes, reproducer.CONVERTED)}" for name, axes in way.agree.items()]
    if found.sites:
        lines += ["The converted model is the one with these rewrites only:", *(f"  {site}" for site in found.sites)]
    lines += ["They do not. Run", "", f"  {reproducer.COMMAND}", ""]
    lines += [f"which says: {result.verdict}: {result.reason}", ""]
    return "\n".join(lines)


def _over(axes: Axes, where: str) -> str:
    return f" (less its mean over {', '.join(map(str, axes))}, which {where} subtracts)" if axes else ""
