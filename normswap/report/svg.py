"""Pictures as SVG: plain shapes and text, colours by class for light and dark, every name escaped, titles for all.

Text cannot be measured here: widths are estimated from the number of cells, on the safe side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rich.cells import cell_len

from normswap.report.layers import Point, lay_out
from normswap.report.pictures import Box, Picture
from normswap.text import printable

# Pixels. Titles are 14 px, lines 12 px high; a cell takes at most this much in the widest font that the style names.
TITLE_CELL, LINE_CELL = 9.7, 7.3
PADDING, TITLE_HEIGHT, LINE_HEIGHT, LEAST_WIDTH = 12.0, 30.0, 17.0, 44.0
MARGIN = 6.0
HEAD = 4.0  # half the width of an arrow's head

STYLE = """\
text { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 12px; fill: #57606a; }
.name { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 14px; \
font-weight: 600; fill: #1f2328; }
rect { fill: #ffffff; stroke: #8c959f; stroke-width: 1; }
.value rect { fill: #f3f4f6; stroke: #c5cad1; }
.layout rect { fill: #f6f8fa; stroke: #afb8c1; stroke-dasharray: 4 3; }
.norm rect { fill: #ddf4ff; stroke: #0969da; stroke-width: 1.5; }
.arrow path { fill: none; stroke: #8c959f; stroke-width: 1.25; }
.arrow polygon { fill: #8c959f; }
rect.page { fill: #ffffff; stroke: none; }
@media (prefers-color-scheme: dark) {
text { fill: #9aa4af; }
.name { fill: #e6edf3; }
rect { fill: #1c2128; stroke: #6e7681; }
.value rect { fill: #262c36; stroke: #444c56; }
.layout rect { fill: #161b22; stroke: #565e68; }
.norm rect { fill: #0c2d4f; stroke: #4493f8; }
.arrow path { stroke: #7d8590; }
.arrow polygon { fill: #7d8590; }
rect.page { fill: #0d1117; stroke: none; }
}
"""


@dataclass(frozen=True)
class Drawing:
    """The elements of a picture, without the svg element around them, and the room that they take."""

    title: str
    elements: str
    width: float
    height: float


def draw(picture: Picture) -> Drawing:
    """The picture, laid out."""
    sizes = [_size(box) for box in picture.boxes]
    layout = lay_out(sizes, [(arrow.source, arrow.target) for arrow in picture.arrows])
    arrows = (_arrow(route, arrow.value) for route, arrow in zip(layout.routes, picture.arrows, strict=True))
    boxes = (_box(*parts) for parts in zip(picture.boxes, layout.centers, sizes, strict=True))
    elements = f'<g transform="translate({MARGIN:g} {MARGIN:g})">\n' + "\n".join((*arrows, *boxes)) + "\n</g>"
    return Drawing(picture.title, elements, layout.width + 2 * MARGIN, layout.height + 2 * MARGIN)


def figure(drawing: Drawing) -> str:
    """The svg element of one drawing, to stand in a page that has the style."""
    width, height = round(drawing.width), round(drawing.height)
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg {box} role="img" aria-label="{text(drawing.title)}">\n{drawing.elements}\n</svg>'


def text(words: str) -> str:
    """`words` as they may stand in a document: nothing in a name is markup, or a control character."""
    return escape(printable(words))


def _size(box: Box) -> Point:
    widest = max((TITLE_CELL * cells(box.title), *(LINE_CELL * cells(line) for line in box.lines)))
    return max(widest + 2 * PADDING, LEAST_WIDTH), TITLE_HEIGHT + LINE_HEIGHT * len(box.lines) + (6 if box.lines else 0)


def cells(words: str) -> int:
    """How many cells of a terminal the words take, escaped: a measure of their width."""
    return cell_len(printable(words))


def _box(box: Box, center: Point, size: Point) -> str:
    (x, y), (width, height) = center, size
    left, top = x - width / 2, y - height / 2
    radius = height / 2 if box.role == "value" else 5
    parts = [f"<title>{text(box.tip)}</title>"] if box.tip else []
    parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}"/>')
    parts.append(f'<text class="name" x="{x:.1f}" y="{top + 20:.1f}" text-anchor="middle">{text(box.title)}</text>')
    for index, line in enumerate(box.lines):
        below = top + TITLE_HEIGHT + LINE_HEIGHT * (index + 0.65)
        parts.append(f'<text x="{x:.1f}" y="{below:.1f}" text-anchor="middle">{text(line)}</text>')
    return f'<g class="{box.role}">{"".join(parts)}</g>'


def _arrow(route: Sequence[Point], value: str) -> str:
    """A line that is vertical at each of its points, and a head."""
    (x, y), *others = route
    steps = [f"M{x:.1f} {y:.1f}"]
    for index, (next_x, next_y) in enumerate(others):
        end = max(next_y - (2 * HEAD if index == len(others) - 1 else 0), y)
        middle = (y + end) / 2
        straight = abs(next_x - x) < 0.5
        steps.append(
            f"L{next_x:.1f} {end:.1f}"
            if straight
            else f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {end:.1f}"
        )
        x, y = next_x, next_y
    head = f'<polygon points="{x - HEAD:.1f},{y - 2 * HEAD:.1f} {x + HEAD:.1f},{y - 2 * HEAD:.1f} {x:.1f},{y:.1f}"/>'
    return f'<g class="arrow"><title>{text(value)}</title><path d="{" ".join(steps)}"/>{head}</g>'
