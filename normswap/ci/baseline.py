"""Baselines: what a report measured, kept in a file, so that CI notices what got worse although it still passes.

Errors come from fixed seeds, yet another processor sums in another order; latencies are compared as ratios to the
original, which a slower machine leaves as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from normswap.ci.cases import Document
from normswap.errors import UsageError

SCHEMA = "normswap/baseline/1"
LARGER = 1.5
"""How many times the error of the baseline is worse: the sums of another processor changed errors by less."""
SLOWER = 0.03
"""By how much the ratio of times may grow: the effect that a benchmark calls one."""

Numbers = Mapping[str, Mapping[str, float]]


def baseline(document: Document) -> dict[str, object]:
    """What to keep of a report of `check` or `bench`: numbers by the name of what was measured."""
    return {"schema": SCHEMA, "of": document["schema"], "numbers": _numbers(document)}


def worse(document: Document, kept: Document) -> list[dict[str, str]]:
    """What is worse than the baseline, by name, with a sentence; what it does not hold is new and no worse.

    Raises `UsageError` where the baseline is of another command.
    """
    if kept.get("schema") != SCHEMA or kept.get("of") != document["schema"]:
        raise UsageError(f"the baseline is of {kept.get('of')}, the report is {document['schema']}")
    before, after = kept["numbers"], _numbers(document)
    lost = [{"name": name, "message": "it is in the baseline, and was not measured"} for name in before.keys() - after]
    found = [
        {"name": name, "message": message}
        for name in after
        if name in before
        for message in _compared(before[name], after[name])
    ]
    return sorted(lost, key=lambda entry: entry["name"]) + found


def _numbers(document: Document) -> Numbers:
    if document["schema"] == "normswap/bench/1":
        return {
            f"{arm['model']} on {sweep['shapes']}": {"ratio": arm["ratio"]["median"], "low": arm["ratio"]["low"]}
            for sweep in document["sweeps"]
            for arm in sweep["arms"]
            if arm["verdict"] is not None
        }
    return {
        output["name"]: {key: output[key] for key in ("max_error", "rmse_ratio") if output[key] is not None}
        for output in document["outputs"]
        if output["verdict"] != "not judged"
    }


def _compared(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[str]:
    if "low" in after:
        if after["low"] > before["ratio"] and after["ratio"] > before["ratio"] + SLOWER:
            yield f"{after['ratio']:.3f} of the original's time, {before['ratio']:.3f} in the baseline"
        return
    for key, word in (("max_error", "error"), ("rmse_ratio", "RMSE ratio")):
        if key in before and key in after and after[key] > LARGER * before[key]:
            yield f"{word} {after[key]:.3g}, {before[key]:.3g} in the baseline"


def read(path: Path) -> Document:
    """A baseline file. Raises `UsageError` where it is none."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); --update-baseline writes it") from error
    except ValueError as error:
        raise UsageError(f"{path} is no baseline: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(f"{path} is no baseline; --update-baseline writes one")
    return found
