"""docs/reference/registries.md names tests that exist, and each registry has one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/reference/registries.md"
TESTS = ROOT / "tests/integration"
_NAMED = re.compile(r"`([\w./]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """The cells of each row of the table of registries."""
    section = DOCUMENT.read_text().partition("\n## The registries\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_in(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_table_has_all_registries() -> None:
    names = " ".join(row[0] for row in rows())
    for name in ("docker.io", "quay.io", "nvcr.io", "ghcr.io", "dkr.ecr", "public.ecr.aws", "azurecr.io", "gcr.io",
                 "docker.pkg.dev", "Harbor", "GitLab", "host:port"):  # fmt: skip
        assert name in names


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_each_registry_names_a_test_that_exists(row: list[str]) -> None:
    assert len(row) == 4
    match = _NAMED.fullmatch(row[3])
    assert match is not None, f"no test in the last column: {row[3]}"
    assert match[2] in names_in(TESTS / match[1])


def test_all_other_tests_that_the_document_names_exist() -> None:
    found = _NAMED.findall(DOCUMENT.read_text())
    assert len(found) > len(rows())
    for file, name in found:
        assert name in names_in(TESTS / file), f"{file}::{name}"
