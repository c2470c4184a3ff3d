"""The stamp of a converted model: what made it, from what, and how it was judged, in its own metadata.

It says nothing of when or where, so that the same input and options give the same bytes. A model that is converted
again gets a new stamp in the place of the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from normswap import __version__
from normswap.check.result import CheckResult
from normswap.ledger import Rewrite
from normswap.model import Source

PREFIX = "normswap."
UNCHECKED = "unchecked"
BLOCK = 1 << 20  # bytes of a file read at a time


def stamp(
    source: Source, targets: Sequence[str], rewrites: Sequence[Rewrite], check: CheckResult | None
) -> dict[str, str]:
    """The entries for `metadata_props`; without the digest of the source where that is neither file nor ModelProto.

    `source_sha256` is of the file, its external data not included, or of the ModelProto as it is written
    deterministically; `ledger_sha256` of the sites, rules and numbers of obligations of all rewrites.
    """
    source_sha256 = digest(source)
    entries = {
        "version": __version__,
        "targets": ",".join(targets),
        "ledger_sha256": ledger(rewrites),
        "exactness": "exact" if all(rewrite.exact for rewrite in rewrites) else "approximate",
        "check": UNCHECKED if check is None else check.verdict,
        **({} if source_sha256 is None else {"source_sha256": source_sha256}),
    }
    return {PREFIX + key: value for key, value in entries.items()}


def apply(entries: Mapping[str, str], model: object) -> None:
    """Put the stamp on a model in place, instead of an older one; a graphsurgeon graph cannot carry it."""
    if isinstance(model, ir.Model):
        for key in [key for key in model.metadata_props if key.startswith(PREFIX)]:
            del model.metadata_props[key]
        model.metadata_props.update(entries)
    elif isinstance(model, onnx.ModelProto):
        kept = [entry for entry in model.metadata_props if not entry.key.startswith(PREFIX)]
        new = [onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items()]
        del model.metadata_props[:]
        model.metadata_props.extend([*kept, *new])


def read(model: ir.Model) -> dict[str, str]:
    """The entries of a stamp without their prefix; none where there is no stamp."""
    entries = model.metadata_props.items()
    return {key.removeprefix(PREFIX): value for key, value in entries if key.startswith(PREFIX)}


def digest(source: Source) -> str | None:
    """The sha256 of a file, or of a ModelProto as it is written deterministically; None for other objects."""
    if isinstance(source, onnx.ModelProto):
        return hashlib.sha256(source.SerializeToString(deterministic=True)).hexdigest()
    if isinstance(source, (str, os.PathLike)):
        read_so_far = hashlib.sha256()
        with Path(source).open("rb") as file:
            while block := file.read(BLOCK):
                read_so_far.update(block)
        return read_so_far.hexdigest()
    return None


def ledger(rewrites: Sequence[Rewrite]) -> str:
    """The sha256 of what was done: sites, rules, exactness, numbers of obligations."""
    entries = [[rewrite.site, rewrite.rule, rewrite.exact, rewrite.proof.obligations] for rewrite in rewrites]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
