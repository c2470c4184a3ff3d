"""Fingerprint: which values of a region are `gain · RMS(ε)(Center(x)) + bias`, found by running it, not by reading it.

RMS∘Center and RMS are odd, so the bias is the even part of the region's answer to ±u. What is left, divided by the
(centered) probe, is gain/√(ms + ε): two scales give ε, then the gain. Fresh probes of other kinds prove the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from normswap import probes
from normswap.diagnose import Observation, reason_against
from normswap.facts import Facts
from normswap.form_candidates import is_piecewise, other, plain
from normswap.forms import TOLERANCE, Form, solved
from normswap.naming import size_of
from normswap.offsets import bent
from normswap.reference import Array, Floats, Unexecutable
from normswap.regions import Region, Shape
from normswap.setting import Setting, settings

# What float64 leaves of a number that was solved for.
ROUNDING = 1e-11
# What a target may be, seen from one probe.
Forms = Callable[[Observation, ir.Value], Iterable[Form]]


@dataclass(frozen=True, eq=False)
class Affine:
    """The constant gain and bias of one value, of x's rank, with size 1 along the axes they ignore."""

    gain: Floats
    bias: Floats

    def fits(self, shape: Shape) -> bool:
        """Whether gain and bias broadcast against a value of this shape without widening it."""
        try:
            return np.broadcast_shapes(self.gain.shape, self.bias.shape, shape) == shape
        except ValueError:
            return False

    @np.errstate(invalid="ignore")  # infinity less infinity
    def agrees(self, value: Array, core: Floats) -> bool:
        """Whether the value is gain · core + bias, up to `TOLERANCE` of gain · core and the rounding of the sum."""
        scaled = self.gain * core
        if value.shape != scaled.shape or value.dtype != np.float64:
            return False
        rounding = 64 * np.finfo(np.float64).eps * (np.abs(self.gain).max() + np.abs(self.bias).max())
        error = np.abs(value.astype(np.float64) - scaled - self.bias)
        ordinary = np.isfinite(scaled)
        loudest = float(np.abs(scaled[ordinary]).max(initial=0.0))
        # over a zero, zero is NaN, and what a statistic of other elements divides is infinite, of one sign
        same = (np.isnan(scaled) & np.isnan(value)) | (scaled == value)
        allowed = np.where(ordinary, error <= TOLERANCE * loudest + rounding, same)
        return bool(allowed.all())


@dataclass(frozen=True, eq=False)
class Match:
    """What a region was found to be: a form, and which of its targets (by number) have it."""

    form: Form
    targets: frozenset[int]


# Probes go where no input would: overflow, and divisions by zero, are answers.
@np.errstate(all="ignore")
def match(region: Region, facts: Facts) -> Match | str:
    """What a region is, proved on fresh probes of other kinds, or the id of the reason why it is no norm.

    Whole groups with ε under the root come first; other groups, and other places of ε, where that is not it.
    """
    targets = region.targets(facts)
    both = settings(region, facts)
    if both is None:
        return "not-executable"
    reasons: list[str] = []
    try:
        seen = Observation.of(both[0])
        for forms in (plain, other):
            for form, affines in _alike_on_a_plain_probe(seen, targets, forms):
                found = _tested(region, both, form, affines, targets)
                if isinstance(found, Match):
                    return _reason_against(form, facts.dims(region.x) or ()) or found
                reasons.append(found)
        return reasons[0] if reasons else reason_against(region, seen, targets, facts)
    except Unexecutable:
        return "not-executable"


def _reason_against(form: Form, dims: Sequence[int | None]) -> str | None:
    """The id of the reason why a form that was proved is no norm that has a name."""
    if form.place == "outside" and not form.center and form.elements is None:  # pRMSNorm was released so
        return "epsilon-outside"
    return "size-dependent" if form.total and form.center and size_of(form, dims) is None else None


def _alike_on_a_plain_probe(
    seen: Observation, targets: Sequence[ir.Value], forms: Forms
) -> Iterator[tuple[Form, dict[ir.Value, Affine]]]:
    """The `forms` of the first target that has any on a plain probe; the Affines of all targets that have it too."""
    setting, found = seen.setting, False
    for target in targets:
        for candidate in forms(seen, target) if not found and _answers(target, seen) else ():
            form = solved(candidate, seen.u, partial(seen.answer, target))
            if form is None:
                continue
            affines = {t: _affine(form, seen.u, seen.values[t], seen.odd[t]) for t in targets if _answers(t, seen)}
            fresh = next(probes.ordinary(setting.shape, form.scale, np.random.default_rng(probes.SEED + 1)))
            have = proved(setting, form, affines, [fresh])
            if target in have:
                found = True
                yield form, {t: part for t, part in affines.items() if t in have}


