"""Fingerprint: which values of a region are `gain · RMS(ε)(Center(x)) + bias`, found by running it, not by reading it.

RMS∘Center and RMS are odd, so the bias is the even part of the region's answer to ±u. What is left, divided by the
(centered) probe, is gain/√(ms + ε): two scales give ε, then the gain. Fresh probes of other kinds prove the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import probes, reference, regions
from normswap.diagnose import Observation, odd_part, reason_against
from normswap.facts import Facts
from normswap.norm import PARTS, Kind
from normswap.probes import Setting
from normswap.reference import Array, Floats, Unexecutable
from normswap.regions import Region, Shape

# A region and its formula agree when they differ by less than this, relative to |gain|·|R|: a thousand times the error
# that E[x²] − E[x]² makes at the largest offset probed, and a tenth of what rounding 1/N to float32 would make.
TOLERANCE = 1e-9
# What float64 leaves of a number that was solved for.
ROUNDING = 1e-11
# A first look at ε, from below the square root of every ε in use; √ε itself gives it to full precision afterwards.
TINY = 1e-12
# Center first: what is a LayerNorm of x is no RMSNorm of x.
KINDS: tuple[Kind, ...] = ("LayerNorm", "RMSNorm")


@dataclass(frozen=True)
class Form:
    """A norm up to its constant Affine: the kind, the axes of x, and ε."""

    kind: Kind
    axes: tuple[int, ...]
    epsilon: float

    def core(self, x: Floats) -> Floats:
        """RMS(ε)(Center(x)), with Center only where the kind has it."""
        return reference.root_mean_square(self.base(x), self.axes, self.epsilon)

    def base(self, x: Floats) -> Floats:
        """What is divided by its root mean square: Center(x), or x."""
        return reference.center(x, self.axes) if PARTS[self.kind].center else x


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

    def agrees(self, value: Array, core: Floats) -> bool:
        """Whether the value is gain · core + bias, up to `TOLERANCE` of gain · core and the rounding of the sum."""
        scaled = self.gain * core
        if value.shape != scaled.shape or value.dtype != np.float64:
            return False
        rounding = 64 * np.finfo(np.float64).eps * (np.abs(self.gain).max() + np.abs(self.bias).max())
        error = np.abs(value.astype(np.float64) - scaled - self.bias)
        return bool((error <= TOLERANCE * np.abs(scaled).max() + rounding).all())


@dataclass(frozen=True, eq=False)
class Match:
    """What a region was found to be: a form, and which of its targets (by number) have it."""

    form: Form
    targets: frozenset[int]


# Probes go where no input would: overflow, and divisions by zero, are answers.
@np.errstate(all="ignore")
def match(region: Region, facts: Facts) -> Match | str:
    """What a region is, proved on fresh probes of other kinds, or the id of the reason why it is no norm.

    A target that falls at a later probe takes all that follow from it along.
    """
    targets = region.targets(facts)
    both = probes.settings(region, facts)
    if both is None:
        return "not-executable"
    try:
        form, affines = _first_form(both[0], targets)
        if form is None:
            return reason_against(region, both[0], targets, facts)
        piecewise = any(node.op_type in regions.PIECEWISE for node in region.nodes)
        random, reason = probes.generator(), "not-a-norm"
        for stage, setting, fresh in (
            ("other-statistic", both[0], probes.ordinary(both[0].shape, form.epsilon, random)),
            ("size-dependent", both[1], probes.ordinary(both[1].shape, form.epsilon, random)),
            ("piecewise", both[0], probes.piercing(both[0], random) if piecewise else ()),
        ):
            fallen = affines.keys() - proved(setting, form, affines, fresh)
            if fallen:
                first = min(targets.index(target) for target in fallen)
                affines = {target: part for target, part in affines.items() if targets.index(target) < first}
                reason = "piecewise" if piecewise else stage
    except Unexecutable:
        return "not-executable"
    return Match(form, frozenset(targets.index(target) for target in affines)) if affines else reason


def _first_form(setting: Setting, targets: Sequence[ir.Value]) -> tuple[Form | None, dict[ir.Value, Affine]]:
    """The form of the first target that has one on a plain probe, and the Affines of all targets that have it too."""
    u = probes.well_conditioned(setting.shape, probes.generator())
    seen = Observation.of(setting, u)
    tiny = odd_part(setting, TINY * u)
    for target in targets:
        axes = seen.axes(target) if _answers(target, seen) else ()
        for kind in KINDS if axes else ():
            epsilon = _solve(setting, target, Form(kind, axes, 0.0), u, seen.odd[target], tiny[target])
            if epsilon is None:
                continue
            form = Form(kind, axes, epsilon)
            affines = {t: _affine(form, u, seen.values[t], seen.odd[t]) for t in targets if _answers(t, seen)}
            plain = next(probes.ordinary(setting.shape, epsilon, np.random.default_rng(probes.SEED + 1)))
            have = proved(setting, form, affines, [plain])
            if target in have:
                return form, {t: part for t, part in affines.items() if t in have}
    return None, {}


def _answers(target: ir.Value, seen: Observation) -> bool:
    """Whether a value of the probe's shape depends on its sign by more than the rounding of what cancels out in it."""
    if target not in seen.odd:
        return False
    return bool(np.abs(seen.odd[target]).max() > TOLERANCE * np.abs(seen.values[target].astype(np.float64)).max())


