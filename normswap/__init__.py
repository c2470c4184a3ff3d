"""normswap: a compiler for the normalization layers of ONNX models; every step is proved on the model's own weights.

What is heavy is loaded when it is first used, so that importing the package, `--help` and `--version` do not wait for
onnx and numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Not below: once their packages are loaded, which are light, `normswap.bench` and `check` stay the functions.
from normswap.bench import bench
from normswap.check import check
from normswap.errors import GoalNotMet, Inconclusive, InputRefused, NormswapError, UsageError, WriteError

if TYPE_CHECKING:
    from normswap.api import convert, inspect

__version__ = "0.1.0"

__all__ = [
    "GoalNotMet",
    "Inconclusive",
    "InputRefused",
    "NormswapError",
    "UsageError",
    "WriteError",
    "__version__",
    "bench",
    "check",
    "convert",
    "inspect",
]


def __getattr__(name: str) -> object:
    """Load a public function when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from normswap import api

    value: object = getattr(api, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
