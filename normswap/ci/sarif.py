"""A report as SARIF 2.1.0, which code hosts show beside the change: one result per case that did not pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from urllib.parse import quote

from normswap import __version__
from normswap.ci.cases import Case, Report
from normswap.reasons import REASONS
from normswap.text import printable

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"fail": "error", "inconclusive": "warning", "refused": "note"}
MEANINGS = {
    "check/model": "The converted model as a whole against its original",
    "check/output": "One output of the converted model against the float64 truth of the original",
    "bench/latency": "The latency of the converted model next to the original's",
}


def sarif(report: Report) -> str:
    """The JSON document."""
    found = [case for case in report.cases if case.status != "pass"]
    rules = list(dict.fromkeys(case.rule for case in found))
    run = {
        "tool": {"driver": {"name": "normswap", "version": __version__, "rules": [_rule(rule) for rule in rules]}},
        "properties": {"command": report.command, "verdict": report.status, "reason": printable(report.reason)},
        "results": [_result(case, rules.index(case.rule), report.subject) for case in found],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(rule: str) -> Mapping[str, object]:
    reason = REASONS.get(rule.removeprefix("refused/"))
    text = MEANINGS.get(rule) or (reason.meaning if reason else rule)
    described: dict[str, object] = {"id": rule, "shortDescription": {"text": text}}
    if reason is not None:
        described["help"] = {"text": f"What helps: {reason.remedy}"}
    return described


def _result(case: Case, index: int, subject: str) -> Mapping[str, object]:
    location = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(subject)}},
        "logicalLocations": [{"name": printable(case.name), "kind": "element"}],
    }
    return {
        "ruleId": case.rule,
        "ruleIndex": index,
        "level": LEVELS[case.status],
        "message": {"text": printable(f"{case.name}: {case.message}")},
        "locations": [location],
    }


def _uri(subject: str) -> str:
    """A path as a URI reference; one that is absolute gets a scheme."""
    path = PurePath(subject)
    quoted = quote(path.as_posix().encode(errors="surrogatepass"))
    return f"file://{quoted}" if path.is_absolute() else quoted
