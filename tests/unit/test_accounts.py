"""Lines of passwd and group: parsed, and added to those of an image."""

from pathlib import Path

import pytest

from hpcc.runtime.accounts import Account, Entry, find_account, parse_entry, parse_groups, with_rows

PASSWD = """root:x:0:0:root:/root:/bin/bash
broken
short:x:1000
alice:x:1000:100:Alice,,,:/home/alice:/bin/zsh
again:x:1000:101::/home/again:/bin/sh
nobody:x:1001:none::/:/bin/sh
+::::::
"""
GROUP = "root:x:0:\nbroken\nusers:x:100:alice,bob\nlater:x:100:\nodd:x:1e3:\n+:::\n"


def test_parse_entry() -> None:
    rows = PASSWD.split("\n")
    assert parse_entry(rows, 1000) == Entry("alice", 100, "Alice,,,", "/home/alice", "/bin/zsh")
    assert parse_entry(rows, 1001) is None and parse_entry(rows, 7) is None and parse_entry([], 0) is None


def test_parse_groups() -> None:
    rows = GROUP.split("\n")
    assert parse_groups(rows, (0, 100, 1000, 5)) == {0: "root", 100: "users"} and parse_groups(rows, ()) == {}


def never() -> str:
    raise AssertionError("nobody but files is to be asked")


def test_files_are_enough(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text(PASSWD)
    (tmp_path / "group").write_text(GROUP)
    found = find_account(1000, (0, 100, 0, 65534), never, str(tmp_path))
    assert found == Account(Entry("alice", 100, "Alice,,,", "/home/alice", "/bin/zsh"), (("users", 100), ("root", 0)))
    (tmp_path / "passwd").write_bytes(b"al\xff:x:7:100:\xe9:/home/\xff:/bin/sh\n")
    entry = find_account(7, (), never, str(tmp_path)).entry
    assert entry is not None and entry.home.encode("utf-8", "surrogateescape") == b"/home/\xff"


@pytest.mark.parametrize(
    ("content", "rows", "wanted"),
    [
        (b"", [(7, "a:x:7:")], b"a:x:7:\n"),
        (b"root:x:0:\n", [(0, "r:x:0:"), (7, "a:x:7:")], b"root:x:0:\na:x:7:\n"),
        (b"root:x:0:", [(7, "a:x:7:"), (8, "b:x:8:")], b"root:x:0:\na:x:7:\nb:x:8:\n"),
        (b"root:x:0:\n", [(0, "r:x:0:")], None),
        (b"root:x:0:\n", [], None),
        (b"\0\xff\n:::\n", [(7, "\udcff:x:7:")], b"\0\xff\n:::\n\xff:x:7:\n"),
    ],
)
def test_with_rows(content: bytes, rows: list[tuple[int, str]], wanted: bytes | None) -> None:
    assert with_rows(content, rows) == wanted
