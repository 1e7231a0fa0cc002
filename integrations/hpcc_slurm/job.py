"""A submitted job: its state, end and output, by squeue, scontrol, scancel, and sacct where there is one.

Slurm forgets a job some minutes after its end (MinJobAge). What was seen by then this object remembers; for one that
was not looked at in time, sacct is asked, and where a site keeps no accounts, nobody knows any more.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from hpcc.errors import HpccError
from hpcc_slurm.images import no_slurm

_PATIENCE = 60.0  # seconds that one of Slurm's programs may take
_LONGEST = 15.0  # seconds between two looks
_ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
     "TIMEOUT")
)  # fmt: skip
_FIELD = re.compile(r"(?:^|(?<= ))([A-Z][\w:/]*)=(.*?)(?= [A-Z][\w:/]*=|$)")


class Task(NamedTuple):
    """A job, a task of an array, or a component of a heterogeneous job, as Slurm knows it.

    id: 7, 7_2 or 7+1; code: as a shell counts it, 128 + N for signal N, once it has ended; output: of its script.
    """

    id: str
    state: str
    code: int
    output: str
    node: str

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED


class Job:
    """One that sbatch has taken. All methods raise HpccError where Slurm does not answer or knows no such job."""

    def __init__(self, job_id: str, *, cluster: str = "", name: str = "") -> None:
        self.id, self.cluster, self.name = job_id, cluster, name
        self._seen: dict[str, Task] = {}

    def __repr__(self) -> str:
        return f"<hpcc_slurm.Job {self.id}{f' on {self.cluster}' if self.cluster else ''}>"

    def tasks(self) -> tuple[Task, ...]:
        """All that Slurm knows of it now, and those that have ended and were seen before."""
        if not (self._seen and all(task.has_ended for task in self._seen.values())):
            found = self._by_scontrol() or ({} if self._seen else self._by_sacct())
            if not found and not self._seen:
                raise HpccError(f"Slurm knows no job {self.id}", hint="It forgets jobs some minutes after their end.")
            gone = {name: task for name, task in self._seen.items() if task.has_ended and name not in found}
            if not found:  # forgotten between two looks
                gone = self._by_sacct() or {name: t._replace(state="UNKNOWN") for name, t in self._seen.items()}
            self._seen = {**gone, **found}
        return tuple(self._seen[name] for name in sorted(self._seen, key=_natural))

    def state(self) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, …; of several tasks RUNNING or PENDING while any is, else the worst."""
        states = [task.state for task in self.tasks()]
        alive = [state for state in states if state not in _ENDED and state != "UNKNOWN"]
        for wanted in ("RUNNING", *alive):
            if wanted in alive:
                return wanted
        return next((state for state in states if state != "COMPLETED"), "COMPLETED")

    def wait(self, timeout: float | None = None, *, every: float = 0.2) -> int:
        """Wait for the end; the exit code of the batch script, of several tasks the largest, 128 + N for signal N.

        A job that was cancelled or ran out of its time without a code of its own: 1. TimeoutError after `timeout`
        seconds. Looks at first after `every` seconds, then more and more rarely, so that Slurm is not busy with it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = every
        while True:
            tasks = self.tasks()
            if any(task.state == "UNKNOWN" for task in tasks):
                raise HpccError(f"Slurm has forgotten job {self.id}", hint="Its output says how it ended: job.logs().")
            if all(task.has_ended for task in tasks):
                return max(task.code or (1 if task.state != "COMPLETED" else 0) for task in tasks)
            left = _LONGEST if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {self.id} is {self.state()} after {timeout} s")
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST)

    def logs(self) -> str:
        """What the job has written so far, of several tasks one after the other; "" for a job that has not begun."""
        found = []
        for path in dict.fromkeys(task.output for task in self.tasks() if task.output):
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    found.append(file.read())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise HpccError(f"cannot read {path}: {error.strerror}") from None
        return "".join(found)

    def cancel(self, signal: str = "") -> None:
        """scancel; with a signal, such as USR1, that alone. No error where it has ended already."""
        words = [*((f"--signal={signal}", "--full") if signal else ()), *self._where(), self.id]
        done = _call(["scancel", *words])
        if done.returncode and not any(said in done.stderr for said in ("already completing", "Invalid job id")):
            raise HpccError(f"scancel {self.id}: {done.stderr.strip()}")

    def _where(self) -> tuple[str, ...]:
        return (f"--clusters={self.cluster}",) if self.cluster else ()

    def _by_scontrol(self) -> dict[str, Task]:
        done = _call(["scontrol", *self._where(), "--oneliner", "show", "job", self.id])
        if done.returncode and "Invalid job id" not in done.stderr:
            raise HpccError(f"scontrol show job {self.id}: {done.stderr.strip()}")
        return {task.id: task for task in map(parse_job, done.stdout.splitlines()) if task is not None}

    def _by_sacct(self) -> dict[str, Task]:
        """None where there is no sacct, or the site keeps no accounts."""
        fields = "JobID,State,ExitCode,NodeList"
        try:
            done = _call(["sacct", *self._where(), "-X", "-n", "-P", f"--format={fields}", "-j", self.id])
        except HpccError:
            return {}
        rows = [line.split("|") for line in done.stdout.splitlines() if done.returncode == 0]
        return {row[0]: Task(row[0], row[1].split(" ")[0], _code(row[2]), "", row[3]) for row in rows if len(row) == 4}

    def _repr_html_(self) -> str:
        """For notebooks: a table of its tasks."""
        try:
            rows = self.tasks()
        except HpccError as error:
            return f"<p>job {html.escape(self.id)}: {html.escape(error.message)}</p>"
        cells = [(task.id, task.state, str(task.code) if task.has_ended else "", task.node) for task in rows[:50]]
        more = f"<p>and {len(rows) - 50} more</p>" if len(rows) > 50 else ""
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        head = "".join(f"<th>{name}</th>" for name in ("job", "state", "code", "nodes"))
        title = f"<caption>{html.escape(self.name)}</caption>" if self.name else ""
        return f"<table>{title}<tr>{head}</tr>{body}</table>{more}"


def parse_job(line: str) -> Task | None:
    """A line of `scontrol --oneliner show job`; None for another."""
    if not line.startswith("JobId="):
        return None
    fields = dict(_FIELD.findall(line))
    name = fields["JobId"].split("(")[0]
    if "ArrayTaskId" in fields:
        name = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
    elif "HetJobOffset" in fields:
        name = f"{fields['HetJobId']}+{fields['HetJobOffset']}"
    output, node = fields.get("StdOut", ""), fields.get("NodeList", "")
    if "ArrayTaskId" in fields:  # as Slurm 22.05 shows it, when it does not put the ids in itself
        output = output.replace("%A", fields["ArrayJobId"]).replace("%a", fields["ArrayTaskId"])
    return Task(name, fields["JobState"], _code(fields.get("ExitCode", "")), output, "" if node == "(null)" else node)


def _code(text: str) -> int:
    """CODE:SIGNAL."""
    code, _, number = text.partition(":")
    return 128 + int(number) if number.isdecimal() and int(number) else int(code or 0)


def _natural(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", name))


def _call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "SLURM_TIME_FORMAT": "standard"}
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, env=environ,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise no_slurm(words[0]) from None
    except subprocess.TimeoutExpired:
        raise HpccError(f"{words[0]} has not answered within {_PATIENCE:.0f} s") from None
