"""All distinct norms of a model on one sheet, as one SVG file: each as it is spelled, beside what it is."""

from __future__ import annotations

from normswap.distinct import Family, families
from normswap.ledger import Inspection
from normswap.report.pictures import as_norm, as_spelled, cut
from normswap.report.svg import LINE_CELL, STYLE, TITLE_CELL, Drawing, cells, draw, text
from normswap.report.words import facts, heading, summary

EDGE, BETWEEN, BELOW, LINE = 24.0, 72.0, 40.0, 20.0
# The smallest width: that of a phone.
NARROW = 360.0


def sheet(inspection: Inspection) -> str:
    """The document."""
    found = families(inspection.norms, chains=True)
    title = summary(inspection)
    top = EDGE + 2 * LINE
    parts, width = (
        [f'<text class="name" x="{EDGE:g}" y="{EDGE + 14:g}">{text(title)}</text>'],
        TITLE_CELL * cells(title),
    )
    if not found:
        parts.append(f'<text x="{EDGE:g}" y="{top:g}">no norms</text>')
    for family in found:
        elements, across, down = _section(family, top)
        parts.append(elements)
        width, top = max(width, across), top + down + BELOW
    across, down = max(width, NARROW) + 2 * EDGE, top + EDGE - (BELOW if found else 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across:.0f}" height="{down:.0f}" '
        f'viewBox="0 0 {across:.0f} {down:.0f}" style="max-width: 100%; height: auto" '
        f'role="img" aria-labelledby="title">\n<title id="title">{text(title)}</title>\n<style>\n{STYLE}</style>\n'
        f'<rect class="page" width="100%" height="100%"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _section(family: Family, top: float) -> tuple[str, float, float]:
    """The elements of one family below `top`, and the width and height that they take."""
    lines = (facts(family), ("first " if len(family.rows) > 1 else "") + cut(family.rows[0].name))
    title = heading(family)
    parts = [f'<text class="name" x="{EDGE:g}" y="{top + 14:g}">{text(title)}</text>']
    parts += [
        f'<text x="{EDGE:g}" y="{top + 14 + LINE * index:g}">{text(line)}</text>'
        for index, line in enumerate(lines, start=1)
    ]
    down = 14 + LINE * (len(lines) + 1)
    drawings = [draw(picture) for picture in ((as_spelled(family),) if family.rows[0].region else ())]
    drawings.append(draw(as_norm(family)))
    height = max(drawing.height for drawing in drawings)
    left = EDGE
    for index, drawing in enumerate(drawings):
        if index:
            parts.append(_becomes(left - BETWEEN / 2, top + down + height / 2))
        parts.append(_placed(drawing, left, top + down + (height - drawing.height) / 2))
        left += drawing.width + BETWEEN
    widest = max(TITLE_CELL * cells(title), *(LINE_CELL * cells(line) for line in lines), left - EDGE - BETWEEN)
    return f"<g>{''.join(parts)}</g>", widest, down + height


def _placed(drawing: Drawing, x: float, y: float) -> str:
    return (
        f'<g role="img" transform="translate({x:.1f} {y:.1f})"><title>{text(drawing.title)}</title>\n'
        f"{drawing.elements}</g>"
    )


def _becomes(x: float, y: float) -> str:
    return f'<text class="name" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">is</text>'
