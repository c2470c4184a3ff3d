"""The layout: boxes that do not overlap, arrows that go down and around them, all within the drawing."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from normswap.report.layers import BEND_WIDTH, Layout, Link, Point, lay_out

DIAMOND = ([(44.0, 30.0)] * 4, [(0, 1), (0, 2), (1, 3), (2, 3)])
SLACK = 1e-6


def graph(seed: int) -> tuple[list[Point], list[Link]]:
    """Boxes of different sizes, each of which reads one to three earlier ones."""
    chance = random.Random(seed)
    count = chance.randint(2, 48)
    sizes = [(chance.uniform(44, 280), chance.choice([30.0, 53.0, 98.0])) for _ in range(count)]
    arrows = [
        (chance.randrange(max(0, target - 9), target), target)
        for target in range(1, count)
        for _ in range(chance.choice([0, 1, 1, 1, 2, 2, 3]) or (target < 3))
    ]
    return sizes, arrows


def edges(center: Point, size: Point) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of a box."""
    return center[0] - size[0] / 2, center[0] + size[0] / 2, center[1] - size[1] / 2, center[1] + size[1] / 2


def runs_through(route: tuple[Point, ...], box: tuple[float, float, float, float]) -> bool:
    """Whether a line goes through the inside of a box; between two layers it stays between them."""
    left, right, top, bottom = box
    return any(
        max(x, next_x) > left + SLACK and min(x, next_x) < right - SLACK and y < bottom - SLACK and next_y > top + SLACK
        for (x, y), (next_x, next_y) in pairwise(route)
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int) -> None:
    sizes, arrows = graph(seed)
    layout = lay_out(sizes, arrows)
    boxes = [edges(*parts) for parts in zip(layout.centers, sizes, strict=True)]
    for index, (left, right, top, bottom) in enumerate(boxes):
        assert left >= -SLACK and right <= layout.width + SLACK  # noqa: PT018
        assert top >= -SLACK and bottom <= layout.height + SLACK  # noqa: PT018
        for other in boxes[:index]:
            assert right < other[0] or other[1] < left or bottom < other[2] or other[3] < top
    for (source, target), route in zip(arrows, layout.routes, strict=True):
        assert all(one[1] <= other[1] for one, other in pairwise(route))
        assert route[0] == (layout.centers[source][0], boxes[source][3])
        assert boxes[target][0] < route[-1][0] < boxes[target][1]
        assert route[-1][1] == boxes[target][2]
        assert not any(runs_through(route, box) for box in boxes)
        assert all(-SLACK <= x <= layout.width + SLACK for x, _ in route)


def test_a_chain_is_a_line() -> None:
    layout = lay_out([(44.0, 30.0), (200.0, 53.0), (80.0, 30.0)], [(0, 1), (1, 2)])
    assert {x for x, _ in layout.centers} == {100.0}
    assert layout.width == 200.0


def test_an_arrow_past_others_is_straight_between_its_ends() -> None:
    sizes = [(44.0, 30.0), *[(60.0 + 40 * (index % 3), 30.0) for index in range(8)], (44.0, 30.0)]
    layout = lay_out(sizes, [*pairwise(range(10)), (0, 9)])
    assert len({x for x, _ in layout.routes[-1][2:-2]}) == 1


def crossings(layout: Layout) -> int:
    """How many pairs of straight pieces of arrows cross, between the layers."""
    pieces = [piece for route in layout.routes for piece in pairwise(route) if piece[0][0] != piece[1][0]]
    return sum(
        one[0][1] == other[0][1] and (one[0][0] - other[0][0]) * (one[1][0] - other[1][0]) < 0
        for index, one in enumerate(pieces)
        for other in pieces[:index]
    )


def test_arrows_cross_only_where_they_must() -> None:
    # Two strands that are named in the wrong order below.
    assert crossings(lay_out([(44.0, 30.0)] * 5, [(0, 1), (0, 2), (2, 3), (1, 4)])) == 0
    # Every one of two read by every one of two cannot be drawn without.
    assert crossings(lay_out([(44.0, 30.0)] * 5, [(0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (2, 4)])) == 1


def test_what_arrives_together_is_apart_at_the_end() -> None:
    sizes, arrows = DIAMOND
    ends = [route[-1][0] for route in lay_out(sizes, [*arrows, (1, 3)]).routes[2:]]
    assert len(set(ends)) == 3
    assert max(ends) - min(ends) < 44.0 - BEND_WIDTH


def test_one_box() -> None:
    assert lay_out([(44.0, 30.0)], []) == Layout(((22.0, 15.0),), (), 44.0, 30.0)
