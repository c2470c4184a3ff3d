"""What recognition has found so far, and the norm that one region computes.

Identical regions are fingerprinted once, and only their constant vectors are read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from normswap import fingerprint, regions, views
from normswap.copies import Copies
from normswap.facts import Facts
from normswap.norm import Norm, Unrecognized
from normswap.regions import Region


@dataclass
class Findings:
    """What has been found so far.

    `covered` are the nodes of norms; `copies` the outcomes by structure; `suspects` the values that are x minus
    a statistic which is not its mean, with the reason: their root mean square is not the second half of a norm.
    """

    facts: Facts
    norms: list[Norm] = field(default_factory=list)
    unrecognized: list[Unrecognized] = field(default_factory=list)
    covered: set[ir.Node] = field(default_factory=set)
    copies: Copies = field(init=False)
    suspects: dict[ir.Value, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.copies = Copies(self.facts)

    def record(self, found: Norm | Unrecognized) -> None:
        """Note a norm, whose nodes are looked at no more, or what is none."""
        if isinstance(found, Norm):
            self.norms.append(found)
            self.covered.update(found.nodes)
        else:
            self.unrecognized.append(found)


@dataclass(frozen=True, eq=False)
class Place:
    """A graph of the model: its path, and the order of its nodes."""

    path: str
    position: Mapping[ir.Node, int]


def norm_of(region: Region, place: Place, findings: Findings) -> Norm | str:
    """The norm that a region computes, in x's own type; or the id of the reason why it computes none."""
    facts, targets = findings.facts, region.targets(findings.facts)
    match = findings.copies.outcome(region)
    if isinstance(match, str):
        return _suspect(targets[0], region, match, findings)
    if not match.form.center and region.x in findings.suspects:
        return findings.suspects[region.x]
    solved = fingerprint.parameters(region, match, facts)
    if solved is None:
        return "other-statistic"
    setting, affines = solved
    if views.is_negated(next(iter(affines.values())), setting):
        return _suspect(targets[0], region, "negated", findings)
    alike = [value for value in affines if facts.dtype(value) == facts.dtype(region.x)]
    if not alike:
        return "other-type"
    output = _last_in_line(region, alike)
    return views.of_region(
        regions.restrict(region, output), match.form, output, setting, affines[output], place.path, facts
    )


def _suspect(value: ir.Value, region: Region, reason: str, findings: Findings) -> str:
    """Note a difference of x and a statistic of x that is not Center(x)."""
    producer = value.producer()
    if reason != "not-a-norm" and producer is not None and producer.op_type == "Sub" and region.x in producer.inputs:
        findings.suspects.setdefault(value, reason)
    return reason


def _last_in_line(region: Region, found: list[ir.Value]) -> ir.Value:
    """The last of the matching values that can stand for the first: nothing else reads what lies between them.

    So the gain and the bias belong to the norm, and what an activation or an attention makes of its output does not.
    A mere copy in the same shape, by a layout operator, is left outside. So is another norm of what is normalized,
    which without an ε changes nothing any more.
    """
    line = found[0]
    for value in found[1:]:
        producer = value.producer()
        if producer is not None and producer.op_type in regions.COPIES and producer.inputs[0] in found:
            continue
        within = set(regions.needed_for({value}, region.nodes))
        own = regions.needed_for({line}, region.nodes)
        if any(regions.reduces(node) for node in within.difference(own)):
            break
        if not line.is_graph_output() and all(node in within for node in regions.readers(line)):
            line = value
    return line
