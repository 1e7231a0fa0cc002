"""Quotas and refusals that all who share a cache know, and registries that cannot be reached."""

import json
import os
import time
from pathlib import Path

import pytest

from hpcc.cache.layout import Cache
from hpcc.cache.limits import LONGEST, Standing, list_standings, read_standing, write_standing
from hpcc.errors import RateLimited, RegistryUnavailable
from hpcc.image import open_image
from hpcc.registry.fake import FakeRegistry, Faults
from hpcc.sources.standing import PATIENCE, REST
from tests.support.people import Person
from tests.support.pulls import LAYERS, NAME, Told, call_as, config_of, pull, settings_of, uri_of

pytestmark = pytest.mark.usefixtures("hpcc_env")
ACCOUNT = {"HPCC_DOCKER_USERNAME": "ann", "HPCC_DOCKER_PASSWORD": "s3cret"}


def standing_in(home: Path, registry: FakeRegistry, who: str = "anonymous", tier: str = "cache") -> Standing | None:
    return read_standing(Cache(str(home / tier)), registry.host, who)


def test_quota_is_kept_per_registry_and_account(fake, hpcc_env: Path) -> None:
    """The account's in the private tier alone: its name is nobody else's business."""
    registry = fake(quota=9, username="ann", password="s3cret")
    pull(registry, hpcc_env)
    found = standing_in(hpcc_env, registry)
    assert found is not None and (found.limit, found.remaining, found.window, found.source) == (
        9,
        8,
        21600,
        "127.0.0.1",
    )
    assert abs(found.seen_at - time.time()) < 60 and found.not_before == 0
    registry.add_image(NAME, "2", LAYERS[:1], config_of(LAYERS[:1]))
    pull(registry, hpcc_env, tag="2", **ACCOUNT)
    found = standing_in(hpcc_env, registry, "account ann", "private")
    assert found is not None and found.remaining == 7
    assert not [path for path in (hpcc_env / "cache").rglob("*") if "ann" in path.name]


def test_one_429_is_everybodys(fake, hpcc_env: Path) -> None:
    registry = fake(quota=0)
    with pytest.raises(RateLimited, match="refuses more requests for now") as first:
        pull(registry, hpcc_env)
    asked = list(registry.requests)
    with pytest.raises(RateLimited, match="leaves it alone until") as second:
        pull(registry, hpcc_env)
    with pytest.raises(RateLimited, match="leaves it alone until") as third:
        pull(registry, hpcc_env)
    assert registry.requests == asked
    for caught in (first, second, third):
        assert caught.value.exit_code == 75
        assert "toomanyrequests" in caught.value.message and "0 of 0 pulls left in 6 h for 127.0.0.1" in (
            caught.value.message
        )
        assert all(way in caught.value.hint for way in ("log in", "mirror", "wait, until"))
    # an account has a quota of its own, and another cache knows nothing of it
    registry.username, registry.password, registry.quota = "ann", "s3cret", 5
    assert pull(registry, hpcc_env, **ACCOUNT)
    assert pull(registry, hpcc_env / "other")


