"""The public functions: inspect and convert. What they return is in `ledger`, what they do is in `targets`.

The model that was given is never changed; what comes back is of the same kind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from normswap import stamp
from normswap.bisect.locate import Request
from normswap.bisect.search import of_conversion
from normswap.check import check
from normswap.check.result import CheckResult
from normswap.conversion import Applied, Options, apply_targets
from normswap.errors import Inconclusive, UsageError
from normswap.inspection import inspection
from normswap.ledger import Conversion, Inspection
from normswap.model import Source, open_model, save, to_kind
from normswap.rules import library
from normswap.targets import targets

Progress = Callable[[str], None]


def _silent(step: str) -> None:
    """Report progress to nobody."""


def inspect(model: Source) -> Inspection:
    """The norms of a model, what each can become, and if not, why.

    Raises `InputRefused` or `UsageError` if the model cannot be used.
    """
    return inspection(open_model(model))


def convert(
    model: Source,
    to: str | Sequence[str] = "rmsnorm",
    *,
    opset: int | Literal["auto"] = "auto",
    strict: bool = False,
    allow_larger: bool = False,
    only: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    allow_changed_outputs: str | Sequence[str] = (),
    check: bool = True,
    provider: str = "cpu",
    rules: str | os.PathLike[str] | None = None,
    bisect: bool = False,
    reproduce: Path | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Convert the norms of `model` as far as it goes without changing the function; every step is proved.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`; it is not changed.
        to: One target or several, applied in order (`targets.TARGETS`).
        opset: The opset of the result, or "auto": raised if a rewrite needs it and nothing is lost.
        strict: Any refusal makes `exit_code` 1.
        allow_larger: New constants may take any number of bytes: copies of shared weights, maps of image borders.
        only: Shell patterns; only norms whose name matches one are converted.
        exclude: Shell patterns; norms whose name matches one are left.
        allow_changed_outputs: Outputs of the model that may be delivered centered.
        check: Whether to run the result against the original in onnxruntime.
        provider: "cpu" or "cuda", for the check.
        rules: A folder with rules of spelling, `spell/<runtime>/*.onnxtxt` and `norms/*.onnxtxt`, tried before ours. A
            runtime that is not one of ours is a target of its own.
        bisect: Whether to look for the rewrites that make the check fail, if it does: the check's `bisect`.
        reproduce: A folder for a minimal pair of models that fails, too; implies `bisect`.
        progress: Called with a line before each long step.

    Raises:
        UsageError: An unknown target or output, or an opset that cannot be reached without a loss.
        InputRefused: The model is unreadable, invalid or hostile, or a rule is bad.
    """
    progress = progress or _silent
    names = tuple(name for name, _ in groupby(_several(to)))  # twice in a row is once
    known = library(None if rules is None else Path(rules))
    table = targets(known)
    unknown = [name for name in names if name not in table]
    if unknown:
        raise UsageError(f"unknown target `{unknown[0]}`; there is {', '.join(table)}")
    document = open_model(model)
    changeable = frozenset(_several(allow_changed_outputs))
    _known_outputs(document.model, changeable)
    options = Options(names, opset, _several(only), _several(exclude), changeable, allow_larger, progress, known, table)
    steps = apply_targets(document.model, options)
    current, rewrites = steps[-1].model, tuple(rewrite for step in steps for rewrite in step.rewrites)
    result = to_kind(document, current, model)
    verdict = _checked(model, result, steps[-1], options, provider) if check and rewrites else None
    if verdict is not None and verdict.verdict == "fail" and (bisect or reproduce):
        request = Request(model, result, provider, changeable, steps[-1].unrounded, reproduce, progress)
        verdict = replace(verdict, bisect=of_conversion(request, options, verdict))
    if rewrites:
        entries = stamp.stamp(model, names, rewrites, verdict)
        stamp.apply(entries, current)
        stamp.apply(entries, result)
    return Conversion(
        model=result,
        input=None if document.path is None else os.fspath(document.path),
        to=names,
        rewrites=rewrites,
        refused=tuple(refusal for step in steps for refusal in step.refused),
        before=steps[0].before,
        after=steps[-1].after,
        candidates=sum(step.candidates for step in steps),
        strict=strict,
        check=verdict,
        writer=lambda path: save(document, current, path),
    )


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name is a list of one, not of its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def _known_outputs(model: ir.Model, names: Iterable[str]) -> None:
    outputs = sorted(value.name or "" for value in model.graph.outputs)
    missing = [name for name in names if name not in outputs]
    if missing:
        raise UsageError(f"the model has no output `{missing[0]}`; it has {', '.join(outputs)}")


def _checked(original: Source, converted: Source, applied: Applied, options: Options, provider: str) -> CheckResult:
    """The quick check of a conversion."""
    options.progress("checking against the original")
    try:
        return check(
            original,
            converted,
            provider=provider,
            quick=True,
            changed_outputs=options.changeable,
            unrounded=applied.unrounded,
            fractions=applied.fractions,
            progress=options.progress,
        )
    except Inconclusive as error:  # the conversion is proved all the same: it is kept, and said to be unchecked
        return CheckResult("inconclusive", str(error))


__all__ = ["check", "convert", "inspect"]
