"""Room: what is surely needed is asked for before anything is fetched; what goes wrong with a disk is said."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from hpcc.cache.layout import Cache
from hpcc.cache.room import check_room
from hpcc.errors import CacheError
from tests.support.pulls import LAYERS, Told, pull

pytestmark = pytest.mark.usefixtures("hpcc_env")


class Disk:
    """What statvfs(2) says of a disk with so many bytes free."""

    def __init__(self, free: int) -> None:
        self.f_bavail, self.f_frsize, self.f_blocks, self.f_flag = free // 4096, 4096, 1 << 30, 0


def test_too_little_is_said_before_anything_is_fetched(fake, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake()
    monkeypatch.setattr("os.statvfs", lambda path: Disk(3_000_000))
    with pytest.raises(
        CacheError, match=r"has 3 MB free, and this image needs at least 7 MB there: 3 MB of layers"
    ) as error:
        pull(registry, hpcc_env)
    assert "hpcc cache gc" in error.value.hint
    assert registry.counts["blob_get"] == 1  # the config
    assert os.listdir(hpcc_env / "cache/tmp") == []


def test_only_what_is_missing_counts(fake, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake()
    first = pull(registry, hpcc_env)
    Path(first.path).unlink()
    monkeypatch.setattr("os.statvfs", lambda path: Disk(3_000_000))
    assert pull(registry, hpcc_env, told=Told()).key == first.key


def test_a_filesystem_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> Any:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr("os.statvfs", refuse)
    check_room("/nonexistent/cache", 1 << 60, 1 << 60)
    none = Disk(0)
    none.f_blocks = 0  # as some network filesystems say
    monkeypatch.setattr("os.statvfs", lambda path: none)
    check_room("/nonexistent/cache", sum(map(len, LAYERS)), 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ESTALE, errno.EIO])
def test_what_a_disk_may_answer(fake, hpcc_env: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message with what to do, no traceback, and no temporary left."""
    registry = fake()
    real = os.rename

    def refuse(source: str, target: str) -> None:
        if "packs-v1" in str(target):
            raise OSError(number, os.strerror(number), source)
        real(source, target)

    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(CacheError) as caught:
        pull(registry, hpcc_env)
    assert os.strerror(number) in caught.value.message and caught.value.hint
    assert os.listdir(hpcc_env / "cache/tmp") == []
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(hpcc_env))
    assert pull(registry, hpcc_env)


def test_hints_are_there_for_each(tmp_path: Path) -> None:
    from hpcc.cache.layout import explained

    seen = set()
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ESTALE, errno.EIO, errno.ENOENT):
        with pytest.raises(CacheError) as caught, explained(str(tmp_path)):
            raise OSError(number, os.strerror(number), str(tmp_path))
        seen.add(caught.value.hint)
    assert len(seen) == 7 and all(seen)
    assert Cache(str(tmp_path / "none")).root