def test_it_is_asked_again_when_the_time_is_over(fake, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake(quota=0)
    with pytest.raises(RateLimited):
        pull(registry, hpcc_env)
    registry.quota = 5
    later = time.time() + PATIENCE + 1
    monkeypatch.setattr("time.time", lambda: later)
    assert pull(registry, hpcc_env)
    found = standing_in(hpcc_env, registry)
    assert found is not None and found.not_before == 0


def test_always_asks_all_the_same(fake, hpcc_env: Path) -> None:
    registry = fake(quota=0)
    with pytest.raises(RateLimited):
        pull(registry, hpcc_env)
    registry.quota = 5
    assert pull(registry, hpcc_env, HPCC_PULL="always")


def test_retry_after_is_believed(fake, hpcc_env: Path) -> None:
    registry = fake(faults=Faults(busy=-1, retry_after="7200"))
    with pytest.raises(RateLimited):
        pull(registry, hpcc_env)
    found = standing_in(hpcc_env, registry)
    assert found is not None and abs(found.not_before - time.time() - 7200) < 60


def test_the_cache_serves_while_the_registry_refuses(fake, hpcc_env: Path) -> None:
    """With a warning that says the age; also where only layers are left of the image."""
    registry = fake(quota=1)
    first = pull(registry, hpcc_env)
    registry.add_image(NAME, "1", LAYERS[:1], config_of(LAYERS[:1]))
    for _ in range(2):  # refused by the registry, then by what the cache knows
        told = Told()
        assert pull(registry, hpcc_env, told=told, HPCC_TTL="0").key == first.key
        assert "(429)" in told.warnings[0] and "Using what the cache has, as it was 0.0 hours ago" in told.warnings[0]
    for path in (hpcc_env / "cache/sif-v1").iterdir():
        path.unlink()
    assert pull(registry, hpcc_env, HPCC_TTL="0").key == first.key


def test_unreachable_is_noted_for_a_minute(fake, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake()
    first = pull(registry, hpcc_env)
    uri, port = uri_of(registry), int(registry.host.rpartition(":")[2])
    registry.__exit__(None, None, None)
    told = Told()
    assert open_image(uri, settings_of(hpcc_env, HPCC_TTL="0"), progress=told).key == first.key
    assert "refuses connections. Using what the cache has" in told.warnings[0]
    # from now on nobody tries, though somebody would answer
    import socket

    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(0.2)
        told = Told()
        assert open_image(uri, settings_of(hpcc_env, HPCC_TTL="0"), progress=told).key == first.key
        assert "as of 0 s ago" in told.warnings[0]
        other = f"docker://127.0.0.1:{port}/group/other:1"
        with pytest.raises(RegistryUnavailable, match="refuses connections, as of") as caught:
            open_image(other, settings_of(hpcc_env))
        assert "--pull always" in caught.value.hint and caught.value.exit_code == 75
        with pytest.raises(TimeoutError):
            listener.accept()
        later = time.time() + REST + 1
        monkeypatch.setattr("time.time", lambda: later)
    with pytest.raises(RegistryUnavailable, match=r"refuses connections$"):  # asked, and found closed again
        open_image(other, settings_of(hpcc_env))


def test_an_error_of_the_registry_is_no_reason_to_leave_it_alone(fake, hpcc_env: Path) -> None:
    """5xx, certificates and broken connections may be mended in the next second."""
    registry = fake(faults=Faults(unavailable=-1))
    with pytest.raises(RegistryUnavailable):
        pull(registry, hpcc_env)
    registry.faults = Faults()
    assert pull(registry, hpcc_env)
    with pytest.raises(RegistryUnavailable, match="speak https"):
        open_image(uri_of(registry, "2"), settings_of(hpcc_env, HPCC_NOHTTPS="0"))
    registry.add_image(NAME, "2", LAYERS, config_of(LAYERS))
    assert pull(registry, hpcc_env, tag="2")


# -- records of others -----------------------------------------------------------------------------------------------


def record(home: Path, host: str, name: str, **values: object) -> Path:
    now = time.time()
    written = {**Standing(host, "anonymous", 9, 0, 60, "", now, now + 1e9, "x")._asdict(), **values}
    path = home / f"cache/limits/{host}/anonymous/{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written))
    path.chmod(0o644)
    return path


def test_no_record_forbids_for_ever(hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a far time, nor by a clock that runs ahead; and what is healthy and newer comes before it."""
    cache = Cache(str(hpcc_env / "cache"))
    now = time.time()
    record(hpcc_env, "r.example", str(os.getuid()))
    found = read_standing(cache, "r.example", "anonymous")
    assert found is not None and found.not_before <= now + LONGEST + 60
    monkeypatch.setattr("time.time", lambda: now + 5 * 365 * 86400)
    found = read_standing(cache, "r.example", "anonymous")
    assert found is not None and found.not_before < now + 2 * LONGEST
    monkeypatch.undo()
    record(hpcc_env, "r.example", str(os.getuid()), seen_at=now + 1e9)
    assert read_standing(cache, "r.example", "anonymous") is None


@pytest.mark.parametrize(
    "values",
    [
        {"registry": "other.example"}, {"who": "account x"}, {"limit": "9"}, {"not_before": None}, {"seen_at": []},
        {"why": 7}, {"why": "\x1b[2J"}, {"more": 1}, {"remaining": -7}, {"not_before": float("nan")}, {"window": 1e308},
    ],
)  # fmt: skip
def test_damaged_records_are_none(hpcc_env: Path, values: dict[str, object]) -> None:
    record(hpcc_env, "r.example", str(os.getuid()), **values)
    cache = Cache(str(hpcc_env / "cache"))
    assert read_standing(cache, "r.example", "anonymous") is None
    assert list_standings(cache) == []


def test_the_newest_counts(hpcc_env: Path) -> None:
    cache = Cache(str(hpcc_env / "cache"))
    record(hpcc_env, "r.example", "1234567", seen_at=time.time() - 100, remaining=1)
    write_standing(cache, Standing("r.example", "anonymous", 9, 5, 60, "", time.time(), 0, ""))
    found = read_standing(cache, "r.example", "anonymous")
    assert found is not None and found.remaining == 5
    assert [each.registry for each in list_standings(cache)] == ["r.example"]


@pytest.mark.root
def test_a_strangers_record_is_none(hpcc_env: Path, open_dir: Path, plain_user: Person, fake) -> None:
    registry = fake()
    path = record(hpcc_env, registry.host, str(plain_user.uid), seen_at=time.time())
    os.chown(path, plain_user.uid, plain_user.gid)
    assert standing_in(hpcc_env, registry) is None
    assert pull(registry, hpcc_env)


@pytest.mark.root
def test_a_trusted_persons_429_is_mine(fake, open_dir: Path, plain_user: Person) -> None:
    """Two users of one cache: the second does not ask."""
    registry = fake(quota=0)
    cache = open_dir / "cache"
    cache.mkdir()
    os.chown(cache, plain_user.uid, plain_user.gid)
    settings = {"HPCC_CACHE_DIR": str(cache)}

    def theirs() -> str:
        try:
            pull(registry, plain_user.home, **settings)
        except RateLimited as error:
            return error.message
        return ""

    assert "refuses more requests" in call_as(plain_user, theirs)
    asked = list(registry.requests)
    with pytest.raises(RateLimited, match="leaves it alone until"):
        pull(registry, open_dir, **settings)
    assert registry.requests == asked
