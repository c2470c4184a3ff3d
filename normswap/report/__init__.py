"""Reports on an inspection that are files: a sheet of drawings (SVG), and a page (HTML), each complete in itself.

A report is written whole or not at all, by the same means as a model.
"""

from __future__ import annotations

from pathlib import Path

from normswap.errors import WriteError
from normswap.ledger import Inspection
from normswap.model import atomic
from normswap.report.page import page
from normswap.report.sheet import sheet

FORMS = {".svg": sheet, ".html": page, ".htm": page}


def write(inspection: Inspection, path: Path) -> None:
    """Write the report whose form the suffix of `path` says.

    Raises `WriteError` if it cannot be written; an older file is intact then.
    """
    target = path.resolve()  # a link is followed, and stays one
    document = FORMS[target.suffix.lower()](inspection).encode()
    try:
        with atomic.temporary(target) as temporary:
            with atomic.durable(temporary, target) as file:
                file.write(document)
            atomic.commit([(temporary, target)])
    except OSError as error:
        raise WriteError(f"{path}: not written ({error.strerror or error}); any older file is intact") from error


__all__ = ["write"]
