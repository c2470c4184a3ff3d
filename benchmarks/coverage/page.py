"""The page: docs/coverage.md, with sums first, then what was varied, then every wrong cell by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from benchmarks.coverage.cases import OPSETS, Case
from benchmarks.coverage.cell import CRASHED, LEFT, RECOGNIZED, WRONG, Cell
from benchmarks.coverage.peers import Column
from benchmarks.report import table

COMMAND = "python -m benchmarks.coverage --python build/peers/bin/python"

# Of a complaint, and of the spellings that meet it, no more is printed.
LONGEST, NAMED = 160, 6

HEAD = """# What recognizes normalizations

Made by `{command}`:
{graphs} small graphs, generated from {spellings} spellings of {kinds} kinds of norms and of traps, at opsets {first} to
{last} and in float16, bfloat16, float32 and float64. Every graph is run against a formula in numpy, and every trap
differs from what it imitates (`tests/test_coverage.py`). `--show NAME` prints a graph and what it is. The peers'
environment is that of benchmarks/README.md.

- *recognized*: *normswap inspect* names exactly the norms that are there, each with its kind, axes, ε (within the
  rounding of float32), groups and run-time parts. Any other tool: its output holds an operator that is this norm (of a
  constant norm: no more than its scale and shift, or the reader of the weight), and computes the same.
- *left*: not recognized, and the result computes the same. What a tool cannot load at all is left, too: onnxruntime has
  few kernels for bfloat16 on the CPU.
- *wrong*: the result differs from the float64 truth by more than the root of the type's rounding, on plain,
  offset, small, large or constant inputs, or does not run; *normswap inspect* names a norm that is not there.
- *crashed*: the tool raised an error, its process died, or it did not end.

A graph that is one operator already is recognized by whoever leaves it as it is. A kind that no operator of a runtime
stands for (PartialRMSNorm) cannot be recognized by a peer: left is all that it can do.
"""


def page(cases: Sequence[Case], columns: Sequence[Column]) -> str:
    """The whole page."""
    parts = [
        HEAD.format(
            command=COMMAND,
            graphs=len(cases),
            spellings=len({case.spelling for case in cases}),
            kinds=len({case.kind for case in cases if not case.is_trap}),
            first=OPSETS[0],
            last=OPSETS[-1],
        ),
        f"## Sums\n\n{_sums(cases, columns)}",
        f"## What was varied\n\n{_explanation()}\n\n{_groups(cases, columns)}",
        f"## Wrong and crashed\n\n{_failures(cases, columns)}",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _header(columns: Sequence[Column]) -> list[str]:
    return ["", "graphs", *(f"{column.tool} {column.version or '(not installed)'}" for column in columns)]


def _words(column: Column, cases: Iterable[Case]) -> Counter[str]:
    return Counter(column.cells[case.name].word for case in cases) if column.cells else Counter()


def _sums(cases: Sequence[Case], columns: Sequence[Column]) -> str:
    norms, traps = [case for case in cases if not case.is_trap], [case for case in cases if case.is_trap]
    kinds = dict.fromkeys(case.kind for case in norms)
    rows = [
        *(_count(kind, [case for case in norms if case.kind == kind], columns, RECOGNIZED) for kind in kinds),
        _count("**all, recognized**", norms, columns, RECOGNIZED),
        *(_count(f"all, {word}", norms, columns, word) for word in (LEFT, WRONG, CRASHED)),
        *(_count(f"traps, {word}", traps, columns, word) for word in (LEFT, CRASHED)),
        _count("**traps, wrong**", traps, columns, WRONG),
    ]
    return table(_header(columns), rows)


def _count(title: str, cases: Sequence[Case], columns: Sequence[Column], word: str) -> list[str]:
    counts = (str(_words(column, cases)[word]) if column.cells else "" for column in columns)
    return [title, str(len(cases)), *counts]


def _explanation() -> str:
    return "Graphs recognized (of traps: left alone), then those that are wrong (`w`) and that crashed (`c`)."


def _groups(cases: Sequence[Case], columns: Sequence[Column]) -> str:
    parts = []
    for kind, of_kind in groupby(cases, key=lambda case: case.kind):
        rows, members = [], list(of_kind)
        for group in dict.fromkeys(case.spelling.group for case in members):
            same = [case for case in members if case.spelling.group == group]
            right = LEFT if same[0].is_trap else RECOGNIZED
            rows.append([group, str(len(same)), *(_short(_words(column, same), right) for column in columns)])
        parts.append(f"### {kind}\n\n{table(_header(columns), rows)}")
    return "\n\n".join(parts)


def _short(words: Counter[str], right: str) -> str:
    if not words:
        return ""
    bad = [f"{words[word]} {letter}" for word, letter in ((WRONG, "w"), (CRASHED, "c")) if words[word]]
    return ", ".join([str(words[right]), *bad])


def _failures(cases: Sequence[Case], columns: Sequence[Column]) -> str:
    """What went wrong, by spelling; and by complaint what crashed, since one mistake is met by many graphs."""
    parts = []
    for column in columns:
        found = [(case, column.cells[case.name]) for case in cases if column.cells]
        wrong = [(case, cell) for case, cell in found if cell.word == WRONG]
        crashed = sorted(((case, cell) for case, cell in found if cell.word == CRASHED), key=lambda item: item[1].note)
        lines = [
            *(_wrong(list(members)) for _, members in groupby(wrong, key=lambda item: item[0].spelling)),
            *(_crashed(note, list(members)) for note, members in groupby(crashed, key=lambda item: item[1].note)),
        ]
        parts.append(f"### {column.tool}\n\n" + ("\n".join(lines) if lines else "Nothing."))
    return "\n\n".join(parts)


def _name(case: Case) -> str:
    return f"`{case.name.rsplit('/', 2)[0]}`"


def _wrong(members: Sequence[tuple[Case, Cell]]) -> str:
    """One spelling, at whatever opsets and types it went wrong."""
    where = ", ".join("/".join(case.name.split("/")[-2:]) for case, _ in members)
    case, cell = members[0]
    return f"- wrong: {_name(case)} ({where}): {cell.note[:LONGEST]}"


def _crashed(note: str, members: Sequence[tuple[Case, Cell]]) -> str:
    """One complaint, and some of the spellings that meet it."""
    names = list(dict.fromkeys(_name(case) for case, _ in members))
    more = f" and {len(names) - NAMED} more spellings" if len(names) > NAMED else ""
    return f"- crashed, {len(members)} graphs: {note[:LONGEST]}: {', '.join(names[:NAMED])}{more}"
