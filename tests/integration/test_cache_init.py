"""`hpcc cache init` and `hpcc cache tiers`: a directory becomes a group's, and what is wrong with one is told."""

import grp
import os
import stat
from pathlib import Path

import pytest

from hpcc.cache import init, survey
from hpcc.cache.init import OPEN_TO_ALL, TOP, init_group_cache
from hpcc.cache.layout import Cache
from hpcc.cache.pins import pin
from hpcc.cache.survey import Tier, roomier_places, warnings_of
from hpcc.errors import CacheError, UsageError
from tests.support.people import Person
from tests.support.pulls import call_as

KEY = "ab" * 32
STRANGER = 54321
GB = 10**9


@pytest.fixture
def group(plain_user: Person) -> str:
    return grp.getgrgid(plain_user.gid).gr_name


def modes(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): stat.S_IMODE(path.lstat().st_mode) for path in top.rglob("*") if path.is_dir()}


EXPECTED = {name: 0o2770 if name in OPEN_TO_ALL else 0o3770 for name in TOP}


# -- init --------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_modes_owner_and_policy(open_dir: Path, plain_user: Person, group: str) -> None:
    path = open_dir / "shared"
    before = os.umask(0o077)
    try:
        made = init_group_cache(str(path), group)
    finally:
        os.umask(before)
    assert (made.path, made.group, made.closed) == (str(path), group, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o3770 and path.stat().st_gid == plain_user.gid
    assert modes(path) == EXPECTED
    assert all(each.stat().st_gid == plain_user.gid and each.stat().st_uid == 0 for each in path.rglob("*"))
    assert (path / "policy.toml").read_text() == f'trusted_groups = ["{group}"]\n'
    assert stat.S_IMODE((path / "policy.toml").stat().st_mode) == 0o644
    assert os.listdir(path / "tmp") == []


@pytest.mark.root
def test_members_put_in_and_trust_each_other(open_dir: Path, plain_user: Person, group: str) -> None:
    path = init_group_cache(str(open_dir / "shared"), group).path

    def fill() -> None:
        cache = Cache(path)
        cache.write(cache.sif(KEY), b"image")
        cache.touch_use(KEY)
        pin(cache, KEY)

    call_as(plain_user, fill)
    assert Cache(path).read(Cache(path).sif(KEY), 10) == b"image"
    assert os.stat(Cache(path).sif(KEY)).st_uid == plain_user.uid


@pytest.mark.root
def test_again_changes_nothing_and_takes_a_second_group(open_dir: Path, plain_user: Person, group: str) -> None:
    path = open_dir / "shared"
    init_group_cache(str(path), group)
    call_as(plain_user, lambda: Cache(str(path)).touch_use(KEY))
    before = {each: each.lstat() for each in path.rglob("*")}
    init_group_cache(str(path), group)
    after = {each: each.lstat() for each in path.rglob("*")}
    assert {each: (s.st_mode, s.st_uid, s.st_gid, s.st_ino, s.st_mtime) for each, s in before.items()} == {
        each: (s.st_mode, s.st_uid, s.st_gid, s.st_ino, s.st_mtime) for each, s in after.items()
    }
    (path / "policy.toml").write_text(f'trusted_users = ["alice"]\ntrusted_groups = ["{group}"]\n')
    init_group_cache(str(path), "root")
    assert (path / "policy.toml").read_text() == f'trusted_users = ["alice"]\ntrusted_groups = ["{group}", "root"]\n'


@pytest.mark.root
def test_ones_own_cache_becomes_the_groups(open_dir: Path, plain_user: Person, group: str) -> None:
    cache = Cache(str(open_dir / "own"))
    cache.write(cache.sif(KEY), b"image")
    cache.write(cache.tag("r.example/a", "1") + "/0", b"{}")
    cache.make_directory("uses", KEY)
    init_group_cache(cache.root, group)
    assert {mode for name, mode in modes(Path(cache.root)).items() if name not in OPEN_TO_ALL} == {0o3770}
    assert call_as(plain_user, lambda: Cache(cache.root).read(cache.sif(KEY), 10)) == b"image"
    call_as(plain_user, lambda: Cache(cache.root).write(cache.tag("r.example/a", "1") + "/7", b"{}"))


@pytest.mark.root
def test_a_policy_that_a_member_put_there_first(open_dir: Path, plain_user: Person, group: str) -> None:
    path = open_dir / "shared"
    path.mkdir()
    (path / "policy.toml").write_text('trusted_users = ["mallory"]\n')
    os.chown(path / "policy.toml", plain_user.uid, -1)
    init_group_cache(str(path), group)
    assert (path / "policy.toml").read_text() == f'trusted_groups = ["{group}"]\n'
    assert (path / "policy.toml").stat().st_uid == 0


@pytest.mark.root
def test_links_are_not_followed(open_dir: Path, tmp_path: Path, group: str) -> None:
    path = open_dir / "shared"
    path.mkdir()
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.symlink(home, path / "refs")
    with pytest.raises(CacheError):
        init_group_cache(str(path), group)
    (path / "refs").unlink()
    (path / "refs").mkdir()
    os.symlink(home, path / "refs/r.example")
    init_group_cache(str(path), group)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700 and os.listdir(home) == []


@pytest.mark.root
@pytest.mark.parametrize("as_root", [True, False])
def test_refusals(open_dir: Path, plain_user: Person, group: str, as_root: bool) -> None:
    base = open_dir / "base"
    base.mkdir()
    os.chown(base, -1 if as_root else plain_user.uid, -1)
    os.chown(open_dir, 0, -1)

    def refused(path: Path, name: str = group) -> str:
        def attempt() -> str:
            try:
                init_group_cache(str(path), name)
            except (UsageError, CacheError) as error:
                assert error.hint
                return f"{type(error).__name__} {error.message} {error.hint}"
            return ""

        return attempt() if as_root else call_as(plain_user, attempt)

    assert "no group 'no-such'" in refused(base / "c", "no-such") and not (base / "c").exists()
    assert "not there" in refused(base / "no/where")
    (base / "full").mkdir()
    (base / "full/thesis.tex").write_text("x")
    (base / "file").write_text("x")
    for path in (base / "full", base / "file"):
        os.chown(path, -1 if as_root else plain_user.uid, -1)
    assert "holds thesis.tex" in refused(base / "full")
    assert "no directory" in refused(base / "file")
    foreign = base / "foreign"
    foreign.mkdir()
    os.chown(foreign, STRANGER, -1)
    assert "belongs to somebody else" in refused(foreign)
    assert os.listdir(foreign) == []
    if not as_root:
        assert "not in the group root" in refused(base / "d", "root") and not (base / "d").exists()
        assert "You may not write there" in refused(open_dir / "e")


@pytest.mark.root
def test_directories_above_that_shut_members_out_are_named(open_dir: Path, group: str) -> None:
    (open_dir / "closed/open").mkdir(parents=True)
    (open_dir / "closed").chmod(0o700)
    made = init_group_cache(str(open_dir / "closed/open/cache"), group)
    assert made.closed == (str(open_dir / "closed"),)


# -- tiers -------------------------------------------------------------------------------------------------------


def tier(**changes: object) -> Tier:
    plain = Tier("shared", "/scratch/hpcc", 0, 0o700, (), (), 500 * GB, 3, True, ())
    return plain._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "is_named", "said"),
    [
        ({}, True, ""),
        ({"path": "/home/me/.cache/hpcc", "room": 5 * GB}, True, "5.0 GB free"),
        ({"path": "/home/me/.cache/hpcc"}, True, ""),
        ({"path": "/home/mean/hpcc", "room": 5 * GB}, True, ""),
        ({"kind": "library", "path": "/home/me/x", "room": 0}, True, ""),
        ({}, False, "no setting names"),
        ({"mode": 0o777}, True, "chmod o-w"),
        ({"mode": 0o2770}, True, "its group can replace"),
        ({"mode": 0o3770}, True, ""),
        ({"kind": "private", "mode": 0o750}, True, "chmod go="),
        ({"mode": None, "owner": None}, True, ""),
    ],
)
def test_warnings(changes: dict[str, object], is_named: bool, said: str) -> None:
    found = warnings_of(tier(**changes), "/home/me", is_named=is_named)
    assert said in found[0] if said else found == ()


