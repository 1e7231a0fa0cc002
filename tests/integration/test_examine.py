"""hpcc doctor --cache: what a filesystem does is tried, and what was found of its locks is kept."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpcc.cache.examine import answer, examine
from hpcc.cache.layout import Cache
from hpcc.cache.locking import COHERENT, uses_flock
from hpcc.errors import CacheError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


def other(cache: Cache) -> list[str]:
    return [sys.executable, "-m", "hpcc", "doctor", "--cache", "--answer", cache.root]


def test_one_node(cache: Cache) -> None:
    trials = examine(cache)
    assert [trial.what for trial in trials] == [
        "filesystem", "rename", "exclusive create", "link", "fsync", "locks between processes"
    ]  # fmt: skip
    assert all(trial.good and trial.said for trial in trials)
    assert os.listdir(cache.path("tmp")) == []


def test_two_nodes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    trials = {trial.what: trial for trial in examine(cache, other(cache))}
    assert all(trials[what].good for what in ("seen there", "seen here", "locks between nodes"))
    assert "this host" in trials["locks between nodes"].said and os.listdir(cache.path("tmp")) == []
    assert not os.path.exists(cache.path("locks", COHERENT))  # nothing is learnt of nodes

    monkeypatch.setattr("hpcc.cache.examine._this_host", lambda: "n1/another")
    trials = {trial.what: trial for trial in examine(cache, other(cache))}
    assert trials["locks between nodes"].good
    note = json.loads(Path(cache.path("locks", COHERENT)).read_bytes())
    assert note["with"] == other(cache)[:4]
    monkeypatch.setattr("hpcc.cache.locking.is_local", lambda path: False)
    assert uses_flock(cache, "auto")


def test_locks_that_do_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded before is taken back."""
    monkeypatch.chdir(ROOT)
    cache.make_directory("locks")
    Path(cache.path("locks", COHERENT)).write_text("{}")
    monkeypatch.setattr("fcntl.flock", lambda fd, operation: None)
    monkeypatch.setattr("hpcc.cache.examine._this_host", lambda: "n1/another")
    trials = {trial.what: trial for trial in examine(cache, other(cache))}
    assert not trials["locks between processes"].good and not trials["locks between nodes"].good
    assert not trials["locks between nodes"].needed and trials["rename"].good
    assert not os.path.exists(cache.path("locks", COHERENT))


def test_links_that_are_not_there(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    (trial,) = [trial for trial in examine(cache) if trial.what == "link"]
    assert (trial.good, trial.said) == (False, "Operation not supported")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nonsuch-command"], "cannot run nonsuch-command"),
        (["false"], "ended with status 1"),
        (["echo", "hello"], "says something else"),
    ],
)
def test_another_side_that_is_none(cache: Cache, argv: list[str], said: str) -> None:
    with pytest.raises(CacheError, match=said) as caught:
        examine(cache, argv)
    assert caught.value.hint
    assert os.listdir(cache.path("tmp")) == []


def test_another_side_that_is_silent(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcc.cache.examine.ANSWER_TIME", 0.3)
    with pytest.raises(CacheError, match="said nothing"):
        examine(cache, [shutil.which("sleep") or "sleep", "60"])


def test_the_other_side_stays_in_its_directory(cache: Cache, tmp_path: Path) -> None:
    cache.make_directory("tmp")
    said = io.StringIO()
    answer(cache.root, io.StringIO("make ../../outside\nsee outside\nnonsense\nmake never\n"), said)
    first, *rest = said.getvalue().splitlines()
    assert first.startswith(f"ready {socket.gethostname()}/") and rest == ["made", "seen"]
    assert not (tmp_path / "outside").exists() and os.listdir(cache.path("tmp")) == ["outside"]


def test_command_line(cache: Cache) -> None:
    argv = [sys.executable, "-m", "hpcc", "doctor", "--cache"]
    env = {**os.environ, "HPCC_CACHE_DIR": cache.root}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "  yes rename" in done.stdout, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    done = subprocess.run(
        [*argv, "--json", "--with", "env X=1"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and len(json.loads(done.stdout)["trials"]) == 9
    done = subprocess.run([*argv, "--with", "echo '"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 255 and "HINT" in done.stderr
