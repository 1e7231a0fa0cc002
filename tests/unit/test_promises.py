"""The security model names a test for each promise: that test is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/explanation/security.md"


def test_each_promise_has_its_tests() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "| tests |" not in line]
    assert len(rows) > 20
    for row in rows:
        _, promise, tests, _ = row.split("|")
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert named and len(named) == tests.count("`") // 2, f"{promise}: no tests, or other words: {tests}"
        for path, name in named:
            text = (ROOT / "tests" / path).read_text()
            assert re.search(rf"^(async )?def {name}\(", text, re.M), f"{promise}: {path} has no {name}"
