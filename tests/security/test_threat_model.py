from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/security.md"


def test_every_threat_names_tests_that_there_are() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")][2:]
    assert len(rows) > 30
    for row in rows:
        _, threat, stands, tests, _ = (part.strip() for part in row.split("|"))
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert threat, row
        assert stands, row
        assert named, row
        for file, name in named:
            source = (TESTS / file).read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{threat}: no {file}::{name}"