def _tested(
    region: Region,
    both: Sequence[Setting],
    form: Form,
    affines: Mapping[ir.Value, Affine],
    targets: Sequence[ir.Value],
) -> Match | str:
    """The match that stands on probes of every kind, or the reason why none does.

    A target that falls at a later probe takes all that follow from it along.
    """
    piecewise = is_piecewise(region)
    random, reason = probes.generator(), "not-a-norm"
    for stage, setting, fresh in (
        ("other-statistic", both[0], probes.ordinary(both[0].shape, form.scale, random)),
        ("size-dependent", both[1], probes.ordinary(both[1].shape, form.scale, random)),
        ("piecewise", both[0], probes.piercing(both[0], form.axes, random) if piecewise else ()),
    ):
        fallen = affines.keys() - proved(setting, form, affines, fresh)
        if stage == "piecewise" and piecewise and form.center:
            fallen |= bent(setting, form, {target: (part.gain, part.bias) for target, part in affines.items()})
        if fallen:
            first = min(targets.index(target) for target in fallen)
            affines = {target: part for target, part in affines.items() if targets.index(target) < first}
            reason = "piecewise" if piecewise else stage
    return Match(form, frozenset(targets.index(target) for target in affines)) if affines else reason


def _answers(target: ir.Value, seen: Observation) -> bool:
    """Whether a value of the probe's shape depends on its sign by more than the rounding of what cancels out in it."""
    if target not in seen.odd:
        return False
    return bool(np.abs(seen.odd[target]).max() > TOLERANCE * np.abs(seen.values[target].astype(np.float64)).max())


# --- the Affine -----------------------------------------------------------------------------------------------------


def _affine(form: Form, u: Floats, value: Array, odd: Floats) -> Affine:
    """The gain and bias with which the value has this form, each collapsed to size 1 along the axes it ignores."""
    gain = odd / form.core(u)
    loudest = float(np.abs(odd).max())
    bias = value.astype(np.float64) - odd
    bias[np.abs(bias) <= ROUNDING * loudest] = 0.0
    return Affine(_collapsed(gain, 0.0), _collapsed(bias, ROUNDING * loudest))


def _collapsed(array: Floats, slack: float) -> Floats:
    """The array with size 1 along every axis on which it does not depend."""
    allowed = slack + ROUNDING * float(np.abs(array).max(initial=0.0))
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        same = bool((np.abs(array - first) <= allowed).all())
        if same:
            array = array.mean(axis=axis, keepdims=True)
    return array


def proved(setting: Setting, form: Form, affines: Mapping[ir.Value, Affine], fresh: Iterable[Floats]) -> set[ir.Value]:
    """Those targets that are what their formula says on every fresh probe. Raises `Unexecutable`."""
    standing = {target for target, part in affines.items() if part.fits(setting.shape)}
    for x in fresh if standing else ():
        values, core = setting.run(x), form.core(x)
        standing = {target for target in standing if affines[target].agrees(values[target], core)}
        if not standing:
            break
    return standing


@np.errstate(all="ignore")
def parameters(region: Region, found: Match, facts: Facts) -> tuple[Setting, dict[ir.Value, Affine]] | None:
    """The gain and bias of each matching target of one region of a known form; None where the first one has another.

    The region's own constant vectors are read here, and checked on a plain probe and on one around ε's own scale.
    """
    targets = [target for number, target in enumerate(region.targets(facts)) if number in found.targets]
    ready = settings(region, facts, bindings=(0,))
    if ready is None:
        return None
    (setting,), form, random = ready, found.form, probes.generator()
    u = probes.well_conditioned(setting.shape, random)
    try:
        values, minus = setting.run(u), setting.run(-u)
        odd = {target: (values[target].astype(np.float64) - minus[target].astype(np.float64)) / 2 for target in targets}
        affines = {target: _affine(form, u, values[target], odd[target]) for target in targets}
        fresh = [scale * random.standard_normal(setting.shape) for scale in (1.0, form.scale or 1.0)]
        standing = proved(setting, form, affines, fresh)
    except Unexecutable:
        return None
    affines = {target: part for target, part in affines.items() if target in standing}
    return (setting, affines) if targets[0] in affines else None
