"""Reports written to files, each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from normswap.ci.cases import Document, Report, report
from normswap.ci.junit import junit
from normswap.ci.markdown import markdown
from normswap.ci.sarif import sarif
from normswap.errors import WriteError
from normswap.model import atomic

VIEWS: Mapping[str, Callable[[Report], str]] = {"junit": junit, "sarif": sarif, "markdown": markdown}


def write(document: Document, subject: str, destinations: Mapping[str, Path]) -> None:
    """Write the report itself ("report") and its views ("junit", "sarif", "markdown") to their files.

    Raises `WriteError` where one cannot be written.
    """
    seen = report(document, subject)
    for kind, path in destinations.items():
        if kind == "report":
            write_json(path, document)
        else:
            _write(path, VIEWS[kind](seen))


def write_json(path: Path, document: Document) -> None:
    """Write a JSON document. Raises `WriteError`."""
    _write(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        with atomic.temporary(path) as name:
            with atomic.durable(name, path) as file:
                file.write(text.encode())
            atomic.commit([(name, path)])
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error
