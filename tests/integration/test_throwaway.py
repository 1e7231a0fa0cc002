"""The cache of --disable-cache is gone at the end, whenever the end comes."""

import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from hpcc.settings import Settings
from hpcc.throwaway import cache_for


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Settings.from_environ({"HPCC_DISABLE_CACHE": "1", "HOME": str(tmp_path / "home")})


@pytest.mark.parametrize(
    "number, ends", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)]
)
@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("when", ["made", "inside", "removed"])
def test_a_signal_at_any_instant(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    ends: type,
    when: str,
    threads: int,
) -> None:
    """Also with other threads, any of which the kernel may choose to take it."""
    over = threading.Event()
    for _ in range(threads):
        threading.Thread(target=over.wait, args=(30,), daemon=True).start()

    def strike(at: str) -> None:
        if at == when:
            os.kill(os.getpid(), number)

    make = tempfile.mkdtemp

    def mkdtemp(*args: str, **options: str) -> str:
        directory = make(*args, **options)
        strike("made")
        return directory

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    remove = os.rmdir

    def rmdir(*args: str, **options: int) -> None:
        strike("removed")
        remove(*args, **options)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(ends), cache_for(settings) as effective:
        assert effective.cache_dir.startswith(str(tmp_path))
        os.makedirs(effective.cache_dir)
        monkeypatch.setattr(os, "rmdir", rmdir)
        strike("inside")
    assert list(tmp_path.iterdir()) == []
    over.set()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_download_that_still_writes(settings: Settings, tmp_path: Path) -> None:
    over = threading.Event()

    def write(directory: str) -> None:
        for number in range(3_000):
            try:
                with open(f"{directory}/{number}", "w"):
                    pass
            except FileNotFoundError:
                break
        over.set()

    with cache_for(settings) as effective:
        os.makedirs(effective.cache_dir)
        threading.Thread(target=write, args=(effective.cache_dir,), daemon=True).start()
    assert over.wait(20)
    assert list(tmp_path.iterdir()) == []
