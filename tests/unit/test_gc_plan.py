"""What garbage collection takes away: whatever a cache holds, nothing that is protected, oldest use first."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.cache.contents import Item
from hpcc.cache.gc import OVER, UNREFERENCED, UNUSED, Policy, Removal, is_protected, plan_gc
from hpcc.cache.needs import Needs, base_name

DAY = 86400.0
NOW = 1000 * DAY
GRACE = 8 * DAY
ME, OTHER = 1000, 1001


def item(kind: str, name: str, used: float = 100, size: int = 10, made: float | None = None, owner: int = ME) -> Item:
    """Times are days ago."""
    made = used if made is None else made
    return Item(kind, name, f"/c/{kind}/{name}", size, NOW - made * DAY, NOW - used * DAY, owner)


def needs(documents: Iterable[str] = (), savings: Iterable[str] = ()) -> Needs:
    return Needs(frozenset(documents), frozenset(savings))


def plan(*items: Item, needs: dict[str, Needs] | None = None, kept: Iterable[str] = (), **policy: float) -> list[str]:
    done = plan_gc(items, needs or {}, set(kept), NOW, Policy(**{"grace": GRACE, **policy}))  # type: ignore[arg-type]
    return [f"{each.item.kind} {each.item.name}" for each in done]


# -- one thing at a time ---------------------------------------------------------------------------------------------


def test_without_bounds_only_what_belongs_to_no_image_goes() -> None:
    held = [item("sif", "a", 500), item("blob", "m"), item("blob", "x"), item("blob", "young", 3),
            item("pack", "sha256-d-conv"), item("pack", "sha256-e-conv-1.2")]  # fmt: skip
    assert plan(*held, needs={"a": needs(["m"], ["sha256-d"])}) == ["blob x", "pack sha256-e-conv-1.2"]


def test_age_takes_the_image_and_all_that_no_other_one_needs() -> None:
    held = [item("sif", "old", 40), item("sif", "new", 20), item("blob", "m1"), item("blob", "m2"),
            item("blob", "layer"), item("blob", "shared")]  # fmt: skip
    wants = {"old": needs(["m1"], ["layer", "shared"]), "new": needs(["m2"], ["shared"])}
    assert plan(*held, needs=wants, max_age=30 * DAY) == ["sif old", "blob layer", "blob m1"]
    assert plan(*held, needs=wants, max_age=50 * DAY) == []


def test_savings_go_before_images_and_each_by_its_last_use() -> None:
    held = [item("sif", "a", 30), item("sif", "b", 20), item("blob", "ma"), item("blob", "mb"),
            item("blob", "la"), item("blob", "lb"), item("pack", "sha256-p-c")]  # fmt: skip
    wants = {"a": needs(["ma"], ["la", "sha256-p"]), "b": needs(["mb"], ["lb", "sha256-p"])}
    order = ["blob la", "blob lb", "pack sha256-p-c", "sif a", "blob ma", "sif b", "blob mb"]
    for size, count in ((70, 0), (60, 1), (55, 2), (40, 3), (39, 5), (20, 5), (1, 7)):
        assert plan(*held, needs=wants, max_size=size) == order[:count], size


@pytest.mark.parametrize("how", ["pinned", "used", "young"])
def test_what_is_protected_stays_with_its_documents_but_not_its_savings(how: str) -> None:
    sif = {"pinned": item("sif", "a"), "used": item("sif", "a", 1, made=90), "young": item("sif", "a", 1)}[how]
    held = [sif, item("blob", "m"), item("blob", "layer")]
    kept = ["a"] if how == "pinned" else []
    assert plan(*held, needs={"a": needs(["m"], ["layer"])}, kept=kept, max_size=1) == ["blob layer"]


def test_a_slot_beside_an_occupied_name_is_pinned_with_it() -> None:
    assert item("sif", "a.1000").key == "a"
    assert plan(item("sif", "a.1000"), item("blob", "m.1000"), needs={"a": needs(["m"])}, kept=["a"], max_size=1) == []


def test_a_member_cleans_and_counts_what_is_his() -> None:
    held = [item("sif", "a"), item("sif", "b", owner=OTHER), item("blob", "x"), item("blob", "y", owner=OTHER),
            item("blob", "m")]  # fmt: skip
    wants = {"b": needs(["m"])}  # somebody else's image needs his blob
    assert plan(*held, needs=wants, owner=ME) == ["blob x"]
    assert plan(*held, needs=wants, owner=ME, max_size=20) == ["blob x"]
    assert plan(*held, needs=wants, owner=ME, max_size=10) == ["blob x", "sif a"]


def test_times_in_the_future() -> None:
    ahead = item("sif", "ahead", -400)
    assert plan(ahead, max_size=1) == []  # as if it were used now
    held = [item("sif", "a", 9), ahead._replace(made=NOW - 50 * DAY, used=NOW + 400 * DAY), item("blob", "l")]
    assert plan(*held, max_size=1, needs={"a": needs([], ["l"])}) == ["blob l", "sif a"]


def test_reasons() -> None:
    held = [item("sif", "a", 40), item("sif", "b", 20), item("blob", "x")]
    done = plan_gc(held, {}, (), NOW, Policy(GRACE, 30 * DAY, 1))
    assert [each.why for each in done] == [UNUSED, UNREFERENCED, OVER]


def test_an_image_without_a_sif_keeps_its_layers_until_its_turn_comes() -> None:
    """As after `cache import` on a cluster without a network: it is no less worth than one with a SIF."""
    held = [item("sif", "a", 30), item("sif", "b", 20), item("blob", "ma"), item("blob", "mb"), item("blob", "mi", 25),
            item("blob", "li", 25), item("blob", "lb")]  # fmt: skip
    wants = {"a": needs(["ma"]), "b": needs(["mb"], ["lb"]), "@mi": needs(["mi"], ["li"])}
    order = ["blob lb", "sif a", "blob ma", "blob li", "blob mi", "sif b", "blob mb"]
    for size, count in ((70, 0), (60, 1), (50, 3), (40, 3), (39, 5), (20, 5), (1, 7)):
        assert plan(*held, needs=wants, max_size=size) == order[:count], size
    assert plan(*held, needs=wants, max_age=27 * DAY) == ["sif a", "blob ma"]
    young = [each._replace(made=NOW - 3 * DAY) if each.name == "mi" else each for each in held]
    assert "blob li" not in plan(*young, needs=wants, max_age=9 * DAY)


# -- any cache -------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from("abcdef")
KINDS = st.sampled_from(("sif", "blob", "pack"))


@st.composite
def items(draw: st.DrawFn) -> Item:
    kind, name = draw(KINDS), draw(NAMES)
    made = draw(st.integers(-5, 60))
    used = min(made, draw(st.integers(-5, 60))) if kind == "sif" else made
    name = f"sha256-{name}-c" if kind == "pack" else name + draw(st.sampled_from(("", ".1000")))
    return item(kind, name, used, draw(st.integers(0, 50)), made, draw(st.sampled_from((ME, OTHER))))


HELD = st.lists(items(), max_size=25, unique_by=lambda each: each.path)
BASES = st.frozensets(st.one_of(NAMES, NAMES.map(lambda name: f"sha256-{name}")), max_size=6)
UNMADE = st.tuples(NAMES, BASES, BASES).map(lambda each: (f"@{each[0]}", Needs(each[1] | {each[0]}, each[2])))
NEEDS = st.builds(
    lambda made, unmade: {**made, **dict(unmade)},
    st.dictionaries(NAMES, st.builds(Needs, BASES, BASES)),
    st.lists(UNMADE, max_size=4),
)
KEPT = st.frozensets(NAMES, max_size=3)
POLICIES = st.builds(
    Policy,
    st.sampled_from((0.0, GRACE)),
    st.sampled_from((0.0, 20 * DAY)),
    st.sampled_from((0, 1, 100, 300)),
    st.sampled_from((None, ME)),
)


def left(held: list[Item], done: Iterable[Removal]) -> list[Item]:
    gone = {each.item.path for each in done}
    return [each for each in held if each.path not in gone]


@given(HELD, NEEDS, KEPT, POLICIES)
def test_nothing_that_is_protected_goes(held: list[Item], wants: dict[str, Needs], kept: set[str], by: Policy) -> None:
    done = plan_gc(held, wants, kept, NOW, by)
    assert len({each.item.path for each in done}) == len(done)
    for each, _ in done:
        assert by.owner in (None, each.owner)
        if each.kind == "sif":
            assert each.key not in kept and NOW - each.used >= by.grace
        assert NOW - each.made >= by.grace
    alive = [each for each in left(held, done) if each.kind == "sif"]
    documents = {name for each in alive for name in wants.get(each.key, needs()).documents}
    assert not {base_name(each) for each, _ in done if each.kind != "sif"} & documents


@given(HELD, NEEDS, KEPT, POLICIES)
def test_it_gets_under_the_size_if_that_is_possible(
    held: list[Item], wants: dict[str, Needs], kept: set[str], by: Policy
) -> None:
    rest = left(held, plan_gc(held, wants, kept, NOW, by))
    alive = [each for each in rest if each.kind == "sif"]
    documents = {name for each in alive for name in wants.get(each.key, needs()).documents}
    savings = {name for each in alive for name in wants.get(each.key, needs()).savings}
    ours = [each for each in rest if by.owner in (None, each.owner)]
    free = [each for each in ours if not is_protected(each, kept, NOW, by.grace)
            and (each.kind == "sif" or base_name(each) not in documents)]  # fmt: skip
    if by.max_size and sum(each.size for each in ours) > by.max_size:
        assert not free
    # Of what belongs to no image, and is old enough, nothing stays in any case.
    blobs = {base_name(each) for each in rest if each.kind != "sif"}
    unmade = [each for key, each in wants.items() if key[:1] == "@" and key[1:] in blobs]
    savings = savings.union(*(each.documents | each.savings for each in unmade))
    assert not [each for each in free if each.kind != "sif" and base_name(each) not in savings]


@given(HELD, NEEDS, KEPT, POLICIES)
def test_oldest_use_first_and_no_image_before_the_last_saving(
    held: list[Item], wants: dict[str, Needs], kept: set[str], by: Policy
) -> None:
    done = [each.item for each in plan_gc(held, wants, kept, NOW, by) if each.why == OVER]
    sifs = [min(each.used, NOW) for each in done if each.kind == "sif"]
    assert sifs == sorted(sifs)
    unmade = {name for key, each in wants.items() if key[:1] == "@" for name in each.documents | each.savings}
    kinds = [each.kind == "sif" for each in done if each.kind == "sif" or base_name(each) not in unmade]
    assert kinds == sorted(kinds)
    if sifs:
        rest = left(held, plan_gc(held, wants, kept, NOW, by))
        mine = [each for each in rest if by.owner in (None, each.owner) and each.kind == "sif"]
        assert all(is_protected(each, kept, NOW, by.grace) or min(each.used, NOW) >= sifs[-1] for each in mine)


@given(HELD, NEEDS, KEPT, POLICIES, st.randoms(use_true_random=False))
def test_it_depends_on_what_is_there_alone(
    held: list[Item], wants: dict[str, Needs], kept: set[str], by: Policy, random: "object"
) -> None:
    done = plan_gc(held, wants, kept, NOW, by)
    other = list(held)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert plan_gc(other, wants, kept, NOW, by) == done
    # And a second one finds nothing more to do.
    assert plan_gc(left(held, done), wants, kept, NOW, by) == ()