def test_roomier_places_are_named_where_home_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    for path in (home, scratch, home / "work"):
        path.mkdir()
    environ = {"SCRATCH": str(scratch), "WORK": str(home / "work"), "PROJECT": "relative", "OTHER": "/no/such"}
    names = ("SCRATCH", "WORK", "PROJECT", "OTHER", "UNSET")
    cache = str(home / ".cache/hpcc")
    monkeypatch.setattr(survey, "SMALL", 0)
    assert roomier_places(cache, str(home), names, environ) == ()
    monkeypatch.setattr(survey, "SMALL", 1 << 62)
    assert roomier_places(cache, str(home), names, environ) == (("SCRATCH", str(scratch)),)
    assert roomier_places(str(scratch / "hpcc"), str(home), names, environ) == ()
    assert not (home / ".cache").exists()


@pytest.mark.root
def test_survey_of_a_groups_cache_and_of_a_strangers(open_dir: Path, plain_user: Person, group: str) -> None:
    path = open_dir / "theirs"
    path.mkdir()
    os.chown(path, plain_user.uid, plain_user.gid)
    found = survey.survey(Cache(str(path)), "shared", "/home/me")
    assert (found.owner, found.mode, found.images, found.writable) == (plain_user.uid, 0o755, 0, True)
    assert "no setting names" in found.warnings[0]
    call_as(plain_user, lambda: init.init_group_cache(str(path), group))
    found = survey.survey(Cache(str(path)), "shared", "/home/me")
    assert (found.trusted_groups, found.mode, found.warnings) == ((group,), 0o3770, ())
    assert survey.survey(Cache(str(path), (plain_user.name,)), "shared", "/").trusted_users == (plain_user.name,)
    missing = survey.survey(Cache(str(open_dir / "no/such")), "library", "/home/me")
    assert (missing.owner, missing.mode, missing.images) == (None, None, 0) and missing.room > 0
