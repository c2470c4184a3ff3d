"""Every reason that the program gives is in the one table, and the page made from the table is up to date."""

from __future__ import annotations

import re
from pathlib import Path

from normswap.reasons import REASONS, page

ROOT = Path(__file__).resolve().parent.parent
GIVEN = re.compile(r'(?:Blocked|Unmappable|Foreign|Refusal|Unrecognized)\([^()"]*?"([a-z]+(?:-[a-z]+)+)"')


def test_every_reason_given_in_the_source_is_in_the_table():
    given = {
        reason_id
        for path in (ROOT / "normswap").rglob("*.py")
        for reason_id in GIVEN.findall(path.read_text(encoding="utf-8"))
    }
    assert len(given) > 10
    assert given <= set(REASONS)


def test_every_reason_of_the_table_is_given_somewhere():
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "normswap").rglob("*.py") if path.name != "reasons.py"
    )
    assert [reason_id for reason_id in REASONS if f'"{reason_id}"' not in source] == []


def test_the_page_is_made_from_the_table():
    assert (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8") == page()
