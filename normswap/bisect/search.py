"""Why a conversion failed, and why a converted file does: rewrites first, then values, then a reproducer.

A file says in its stamp how it was made. If it can be made again, the rewrites are searched; if what is made passes,
the file was changed since, and only its values can tell. Values are compared in the model with the guilty rewrites
alone, in which nothing else has moved.
"""

from __future__ import annotations

from dataclasses import replace

from normswap import stamp
from normswap.bisect import culprits
from normswap.bisect.culprits import Converter
from normswap.bisect.locate import Request, locate
from normswap.bisect.result import BisectResult
from normswap.check.result import CheckResult
from normswap.conversion import Options
from normswap.errors import NormswapError
from normswap.model import open_model
from normswap.targets import TARGETS


def of_conversion(request: Request, options: Options, result: CheckResult) -> BisectResult:
    """Why the check at the end of a conversion failed."""
    converter = Converter(request.original, options, request.provider, result.case)
    return _search(request, converter, converter.convert().selectable, result)


def of_files(request: Request, result: CheckResult) -> BisectResult:
    """Why the check of two files failed, the second of which may have been made from the first by us."""
    request.progress("bisect: converting again")
    entries = stamp.read(open_model(request.converted).model)
    targets = entries.get("targets", "").split(",")
    options = Options(targets, "auto", (), (), request.changed_outputs, allow_larger=False, progress=request.progress)
    converter = Converter(request.original, options, request.provider, result.case)
    if not entries:
        return _values(request, result, "the converted model has no stamp of normswap: its rewrites are not known")
    if not set(targets) <= TARGETS.keys() or entries.get("source_sha256") != stamp.digest(request.original):
        return _values(request, result, "the converted model was made from another file, says its stamp")
    try:
        again = converter.convert()
    except NormswapError as error:
        return _values(request, result, f"the original cannot be converted again: {error}")
    if entries.get("ledger_sha256") != stamp.ledger(again.rewrites):
        note = "the converted model was made with other options or by another version: use convert --bisect with those"
        return _values(request, result, note)
    if not converter.fails(again):
        note = "converted again, the original passes: the file was changed after it was made, or its data is damaged"
        return _values(request, result, note)
    return _search(request, converter, again.selectable, result)


def _values(request: Request, result: CheckResult, note: str) -> BisectResult:
    return locate(request, result.case, BisectResult(notes=(note,)))


def _search(request: Request, converter: Converter, sites: tuple[str, ...], result: CheckResult) -> BisectResult:
    guilty = culprits.find(converter, sites)
    found = BisectResult(guilty.sites, guilty.minimal, guilty.trials)
    if not guilty.sites:
        note = "no set of rewrites fails in a trial on the run that fails worst"
        return locate(request, result.case, replace(found, notes=(note,)))
    alone = converter.convert(guilty.sites)
    return locate(replace(request, converted=alone.model, unrounded=alone.unrounded), result.case, found)
