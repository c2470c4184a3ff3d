"""A pytest plugin: the fixture `assert_equivalent`, which judges a converted model as `normswap check` does."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

import normswap

if TYPE_CHECKING:
    from normswap.check.result import CheckResult
    from normswap.model import Source
    from normswap.reference import Array

WIDTH = 100  # columns of a failure, on terminals and in logs


class AssertEquivalent(Protocol):
    """What the fixture is."""

    def __call__(
        self,
        original: Source,
        converted: Source,
        *,
        provider: str = "cpu",
        inputs: Path | Mapping[str, Array] | None = None,
        quick: bool = False,
        changed_outputs: frozenset[str] = frozenset(),
    ) -> CheckResult:
        """Fail the test unless `converted` is about as close to the float64 truth as `original`.

        What is inconclusive fails, too. The arguments are those of `normswap.check`; the result is returned.
        """


@pytest.fixture
def assert_equivalent() -> AssertEquivalent:
    """Fail the test unless one model is about as close to the float64 truth as another."""
    return _compare


def _compare(original: Source, converted: Source, **options: object) -> CheckResult:
    __tracebackhide__ = True
    check: Callable[..., CheckResult] = normswap.check
    result = check(original, converted, **options)
    if result.verdict != "pass":
        pytest.fail(_text(result), pytrace=False)
    return result


def _text(result: CheckResult) -> str:
    from rich.console import Console

    from normswap.terminal import show_check

    out = io.StringIO()
    show_check(Console(file=out, width=WIDTH, highlight=False, markup=False, emoji=False), result, verbose=True)
    return out.getvalue().strip()
