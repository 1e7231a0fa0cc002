"""Filesystems in files: made by mksquashfs and mke2fs, and what e2fsck and debugfs say of them."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.people import Person
from tests.support.real import need


def tree(top: Path, files: Mapping[str, str]) -> Path:
    """A directory with these files; `-> TARGET` as a content makes a link."""
    top.mkdir(parents=True)
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_text(content)
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return top


def given(path: Path, person: Person, mode: int = 0o600) -> Path:
    """The file, as the person's own."""
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, person.uid, person.gid)
    return path


def make_squashfs(path: Path, files: Mapping[str, str], person: Person) -> Path:
    """A squashfs of the person's, whose root holds the files."""
    top = tree(path.with_suffix(".tree"), files)
    _run(need("mksquashfs"), top, path, "-quiet", "-no-progress", "-all-root")
    return given(path, person)


def make_ext(path: Path, files: Mapping[str, str], person: Person, *, kind: str = "ext3", mib: int = 16) -> Path:
    """An ext of the person's, as are all files in it."""
    top = tree(path.with_suffix(".tree"), files)
    if os.geteuid() == 0:
        for each in (top, *top.rglob("*")):
            os.chown(each, person.uid, person.gid, follow_symlinks=False)
    owner = f"root_owner={person.uid}:{person.gid}"
    _run(need("mke2fs"), "-q", "-F", "-t", kind, "-E", owner, "-d", top, path, f"{mib}M")
    return given(path, person)


def is_clean(path: Path, offset: int = 0) -> bool:
    """Whether e2fsck finds nothing to say of it."""
    name = f"{path}?offset={offset}" if offset else str(path)
    done = subprocess.run([need("e2fsck"), "-fn", name], capture_output=True, text=True)
    return done.returncode == 0


def edit_ext(path: Path, *commands: str) -> str:
    """What debugfs says to its commands, which may write."""
    lines = "".join(f"{command}\n" for command in commands)
    return subprocess.run(
        [need("debugfs"), "-w", "-f", "-", path], input=lines, capture_output=True, text=True, check=True
    ).stdout


def make_journal_dirty(path: Path) -> None:
    """As after a crash of a kernel that had it mounted: the journal holds what is to be written."""
    edit_ext(path, "jo", "jw -b 333 /dev/zero", "jc")
    assert "needs_recovery" in edit_ext(path, "features")


def _run(*argv: object) -> None:
    done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
