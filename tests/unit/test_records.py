"""hpcc.records.NamedTuple does what typing's does, as far as hpcc uses it."""

import copy
import pickle
from typing import NamedTuple as TypingNamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.records import NamedTuple


class Ours(NamedTuple):
    """With defaults, a method and a property."""

    name: str
    size: int = 1
    parts: tuple[int, ...] = ()

    @property
    def double(self) -> int:
        return self.size * 2

    @classmethod
    def parse(cls, text: str) -> "Ours":
        return cls(text, len(text))


class Theirs(TypingNamedTuple):
    name: str
    size: int = 1
    parts: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("a",), {}),
        (("a", 2), {}),
        (("a", 2, (3,)), {}),
        ((), {"name": "a"}),
        (("a",), {"parts": (1,)}),
        (("a",), {"size": 5, "parts": ()}),
    ],
)
def test_it_is_made_as_typings_is(args: tuple, kwargs: dict) -> None:
    ours, theirs = Ours(*args, **kwargs), Theirs(*args, **kwargs)
    assert tuple(ours) == tuple(theirs)
    assert (ours.name, ours.size, ours.parts) == tuple(theirs)
    assert ours._asdict() == theirs._asdict()
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), (("a", 1, (), 4), {}), (("a",), {"name": "b"}), (("a",), {"other": 1}), ((), {"size": 1})],
)
def test_wrong_values_are_a_type_error(args: tuple, kwargs: dict) -> None:
    with pytest.raises(TypeError):
        Ours(*args, **kwargs)
    with pytest.raises(TypeError):
        Theirs(*args, **kwargs)


def test_methods_and_the_tuple_below() -> None:
    ours = Ours.parse("four")
    assert ours == Ours("four", 4) == ("four", 4, ())
    assert ours.double == 8
    assert hash(ours) == hash(("four", 4, ()))
    assert Ours._make(["x", 1, ()]) == Ours("x")
    assert Ours._fields == Theirs._fields
    match ours:
        case Ours(name, size):
            assert (name, size) == ("four", 4)
    with pytest.raises(AttributeError):
        ours.name = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        ours.further = 1  # type: ignore[attr-defined]


@given(st.text(), st.integers(), st.dictionaries(st.sampled_from(["name", "size", "parts"]), st.integers()))
def test_replace_gives_a_new_one(name: str, size: int, changes: dict[str, int]) -> None:
    ours, theirs = Ours(name, size), Theirs(name, size)
    assert tuple(ours._replace(**changes)) == tuple(theirs._replace(**changes))
    assert type(ours._replace(**changes)) is Ours
    assert ours == (name, size, ())


def test_replace_knows_its_fields() -> None:
    with pytest.raises(ValueError, match="other"):
        Ours("a")._replace(other=1)


def test_copies_and_pickles_are_equal() -> None:
    ours = Ours("a", 2, (1, 2))
    for other in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert other == ours and type(other) is Ours