def _solve(setting: Setting, target: ir.Value, form: Form, u: Floats, plain: Floats, tiny: Floats) -> float | None:
    """ε of one target, on the assumption that it has this form; None where no ε makes sense. May be `Unexecutable`.

    With r(a) = v(a·u)/base(a·u) = gain/√(a²·ms + ε) and q = r(1)/r(a): ε = ms·(q² − a²)/(1 − q²).
    """
    if _alike(plain, tiny):
        return 0.0
    if _alike(TINY * plain, tiny):  # linear, as a Center is: a root mean square with no end to its ε
        return None
    epsilon = _epsilon(form, u, plain, tiny, TINY)
    for _ in range(2):
        if not 0 < epsilon < np.inf:
            return None
        scale = float(np.sqrt(epsilon))
        epsilon = _epsilon(form, u, plain, odd_part(setting, scale * u)[target], scale)
    return epsilon if 0 < epsilon < np.inf else None


def _alike(one: Floats, other: Floats) -> bool:
    return bool((np.abs(one - other) <= TOLERANCE * np.abs(one).max()).all())


def _epsilon(form: Form, u: Floats, plain: Floats, scaled: Floats, scale: float) -> float:
    square = (scale * plain / scaled) ** 2
    mean_square = (form.base(u) ** 2).mean(axis=form.axes, keepdims=True)
    found = mean_square * (square - scale**2) / (1 - square)
    usable = np.isfinite(found) & (plain != 0)
    return float(np.median(found[usable])) if usable.any() else float("nan")


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
    """The gain and bias of each matching target of one region of a known form, checked on a fresh probe.

    The region's own constant vectors are read here; None where they make the first of its targets another form.
    """
    targets = [target for number, target in enumerate(region.targets(facts)) if number in found.targets]
    ready = probes.settings(region, facts, bindings=(0,))
    if ready is None:
        return None
    (setting,), form, random = ready, found.form, probes.generator()
    u = probes.well_conditioned(setting.shape, random)
    try:
        values, odd = setting.run(u), odd_part(setting, u)
        affines = {target: _affine(form, u, values[target], odd[target]) for target in targets}
        standing = proved(setting, form, affines, [next(probes.ordinary(setting.shape, form.epsilon, random))])
    except Unexecutable:
        return None
    affines = {target: part for target, part in affines.items() if target in standing}
    return (setting, affines) if targets[0] in affines else None
