"""hpcc completion, in the shells themselves: what stands on the line after TAB, at a terminal."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person
from tests.support.real import need
from tests.support.workflow import add

_START = {
    "bash": (
        ["--norc", "-i"],
        "PS1='ready> '; bind 'set bell-style none'",
        'eval "$(hpcc completion bash)"',
    ),
    "zsh": (
        ["-f", "-i"],
        "PS1='ready> '; unsetopt zle_bracketed_paste 2>/dev/null; autoload -U compinit; compinit -u -D; setopt no_beep",
        'eval "$(hpcc completion zsh)"',
    ),
    "fish": (["--no-config", "-i"], "function fish_prompt; echo 'ready> '; end", "hpcc completion fish | source"),
}


class Terminal:
    """A shell at a terminal, with hpcc's completion; use it as a context manager."""

    def __init__(self, shell: str, person: Person, env: dict[str, str], cwd: Path) -> None:
        options, setup, source = _START[shell]
        self._master, slave = pty.openpty()
        argv = ["setsid", "--ctty", str(need(shell)), *options]
        ends = {"stdin": slave, "stdout": slave, "stderr": slave}
        self._process = person.popen(argv, env={**env, "TERM": "xterm"}, cwd=cwd, **ends)
        os.close(slave)
        for command in (setup, source):
            self.type(command + "\n")
        self.type("echo loa''ded\n", until="loaded")

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, text: str, *, until: str = "", patience: float = 20) -> str:
        """Type it, and read on until the answer has `until`, or with "" until nothing comes for half a second."""
        os.write(self._master, text.encode())
        seen, deadline = "", time.monotonic() + patience
        while time.monotonic() < deadline and not (until and until in seen):
            if not select.select([self._master], [], [], 0.1 if until else 0.5)[0]:
                if not until:
                    break
                continue
            seen += os.read(self._master, 65536).decode(errors="replace")
        assert until in seen, f"{text!r} brought no {until!r}, but {seen!r}"
        return seen

    def complete(self, line: str, end: str) -> None:
        """The line, with TAB behind it, ends as `end`: `echo` says what it became, in one piece."""
        self.type(f"{line}\t\x01echo '[' \x05 ']'\n", until=f"[ {end}")


@pytest.fixture
def at(plain_user: Person, installed: Installation, open_dir: Path) -> Iterator[tuple[Person, dict[str, str], Path]]:
    """A person with one cached image, in a directory with files."""
    with FakeRegistry() as registry:
        add(registry, "tools")
        (open_dir / "home").mkdir()
        person = plain_user.at(open_dir / "home")
        env = {"PATH": f"{installed.bin}:{SYSTEM_PATH}", "HPCC_MIRRORS": f"quay.io={registry.host}",
               "HPCC_INSECURE": registry.host}  # fmt: skip
        work = open_dir / "work"
        work.mkdir()
        (work / "image.sif").touch()
        (work / "some file").touch()
        (work / "directory").mkdir()
        person.at(work)
        done = person.run([installed.hpcc, "exec", "docker://quay.io/lab/tools:1", "true"], env=env)
        assert done.returncode == 0, done.stderr
        yield person, env, work


@pytest.mark.parametrize("shell", _START)
def test_tab(shell: str, at: tuple[Person, dict[str, str], Path]) -> None:
    person, env, work = at
    with Terminal(shell, person, env, work) as terminal:
        terminal.complete("hpcc insp", "hpcc inspect")
        terminal.complete("hpcc cache exp", "hpcc cache export")
        terminal.complete("hpcc snakemake pre", "hpcc snakemake prefetch")
        terminal.complete("hpcc exec --containa", "hpcc exec --containall")
        terminal.complete("hpcc exec --pull al", "hpcc exec --pull always")
        terminal.complete("hpcc exec --bind dir", "hpcc exec --bind directory")
        terminal.complete("hpcc exec --compat ima", "hpcc exec --compat image.sif")
        terminal.complete("hpcc exec docker://q", "hpcc exec docker://quay.io/lab/tools:1")
        terminal.complete("hpcc config scratch_d", "hpcc config scratch_dirs")


def test_no_shell_of_that_name(installed: Installation, plain_user: Person) -> None:
    done: subprocess.CompletedProcess[str] = plain_user.run([installed.hpcc, "completion", "tcsh"])
    assert done.returncode == 255 and "bash, zsh or fish" in done.stderr
