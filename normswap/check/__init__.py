"""Compare two models: is the second as close to the true result as the first?

`check` is light to import: onnx, numpy and onnxruntime wait until it is called, and `normswap.check` can be the
function although it is also this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normswap.check.result import CheckResult
    from normswap.check.truth import Unrounded
    from normswap.model import Source
    from normswap.reference import Array


def check(
    original: Source,
    converted: Source,
    *,
    provider: str = "cpu",
    inputs: Path | Mapping[str, Array] | None = None,
    quick: bool = False,
    control: Source | None = None,
    changed_outputs: frozenset[str] = frozenset(),
    unrounded: Unrounded | None = None,
    fractions: Unrounded | None = None,
    bisect: bool = False,
    reproduce: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> CheckResult:
    """Judge `converted` by its error to the float64 truth of `original`, next to the original's own.

    Args:
        original: The model that is right by definition: a path or any object that `open_model` takes.
        converted: The model that claims to compute the same.
        provider: "cpu" or "cuda"; a provider that is absent or falls back is never replaced by another.
        inputs: An .npz file, a `test_data_set` folder, or arrays by input name. They are run first; synthesized data
            of the same shapes follow.
        quick: Two families of inputs and one size of the free dimensions, instead of seven and three.
        control: The original merely respelled: its error is allowed too, for models that amplify rounding.
        changed_outputs: Outputs that are meant to differ: reported, not judged.
        unrounded: How to compute weights of `converted` in float64, by name, before they were rounded to its format.
            With them the two models must agree to 1e-9 in float64: equal, not merely close.
        fractions: How to compute, in float64, constants of both models that stand for 1/N and had to be rounded: a
            mean is meant, and that of a norm which is written as one operator is no other.
        bisect: Whether to look for the cause of a failure: the result's `bisect`.
        reproduce: A folder for a minimal pair of models that fails, too; implies `bisect`.
        progress: Called with a line before each long step.

    Raises:
        Inconclusive: onnxruntime or the provider is absent, or the provider fell back to another.
        InputRefused: A model is unreadable, invalid or hostile.
        UsageError: A path that is wrong, an unknown provider, or inputs that do not fit the model.
        WriteError: The reproducer cannot be written.
    """
    from normswap.check.protocol import check as run

    told = progress or (lambda line: None)
    result = run(
        original,
        converted,
        provider=provider,
        given=inputs,
        quick=quick,
        control=control,
        changed_outputs=changed_outputs,
        unrounded=unrounded,
        fractions=fractions or {},
        progress=told,
    )
    if result.verdict != "fail" or not (bisect or reproduce):
        return result
    from normswap.bisect.locate import Request
    from normswap.bisect.search import of_files

    request = Request(original, converted, provider, changed_outputs, unrounded, reproduce, told)
    return replace(result, bisect=of_files(request, result))
