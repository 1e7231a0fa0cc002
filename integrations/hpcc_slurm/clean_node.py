"""hpcc slurm clean-node: on a node, remove the node directories of users who have no job there any more.

An Epilog runs it as root. What is removed is removed as its owner, by a process that is that user and nobody else: so
nothing that a user puts there can make root remove anything. A directory stays where its user

    has a job on the node, by squeue; where that does not answer, nothing is removed at all
    has a process on the node, such as one that holds an image mounted
    has used it within the last hours, since copies are there for the next job, too

and where it does not belong to the uid in its name.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator

from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.errors import HpccError, UsageError
from hpcc.runtime.store import remove

DEFAULT = "/var/tmp/hpcc-%U"
_NOBODY = 65534
UNUSED = Option(("--unused",), "hours for which a directory stays that nobody uses; default: 24", "HOURS")
COMMAND = Command(
    "slurm clean-node [OPTIONS]",
    "Remove the node directories of users who have neither jobs nor processes on this node. As root; each as its "
    "owner.",
    (
        Option(("--node-dir",), f"where they are, with %U for the uid; default: {DEFAULT}", "DIR"),
        UNUSED,
        Option(("--besides",), "a job that counts no more, since it is at its end", "JOBID"),
        Option(("--limit",), "how long to remove, in all; default: 60", "SECONDS"),
        Option(("--dry-run",), "only say what would go"),
        Option(("-j", "--json"), "as JSON"),
    ),
    "hpcc slurm clean-node --dry-run",
)


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"clean-node takes no {arguments.positional[0]!r}")
    if os.geteuid() != 0:
        raise UsageError("clean-node is root's", hint="Your own is $HPCC_NODE_DIR, or /var/tmp/hpcc-UID: rm -r it.")
    pattern = checked_pattern(arguments.node_dir or DEFAULT)
    hours, limit = _hours(arguments, "unused", 24.0), _hours(arguments, "limit", 60.0)
    busy = users_with_jobs(arguments.besides or "") | users_with_processes()
    oldest, end = time.time() - hours * 3600, time.monotonic() + limit
    done = []
    for path, uid in sorted(directories(pattern)):
        why = "jobs or processes" if uid in busy else "used lately" if last_use(path) > oldest else ""
        if not why and not arguments.dry_run:
            why = "" if remove_as(path, uid, end - time.monotonic()) else "could not be removed, or not in time"
        done.append({"path": path, "uid": uid, "stays": why})
        if not arguments.json and (not why or arguments.dry_run):
            print(f"{path}: {f'stays: {why}' if why else 'would go' if arguments.dry_run else 'removed'}")
    if arguments.json:
        print(json.dumps(done, indent=1))
    return 0


def _hours(arguments: Arguments, name: str, default: float) -> float:
    text = arguments.options[name]
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise UsageError(f"--{name} {text!r} is no number from 0 on")
    return number


def checked_pattern(text: str) -> str:
    """An absolute path with %U once, in its last part. UsageError."""
    directory, _, name = text.rpartition("/")
    if (
        not text.startswith("/")
        or not directory
        or name.count("%U") != 1
        or "%" in directory
        or "%" in name.replace("%U", "")
    ):
        raise UsageError(f"--node-dir {text!r}: an absolute path is wanted with %U in its last part: {DEFAULT}")
    return text


def directories(pattern: str) -> Iterator[tuple[str, int]]:
    """(path, uid) of the node directories: real ones, that belong to the user whose uid their name has; not root's."""
    directory, _, name = pattern.rpartition("/")
    before, _, after = name.partition("%U")
    try:
        found = list(os.scandir(directory))
    except OSError:
        return
    for entry in found:
        digits = entry.name[len(before) : len(entry.name) - len(after)]
        if not (entry.name.startswith(before) and entry.name.endswith(after) and digits.isascii() and digits.isdigit()):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if str(int(digits)) == digits and int(digits) == status.st_uid != 0 and stat.S_ISDIR(status.st_mode):
            yield entry.path, status.st_uid


def users_with_jobs(besides: str) -> set[int]:
    """Uids of those who have a job on this node, in any state that has processes. HpccError where nobody says so."""
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]
    states = "running,suspended,completing,configuring,stopped"
    argv = ["squeue", "--noheader", f"--nodelist={node}", f"--states={states}", "--format=%A %U"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise HpccError(f"squeue does not say who has jobs here: {error}", hint="Nothing was removed.") from None
    if done.returncode:
        raise HpccError(f"squeue does not say who has jobs here: {done.stderr.strip()}", hint="Nothing was removed.")
    rows = [line.split() for line in done.stdout.splitlines()]
    return {int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit() and row[0] != besides}


def users_with_processes() -> set[int]:
    """Uids, real ones, of all processes that can be seen."""
    found = set()
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
                    words = next((line.split() for line in file if line.startswith("Uid:")), [])
            except OSError:
                continue
            found |= {int(word) for word in words[1:3]}
    return found


def last_use(path: str) -> float:
    """The newest time of the directory, of what is in it, and of what is in that."""
    newest, todo = 0.0, [(path, 0)]
    while todo:
        place, depth = todo.pop()
        try:
            status = os.lstat(place)
            newest = max(newest, status.st_mtime)
            if depth < 2 and stat.S_ISDIR(status.st_mode):
                todo += [(entry.path, depth + 1) for entry in os.scandir(place)]
        except OSError:
            continue
    return newest


def remove_as(path: str, uid: int, limit: float) -> bool:
    """Remove a tree as its owner, in a process of that user's; whether it is gone, within `limit` seconds."""
    child = os.fork()
    if not child:
        status = 1
        try:
            gid = os.lstat(path).st_gid or _NOBODY
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            remove(path)
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return not os.path.lexists(path)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return not os.path.lexists(path)
