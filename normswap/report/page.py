"""An inspection as one HTML page that needs nothing else: no script, no network, light or dark, wide or narrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from normswap.distinct import PLAIN, Family, by, converts, families, targets
from normswap.ledger import Inspection
from normswap.reasons import REASONS
from normswap.report.pictures import Picture, as_norm, as_spelled
from normswap.report.svg import STYLE, draw, figure, text
from normswap.report.words import facts, heading, summary

PAGE_STYLE = """\
:root { color-scheme: light dark; --ink: #1f2328; --soft: #57606a; --paper: #ffffff; --line: #d0d7de; --link: #0969da; }
@media (prefers-color-scheme: dark) {
:root { --ink: #e6edf3; --soft: #9aa4af; --paper: #0d1117; --line: #30363d; --link: #4493f8; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--paper);
font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0.5rem 0; } h2 { font-size: 1.15rem; margin: 0 0 0.25rem; }
a { color: var(--link); } p { margin: 0.25rem 0; } .soft { color: var(--soft); }
code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 0.9em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; } caption { text-align: left; }
th, td { text-align: left; padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
.number { text-align: right; }
section { margin-top: 2rem; padding-top: 1rem; border-top: 1px solid var(--line); }
.pair { display: flex; flex-wrap: wrap; gap: 1rem 4rem; align-items: flex-start; margin: 1rem 0; }
figure { margin: 0; max-width: 100%; } figcaption { color: var(--soft); font-size: 0.9rem; margin-bottom: 0.5rem; }
svg { display: block; } li { margin: 0.15rem 0; } ul { padding-left: 1.2rem; }
@media print { section { break-inside: avoid; } }
"""
TITLES = {"axes": "axes (size)", "groups": "groups", "epsilon": "epsilon", "affine": "affine", "spelled": "spelled"}


def page(inspection: Inspection) -> str:
    """The document."""
    title = summary(inspection)
    found = families(inspection.norms, chains=True)
    body = [f"<h1>{text(title)}</h1>"]
    body += [_table(found, targets(inspection.norms))] if found else ["<p>No norms.</p>"]
    body += [_section(family, f"norm-{index}") for index, family in enumerate(found, start=1)]
    body += _unrecognized(inspection)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _table(found: list[Family], names: list[str]) -> str:
    columns = [column for column in TITLES if column == "axes" or any(family.words[column] for family in found)]
    head = "".join(f'<th scope="col">{text(word)}</th>' for word in ("norm", *map(TITLES.__getitem__, columns), *names))
    rows = []
    for index, family in enumerate(found, start=1):
        cells = (family.axes if column == "axes" else family.words[column] for column in columns)
        said = "".join(f"<td>{text(cell)}</td>" for cell in (*cells, *(converts(family.rows, name) for name in names)))
        link = f'<th scope="row"><a href="#norm-{index}"><bdi>{text(family.kind)}</bdi></a></th>'
        rows.append(f'<tr><td class="number">{len(family.rows):,}</td>{link}{said}</tr>')
    return (
        '<div class="scroll" role="region" aria-label="The distinct norms" tabindex="0"><table>\n<thead><tr>'
        f'<th scope="col" class="number">count</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _section(family: Family, anchor: str) -> str:
    pictures = [("What it is", as_norm(family))]
    if family.rows[0].region:
        pictures.insert(0, (f"As spelled: {family.words['spelled']}", as_spelled(family)))
    names = _list(f"<code><bdi>{text(row.name)}</bdi></code>" for row in family.rows)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">\n'
        f'<h2 id="{anchor}-title">{text(heading(family))}</h2>\n<p class="soft">{text(facts(family))}</p>\n'
        f'<div class="pair">\n{"".join(_figure(*picture) for picture in pictures)}</div>\n'
        + "\n".join(_answers(family))
        + f"<details><summary>{len(family.rows):,} by name</summary>{names}</details>\n</section>"
    )


def _figure(caption: str, picture: Picture) -> str:
    drawing = (
        f'<div class="scroll" role="group" aria-label="{text(caption)}" tabindex="0">{figure(draw(picture))}</div>'
    )
    return f"<figure><figcaption>{text(caption)}</figcaption>{drawing}</figure>\n"


def _answers(family: Family) -> Iterator[str]:
    """What each target makes of the family; the sentences by reason, for those who open them."""
    for target in targets(family.rows):
        yield f"<p><code>{text(target)}</code>: {text(converts(family.rows, target))}</p>"
        refused = [row.can[target] for row in family.rows if target in row.can]
        reasons = by((answer for answer in refused if answer["reason_id"]), lambda answer: answer["reason_id"])
        for reason_id, answers in reasons.items():
            if reason_id == "already":
                continue
            meaning = f": {REASONS[reason_id].meaning}" if reason_id in REASONS else ""
            sentences = _list(f"<bdi>{text(answer['reason'])}</bdi>" for answer in answers)
            title = f"{len(answers):,} <code>{text(reason_id)}</code>{text(meaning)}"
            yield f"<details><summary>{title}</summary>{sentences}</details>"


def _unrecognized(inspection: Inspection) -> Iterator[str]:
    if not inspection.unrecognized:
        return
    yield '<section aria-labelledby="others"><h2 id="others">Reductions that are no norms</h2>'
    alike_first = sorted(inspection.unrecognized, key=lambda row: row.reason_id in PLAIN)
    for reason_id, rows in by(alike_first, lambda row: row.reason_id).items():
        meaning = f": {REASONS[reason_id].meaning}" if reason_id in REASONS else ""
        sentences = _list(f"<bdi>{text(row.reason)}</bdi>" for row in rows)
        title = f"{len(rows):,} <code>{text(reason_id)}</code>{text(meaning)}"
        yield f"<details><summary>{title}</summary>{sentences}</details>"
    yield "</section>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
