"""Who runs a command in a test: this process's own user, and an unprivileged one.

Both have a home of their own and an environment of which every variable is known, so that nothing of the
developer's settings, caches or proxies reaches what is tested.
"""

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TEST_USER = "hpcc-test"  # made by tests/support/install.sh
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FOREIGN = (
    "HPCC_", "APPTAINER", "SINGULARITY", "XDG_", "DOCKER_", "REGISTRY_AUTH_FILE", "CONTAINERS_", "SLURM_", "SNAKEMAKE_"
)  # fmt: skip


class Person(NamedTuple):
    """A user who runs commands; `home` is a directory of theirs that the tests may fill."""

    name: str
    uid: int
    gid: int
    home: Path

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The whole environment of their commands: caches and settings below `home`, nothing inherited."""
        return {**isolated(self.home), "PATH": SYSTEM_PATH, "USER": self.name, "LOGNAME": self.name, **(extra or {})}

    def argv(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command line that runs `argv` as this person, from this process."""
        words = [os.fspath(word) for word in argv]
        if self.uid == os.geteuid():
            return words
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups", "--inh-caps=-all"]
        return ["/usr/bin/setpriv", *ids, "--", *words]

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
        **options: Any,
    ) -> "subprocess.CompletedProcess[Any]":
        """subprocess.run with text pipes for stdout and stderr unless told otherwise; `env` adds to `environ()`."""
        options.setdefault("text", True)
        options.setdefault("stdin", subprocess.DEVNULL) if "input" not in options else None
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.run(
            self.argv(argv), env=self.environ(env), cwd=cwd or self.home, timeout=timeout, check=False, **options
        )

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        **options: Any,
    ) -> "subprocess.Popen[Any]":
        """subprocess.Popen in the same environment; the caller waits for it or kills it."""
        return subprocess.Popen(self.argv(argv), env=self.environ(env), cwd=cwd or self.home, **options)

    def at(self, home: Path) -> "Person":
        """The same person with another, existing home, handed over to them if this process may do that."""
        if os.geteuid() == 0:
            os.chown(home, self.uid, self.gid)
        return self._replace(home=home)


def isolated(home: Path) -> dict[str, str]:
    """The variables that keep caches, settings and temporary files of hpcc and its peers below `home`."""
    return {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "HPCC_CACHE_DIR": str(home / "cache"),
        "HPCC_PRIVATE_DIR": str(home / "private"),
        "HPCC_NODE_DIR": str(home / "node"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "CONTAINERS_REGISTRIES_CONF": "/dev/null",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def myself(home: Path) -> Person:
    """The user of this process."""
    entry = pwd.getpwuid(os.geteuid())
    return Person(entry.pw_name, entry.pw_uid, entry.pw_gid, home)


def unprivileged(home: Path) -> Person | None:
    """The unprivileged user: this process's own unless it is root; None where root has nobody to become."""
    if os.geteuid() != 0:
        return myself(home)
    try:
        entry = pwd.getpwnam(TEST_USER)
    except KeyError:
        return None
    return Person(entry.pw_name, entry.pw_uid, entry.pw_gid, home)
