"""A user directory beside /etc/passwd, as LDAP or SSSD: tests/support/shims/nss.c as a module of glibc's NSS."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.real import need

_SOURCE = Path(__file__).parent / "shims/nss.c"
LIBRARY = "libnss_hesiod.so.2"
UID, GID = 4242, 4243  # of somebody whom no file knows
NAME, GECOS, SHELL = "lda", "L. D. Ap,room 1", "/bin/zsh"
GROUPS = {GID: "physics", 4300: "beam time", 4301: "cern"}
UNNAMED = 4302


class Directory(NamedTuple):
    """Files at `top`, which everybody may read; `run` gives the command line of who is only known there."""

    top: Path

    def around(
        self, groups: Sequence[int] = (), uid: int = UID, gid: int = GID, python: str = sys.executable
    ) -> list[str]:
        """Before a command: as root, in a mount namespace where NSS asks this directory; as that user."""
        # setpriv would ask for the user's name.
        become = f"os.setgroups({list(groups)}); os.setresgid({gid}, {gid}, {gid}); os.setresuid({uid}, {uid}, {uid})"
        program = f"import os, sys; {become}; os.execvp(sys.argv[1], sys.argv[1:])"
        script = f"""mount --bind {self.top}/nsswitch.conf /etc/nsswitch.conf
        for each in /lib/*/{LIBRARY} /lib64/{LIBRARY}; do
            [ ! -e $each ] || mount --bind {self.top}/{LIBRARY} $each
        done
        exec "$0" -I -S -c "{program}" "$@\""""
        return ["unshare", "-m", "--propagation", "slave", "sh", "-ec", script, python]

    def hang(self, hangs: bool = True) -> None:
        """Let the server be gone, or be there again."""
        (self.top / "hang").touch() if hangs else (self.top / "hang").unlink()

    def asked(self) -> int:
        """How often it was asked so far."""
        return (self.top / "asked").stat().st_size


def make_directory(top: Path, home: Path) -> Directory:
    """With one user, whose home is `home`, in three groups."""
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f'-DDIRECTORY="{top}"']
    subprocess.run([need("cc"), *flags, "-o", top / LIBRARY, _SOURCE], check=True, timeout=60)
    (top / "passwd").write_text(f"other:*:4241:4243::/nowhere:/bin/sh\n{NAME}:*:{UID}:{GID}:{GECOS}:{home}:{SHELL}\n")
    (top / "group").write_text("".join(f"{name}:*:{gid}:someone,else\n" for gid, name in GROUPS.items()))
    (top / "nsswitch.conf").write_text("passwd: files hesiod\ngroup: files hesiod\n")
    (top / "asked").touch()
    (top / "asked").chmod(0o666)
    return Directory(top)
