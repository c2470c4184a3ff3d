"""The sentences that a sheet and a page have in common."""

from __future__ import annotations

from rich.filesize import decimal

from normswap.distinct import Family
from normswap.ledger import Inspection


def summary(inspection: Inspection) -> str:
    """The model in one line: its name without the folder, and what it consists of."""
    model = inspection.model
    path, size = model.get("path"), model.get("bytes")
    name = str(path).replace("\\", "/").rpartition("/")[2] if path else "model"
    facts = (f"opset {model.get('opset')}", f"{model.get('nodes')} nodes")
    weights = (f"{decimal(size)} of weights",) if isinstance(size, int) else ()
    return f"{name}: " + ", ".join((*facts, *weights))


def heading(family: Family) -> str:
    """How many norms of which kind a family has."""
    return f"{len(family.rows):,} × {family.kind}" if len(family.rows) > 1 else family.kind


def facts(family: Family) -> str:
    """What the norms of a family have in common."""
    said = family.words
    parts = (
        f"over {family.axes}" if said["axes"] else family.axes,
        said["groups"] and f"in {said['groups']} groups",
        said["epsilon"] and f"ε {said['epsilon']}",
        said["affine"],
        said["spelled"],
    )
    return ", ".join(part for part in parts if part)
