"""What tests of `hpcc snakemake` share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support import installation
from tests.support.people import Person
from tests.support.workflow import TOOLS, Workflow, add


@pytest.fixture
def lab() -> Iterator[FakeRegistry]:
    """A registry with images whose /version tells which they are."""
    with FakeRegistry() as registry:
        for name in TOOLS:
            add(registry, name)
        yield registry


@pytest.fixture
def workflow(runs_as: Person, lab: FakeRegistry) -> Workflow:
    """Of root, and of a plain user."""
    return Workflow(runs_as, installation.install(("snakemake",)), lab, runs_as.home / "work")


@pytest.fixture
def of_user(plain_user: Person, lab: FakeRegistry, open_dir: Path) -> Workflow:
    """Of a plain user alone."""
    (open_dir / "home").mkdir()
    person = plain_user.at(open_dir / "home")
    return Workflow(person, installation.install(("snakemake",)), lab, person.home / "work")
