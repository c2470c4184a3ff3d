"""A layered layout: each box below everything it reads, long arrows led around the boxes between, few crossings.

Layers are by longest path; an arrow across layers goes through a bend in each of them; boxes and bends of a layer are
ordered by the mean place of what they are connected to; then each layer is moved to where its arrows are straightest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

# Distances in pixels: between layers, between boxes, and what an arrow that passes by needs.
LAYER_GAP, BOX_GAP, BEND_WIDTH = 30.0, 22.0, 10.0
# Arrows that end at one box are at most so far apart there.
MOST_APART = 24.0
ORDERINGS = 16
# How much an arrow pulls, by the number of its ends that are bends: long arrows are straight, and so are chains, and
# where one meets the other the arrow gives way.
PULLS = {0: 4.0, 1: 0.5, 2: 8.0}
# Places settle until none moves by more than this, in pixels; each sweep moves most of them nearer.
STILL, MOST_SWEEPS = 0.02, 400

Point = tuple[float, float]
Link = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Centers of the boxes, and for each arrow the points it goes through, from the lower to the upper edge of two."""

    centers: tuple[Point, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


@dataclass
class Items:
    """Boxes, then bends: the width and layer of each, and the links between items of neighbouring layers."""

    widths: list[float]
    layer: list[int]
    links: list[Link] = field(default_factory=list)
    chains: list[list[int]] = field(default_factory=list)  # by arrow: the items it goes through
    boxes: int = 0

    def layers(self) -> list[list[int]]:
        """The items by layer."""
        result: list[list[int]] = [[] for _ in range(max(self.layer) + 1)]
        for item, layer in enumerate(self.layer):
            result[layer].append(item)
        return result


def lay_out(sizes: Sequence[Point], arrows: Sequence[Link]) -> Layout:
    """The layout of boxes of the given widths and heights; an arrow goes from an earlier box to a later one."""
    items = _items(sizes, arrows)
    layers = _ordered(items)
    across = _straightened(items, layers)
    heights = [max(sizes[item][1] if item < items.boxes else 0.0 for item in layer) for layer in layers]
    middles, height = [], 0.0
    for tall in heights:
        middles.append(height + tall / 2)
        height += tall + LAYER_GAP
    left = min(across[item] - items.widths[item] / 2 for item in range(len(across)))
    right = max(across[item] + items.widths[item] / 2 for item in range(len(across)))
    across = [x - left for x in across]
    bands = [(middle - tall / 2, middle + tall / 2) for middle, tall in zip(middles, heights, strict=True)]
    centers = tuple((across[box], middles[items.layer[box]]) for box in range(items.boxes))
    ends = _ends(items, arrows, across)
    routes = tuple(
        _route(chain, end, sizes, centers, across, [bands[items.layer[item]] for item in chain])
        for chain, end in zip(items.chains, ends, strict=True)
    )
    return Layout(centers, routes, right - left, height - LAYER_GAP)


def _items(sizes: Sequence[Point], arrows: Sequence[Link]) -> Items:
    layer = [0] * len(sizes)
    for target in range(len(sizes)):
        layer[target] = max((layer[start] + 1 for start, end in arrows if end == target), default=0)
    for source in range(len(sizes)):  # what is read late stands there, except for the first, which everything is from
        readers = [layer[end] for start, end in arrows if start == source]
        if source and readers and all(end != source for _, end in arrows):
            layer[source] = min(readers) - 1
    items = Items([width for width, _ in sizes], layer, boxes=len(sizes))
    for source, target in arrows:
        chain = [source]
        for between in range(layer[source] + 1, layer[target]):
            chain.append(len(items.layer))
            items.layer.append(between)
            items.widths.append(BEND_WIDTH)
        chain.append(target)
        items.chains.append(chain)
        items.links += pairwise(chain)
    return items


def _ordered(items: Items) -> list[list[int]]:
    """The items of each layer in the order with the fewest crossings that was seen."""
    layers = items.layers()
    best, fewest = [list(layer) for layer in layers], _crossings(items, layers)
    neighbours = _neighbours(items)
    for sweep in range(ORDERINGS):
        down = sweep % 2 == 0
        for index in range(len(layers)) if down else reversed(range(len(layers))):
            near = index - 1 if down else index + 1
            if not 0 <= near < len(layers):
                continue
            place = {item: position for position, item in enumerate(layers[near])}
            own = {item: position for position, item in enumerate(layers[index])}

            def mean(item: int, place: dict[int, int] = place, own: dict[int, int] = own) -> tuple[float, int]:
                places = [place[other] for other in neighbours[item] if other in place]
                return (sum(places) / len(places) if places else float(own[item]), own[item])

            layers[index].sort(key=mean)
        crossings = _crossings(items, layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    return best


def _neighbours(items: Items) -> list[list[int]]:
    result: list[list[int]] = [[] for _ in items.layer]
    for source, target in items.links:
        result[source].append(target)
        result[target].append(source)
    return result


def _crossings(items: Items, layers: Sequence[Sequence[int]]) -> int:
    place = {item: position for layer in layers for position, item in enumerate(layer)}
    by_layer: dict[int, list[Link]] = {}
    for source, target in items.links:
        by_layer.setdefault(items.layer[source], []).append((place[source], place[target]))
    return sum(
        (one[0] - other[0]) * (one[1] - other[1]) < 0
        for links in by_layer.values()
        for position, one in enumerate(links)
        for other in links[:position]
    )


def _straightened(items: Items, layers: Sequence[Sequence[int]]) -> list[float]:
    """Where each item stands: as near to what it is linked to as its neighbours in the layer let it."""
    across = [0.0] * len(items.layer)
    for layer in layers:
        for position, item in enumerate(layer):
            across[item] = position * (max(items.widths) + BOX_GAP)
    pulls: list[list[tuple[int, float]]] = [[] for _ in items.layer]
    for source, target in items.links:
        pull = PULLS[(source >= items.boxes) + (target >= items.boxes)]
        pulls[source].append((target, pull))
        pulls[target].append((source, pull))
    for sweep in range(MOST_SWEEPS):
        before = list(across)
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted, weights = [], []
            for item in layer:
                weight = sum(pull for _, pull in pulls[item])
                weights.append(max(weight, 0.01))
                wanted.append(
                    sum(across[other] * pull for other, pull in pulls[item]) / weight if weight else across[item]
                )
            for item, x in zip(layer, _apart(wanted, weights, [items.widths[item] for item in layer]), strict=True):
                across[item] = x
        if max(abs(one - other) for one, other in zip(before, across, strict=True)) < STILL:
            break
    for run in (*_runs(items), *(chain[1:-1] for chain in items.chains)):
        _align(run, across, items, layers)
    return across


def _runs(items: Items) -> list[list[int]]:
    """Boxes one below the other, each read by the next alone, which reads nothing else."""
    readers, read = Counter(source for source, _ in items.links), Counter(target for _, target in items.links)
    after = {
        source: target
        for source, target in items.links
        if max(source, target) < items.boxes and readers[source] == read[target] == 1
    }
    runs = [[first] for first in after if first not in after.values()]
    for run in runs:
        while run[-1] in after:
            run.append(after[run[-1]])
    return runs


def _align(run: Sequence[int], across: list[float], items: Items, layers: Sequence[Sequence[int]]) -> None:
    """Put a run in a line, at that of its own places which is nearest to all and where nothing is in the way."""
    neighbours = [(item, other) for item in run for other in layers[items.layer[item]] if other != item]
    for x in sorted((across[item] for item in run), key=lambda x: sum(abs(x - across[item]) for item in run)):
        if all(
            abs(x - across[other]) >= (items.widths[item] + items.widths[other]) / 2 + BOX_GAP / 2
            and (x < across[other]) == (across[item] < across[other])
            for item, other in neighbours
        ):
            for item in run:
                across[item] = x
            return


def _apart(wanted: Sequence[float], weights: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The places nearest to those wanted, in least squares, at which nothing overlaps: an isotonic regression."""
    offsets = [0.0]
    for one, other in pairwise(widths):
        offsets.append(offsets[-1] + (one + other) / 2 + BOX_GAP)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        blocks.append((want - offset, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, heavy, members), (other, light, more) = blocks[-2:]
            total = heavy + light
            blocks[-2:] = [((mean * heavy + other * light) / total, total, members + more)]
    means = [mean for mean, _, members in blocks for _ in range(members)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _ends(items: Items, arrows: Sequence[Link], across: Sequence[float]) -> list[float]:
    """Where each arrow meets the upper edge of its box: side by side, in the order in which they come."""
    result = [0.0] * len(arrows)
    for box in range(items.boxes):
        arriving = [index for index, (_, end) in enumerate(arrows) if end == box]
        arriving.sort(key=lambda index: across[items.chains[index][-2]])
        step = min(MOST_APART, items.widths[box] / (len(arriving) + 1))
        for position, index in enumerate(arriving):
            result[index] = across[box] + step * (position - (len(arriving) - 1) / 2)
    return result


def _route(
    chain: Sequence[int],
    end: float,
    sizes: Sequence[Point],
    centers: Sequence[Point],
    across: Sequence[float],
    bands: Sequence[tuple[float, float]],
) -> tuple[Point, ...]:
    """The points of an arrow, which goes straight down within each layer, and across only between two."""
    source, *bends, target = chain
    (x, y), (_, below) = centers[source], centers[target]
    points = [(x, y + sizes[source][1] / 2), (x, bands[0][1])]
    for bend, (top, bottom) in zip(bends, bands[1:-1], strict=True):
        points += [(across[bend], top), (across[bend], bottom)]
    points += [(end, bands[-1][0]), (end, below - sizes[target][1] / 2)]
    return tuple(point for point, before in zip(points, [None, *points[:-1]], strict=True) if point != before)
