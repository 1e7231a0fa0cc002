"""Registries inside the process for the tests of pulling."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hpcc.registry import transport
from hpcc.registry.fake import FakeRegistry
from tests.support.pulls import LAYERS, NAME, config_of


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another at once."""
    monkeypatch.setattr(transport, "PAUSE", 0.005)


@pytest.fixture
def fake(quick: None) -> Iterator[Callable[..., FakeRegistry]]:
    """Makes registries that serve tests.support.pulls' image as NAME:1; with index, behind an index."""
    running: list[FakeRegistry] = []

    def make(*, index: bool = False, **options: Any) -> FakeRegistry:
        registry = FakeRegistry(**options).__enter__()
        running.append(registry)
        registry.add_image(NAME, "1", LAYERS, config_of(LAYERS), index=index)
        return registry

    yield make
    for registry in running:
        registry.__exit__(None, None, None)
