"""One output of one run: the original and the converted model as deployed, each against the float64 truth.

Non-finite values are compared by kind and place, integers and booleans exactly, and only what is finite everywhere
has a distance. Sums are kept rather than means, so that runs can be pooled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from normswap.reference import Array, Floats, ml_dtypes_float, promote


@dataclass(frozen=True)
class Error:
    """Distance of a float output to truth: the largest, and the sum of squares."""

    largest: float
    squares: float


@dataclass(frozen=True)
class Measure:
    """What was seen. Errors are None for integers and where there is no truth."""

    elements: int
    mismatch: str  # why the two models' outputs cannot be equal, "" if they may
    finite: int
    max_truth: float
    original: Error | None
    converted: Error | None
    difference: float  # max |converted − original| as deployed
    dot: float
    norms: tuple[float, float]
    truth_disagrees: str  # why the truth is not to be trusted, "" if it is


def is_float(array: Array) -> bool:
    """Whether the dtype is a float, bfloat16 and its kin included."""
    return array.dtype.kind == "f" or ml_dtypes_float(array.dtype)


def measure(truth: Array | None, original: Array, converted: Array) -> Measure:
    """Compare the two models' outputs with each other and with the truth."""
    if original.shape != converted.shape:
        return _different(original, f"shape {list(original.shape)} became {list(converted.shape)}")
    if original.dtype != converted.dtype:
        return _different(original, f"dtype {original.dtype} became {converted.dtype}")
    if not is_float(original):
        count = int(np.count_nonzero(original != converted))
        return _different(original, f"{count} of {original.size} elements differ" if count else "")

    a, b = promote(original).astype(np.float64), promote(converted).astype(np.float64)
    if (places := int(np.count_nonzero(_kind(a) != _kind(b)))) > 0:
        return _different(original, f"NaN or infinity in {places} of {a.size} places of one model only")
    disagrees = ""
    finite = np.isfinite(a)
    if truth is not None:
        if truth.shape != a.shape:
            return _different(original, "", f"the float64 truth has shape {list(truth.shape)}")
        if lost := int(np.count_nonzero(finite & ~np.isfinite(truth))):
            disagrees = f"the float64 truth is not finite in {lost} places where onnxruntime is"
        finite &= np.isfinite(truth)
    a, b = a[finite], b[finite]
    t = None if truth is None else truth.astype(np.float64)[finite]
    return Measure(
        elements=original.size,
        mismatch="",
        finite=int(a.size),
        max_truth=_largest(a if t is None else t),
        original=None if t is None else error(a, t),
        converted=None if t is None else error(b, t),
        difference=_largest(b - a),
        dot=float(a @ b),
        norms=(float(a @ a), float(b @ b)),
        truth_disagrees=disagrees,
    )


def error(computed: Floats, truth: Floats) -> Error:
    """The distance of two float64 arrays of one shape, over the places where both are finite."""
    with np.errstate(invalid="ignore"):
        distance = computed - truth
    distance = distance[np.isfinite(distance)]
    return Error(_largest(distance), float(distance @ distance))


def relative_difference(truth: Array, other: Array) -> float | None:
    """The largest |other − truth| over the largest |truth| of two float64 results.

    None if their shapes or the places of their non-finite values differ.
    """
    if truth.shape != other.shape or not is_float(truth) or not is_float(other):
        return None
    a, b = truth.astype(np.float64), other.astype(np.float64)
    if not np.array_equal(_kind(a), _kind(b)):
        return None
    finite = np.isfinite(a)
    difference, scale = _largest(b[finite] - a[finite]), _largest(a[finite])
    return difference / scale if scale else (0.0 if not difference else float("inf"))


def _largest(array: Floats) -> float:
    return float(np.abs(array).max()) if array.size else 0.0


def _kind(array: Floats) -> npt.NDArray[np.int8]:
    """0 finite, 1 NaN, 2 +infinity, 3 -infinity."""
    kind = np.zeros(array.shape, np.int8)
    kind[np.isnan(array)] = 1
    kind[np.isposinf(array)] = 2
    kind[np.isneginf(array)] = 3
    return kind


def _different(original: Array, mismatch: str, disagrees: str = "") -> Measure:
    finite = 0 if is_float(original) else original.size
    return Measure(original.size, mismatch, finite, 0.0, None, None, 0.0, 0.0, (0.0, 0.0), disagrees)
