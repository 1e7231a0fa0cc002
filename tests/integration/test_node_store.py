"""The node store: made once, kept while somebody is in it, removed by age, size and want of room."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpcc.errors import CacheError
from hpcc.runtime.store import Limits, evict, note_use, obtain

ANY = Limits(0, 0)
BLOCK = 64 << 10  # what each thing takes, at least


def thing(path: str) -> None:
    os.mkdir(path)
    Path(path, "data").write_bytes(os.urandom(BLOCK))


def have(store: Path, name: str, limits: Limits = ANY, room: int = 0) -> str:
    return obtain(str(store), name, thing, limits, room)


def let_go(store: Path) -> None:
    """Close the locks that this process has, as executing something would."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{store}/"):
                os.close(int(fd))
        except OSError:
            continue


def age(store: Path, name: str, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(store / f"{name}.lock", (then, then))


def whole(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if path.is_dir())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path


def test_it_is_made_once(store: Path) -> None:
    made = []

    def slowly(path: str) -> None:
        made.append(path)
        time.sleep(0.1)
        thing(path)

    def ask() -> None:
        assert obtain(str(store), "a", slowly, ANY) == f"{store}/a"

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert made == [f"{store}/a.partial"] and whole(store) == ["a"]
    assert int((store / "a.lock").read_text()) >= BLOCK
    let_go(store)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("damaged")])
def test_what_fails_leaves_nothing(store: Path, error: Exception) -> None:
    def fail(path: str) -> None:
        thing(path)
        raise error

    with pytest.raises(CacheError if isinstance(error, OSError) else ValueError):
        obtain(str(store), "a", fail, ANY)
    assert whole(store) == []
    assert have(store, "a").endswith("/a")
    let_go(store)


def test_the_old_goes_and_use_keeps_it(store: Path) -> None:
    for name in ("old", "used", "young"):
        have(store, name)
    let_go(store)
    age(store, "old", 10)
    age(store, "used", 10)
    have(store, "used")
    let_go(store)
    assert evict(str(store), Limits(9, 0), 0) == ["old"]
    assert whole(store) == ["used", "young"] and not (store / "old.lock").exists()
    assert evict(str(store), Limits(9, 0), 0) == []


def test_size_takes_the_longest_unused(store: Path) -> None:
    for days, name in ((3, "a"), (5, "b"), (4, "c")):
        have(store, name)
        age(store, name, days)
    let_go(store)
    have(store, "d", Limits(0, 2 * BLOCK + BLOCK // 2 + 8192))
    assert whole(store) == ["a", "c", "d"] or whole(store) == ["a", "d"]
    assert "b" not in whole(store)
    let_go(store)


def test_room_is_made_or_missed_with_words(store: Path) -> None:
    have(store, "a")
    let_go(store)
    with pytest.raises(CacheError, match="too little to make it"):
        have(store, "b", room=1 << 60)
    assert whole(store) == []  # it was tried


def test_what_somebody_is_about_to_use_stays(store: Path) -> None:
    have(store, "a")  # its lock is held by this process
    age(store, "a", 100)
    assert evict(str(store), Limits(1, 1), 0) == [] and whole(store) == ["a"]
    let_go(store)
    assert evict(str(store), Limits(1, 1), 0) == ["a"]


@pytest.mark.root
def test_what_is_in_use_in_a_namespace_stays(store: Path) -> None:
    """The process that noted its use is gone; another one is left in its namespace."""
    have(store, "a")
    let_go(store)
    age(store, "a", 100)
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from hpcc.runtime import _kernel, store\n"
        "_kernel.unshare(_kernel.CLONE_NEWNS)\n"
        "store.note_use(sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    os.execv('/bin/sh', ['sh', '-c', 'echo in; read line'])\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    argv = [sys.executable, "-c", script, f"{store}/a", root]
    left = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert left.stdout is not None and left.stdout.readline() == "in\n"
    left.wait(20)
    assert evict(str(store), Limits(1, 1), 0) == [] and whole(store) == ["a"]
    left.communicate("go\n", timeout=20)
    deadline = time.monotonic() + 10
    while evict(str(store), Limits(1, 1), 0) == [] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(store.iterdir()) == []


def test_our_own_namespace_is_alive(store: Path) -> None:
    have(store, "a")
    note_use(f"{store}/a")
    let_go(store)
    assert evict(str(store), Limits(0, 1), 0) == []
