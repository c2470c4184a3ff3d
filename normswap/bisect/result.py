"""What a search for the cause of a failure found, as data and as the JSON under `bisect`."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class BisectResult:
    """Which rewrites, if they are ours, and which values, if the two models have some in common.

    `sites` fail together and without any one of them do not, if `minimal`; `trials` is how many sets were tried.
    `first` is the first value on the way to an output that fails which ought to be the original's and is not, and
    `agree` are the last ones before it that are; `centered` are those of both whose original is to be taken less its
    mean. Values that `differ` may: nothing shows that they ought not. `arithmetic` is where that was seen, and
    `reproducer` the folder of a small pair of models that fails, too, of which the converted one has `nodes`.
    """

    sites: tuple[str, ...] = ()
    minimal: bool = False
    trials: int = 0
    agree: tuple[str, ...] = ()
    centered: tuple[str, ...] = ()
    differ: tuple[str, ...] = ()
    first: str = ""
    arithmetic: str = ""
    reproducer: str | None = None
    nodes: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The fields, tuples as lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
