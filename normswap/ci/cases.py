"""One report, seen as cases: what was judged, by name, with a status and a sentence. Every view for CI shows these.

The report is the JSON that each command prints with `--json`; nothing that is not in it is in any view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Document = Mapping[str, Any]  # a JSON object: every field is read with the type that the schema gives it
Status = Literal["pass", "fail", "inconclusive", "refused"]


@dataclass(frozen=True)
class Case:
    """One thing that was judged; `rule` is a stable id of what it was judged by."""

    rule: str
    name: str
    status: Status
    message: str


@dataclass(frozen=True)
class Report:
    """A report: the file it is about, the whole verdict with its reason, and its cases."""

    command: str
    subject: str
    status: Status
    reason: str
    cases: tuple[Case, ...]


def report(document: Document, subject: str) -> Report:
    """The cases of what `check`, `convert` or `bench` found; `subject` is the file that was judged."""
    found = READERS[str(document["schema"])](document, subject)
    worse = [Case("baseline", entry["name"], "fail", entry["message"]) for entry in document.get("baseline", ())]
    if not worse:
        return found
    return replace(
        found, status="fail", reason=f"worse than the baseline; {found.reason}", cases=(*worse, *found.cases)
    )


def _check(document: Document, subject: str) -> Report:
    verdict: Status = document["verdict"]
    cases = list(_outputs(document))
    if not cases or all(case.status == "pass" for case in cases) != (verdict == "pass"):  # no single output is to blame
        cases.insert(0, Case("check/model", "the whole model", verdict, document["reason"]))
    return Report("check", subject, verdict, document["reason"], tuple(cases))


def _outputs(document: Document) -> Iterator[Case]:
    for output in document["outputs"]:
        judged = output["verdict"] != "not judged"
        yield Case(
            "check/output",
            output["name"],
            output["verdict"] if judged else "refused",
            f"{output['reason']}{_errors(output)}",
        )


def _errors(output: Document) -> str:
    error, own = output["max_error"], output["original_max_error"]
    if error is None or own is None:
        return ""
    return f" (error {error:.3g}, the original's own {own:.3g})"


def _convert(document: Document, subject: str) -> Report:
    done = [
        Case(f"rewrite/{rewrite['rule']}", rewrite["site"], "pass", rewrite["detail"] or "rewritten and proved")
        for rewrite in document["rewrites"]
    ]
    left = [
        Case(f"refused/{refusal['reason_id']}", refusal["site"], "refused", refusal["reason"])
        for refusal in document["refused"]
    ]
    checked = [] if document["check"] is None else [*_check(document["check"], subject).cases]
    verdict: Status = "pass" if document["check"] is None else document["check"]["verdict"]
    if verdict == "pass" and left and not done:
        verdict = "fail"
    reason = f"{len(done)} rewritten, {len(left)} refused"
    if document["check"] is not None:
        reason += f"; check: {document['check']['reason']}"
    return Report("convert", subject, verdict, reason, (*done, *left, *checked))


def _bench(document: Document, subject: str) -> Report:
    cases = [
        Case("bench/latency", f"{arm['model']} on {sweep['shapes']}", _speed(arm["verdict"]), _ratio(arm))
        for sweep in document["sweeps"]
        for arm in sweep["arms"]
        if arm["verdict"] is not None
    ]
    control, ratio = document["control"], document["ratio"]
    reason = f"{document['verdict']}: {_interval(ratio)} of the original's time (control {_interval(control)})"
    return Report("bench", subject, _speed(document["verdict"]), reason, tuple(cases))


def _speed(verdict: str) -> Status:
    return "fail" if verdict == "slower" else "inconclusive" if verdict == "inconclusive" else "pass"


def _ratio(arm: Document) -> str:
    return f"{arm['verdict']}: {_interval(arm['ratio'])} of the original's time, median {arm['p50_ms']:.3f} ms"


def _interval(ratio: Document) -> str:
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


READERS: Mapping[str, Callable[[Document, str], Report]] = {
    "normswap/check/1": _check,
    "normswap/convert/1": _convert,
    "normswap/bench/1": _bench,
}


def failing(cases: Sequence[Case]) -> list[Case]:
    """The cases that CI must know of, failures first."""
    return [case for status in ("fail", "inconclusive") for case in cases if case.status == status]
