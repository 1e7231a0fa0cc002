"""A Python that a test drives: statements go in, values come out, and what it has made lives between them."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.people import Person

_LOOP = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
names = {}
for line in sys.stdin:
    text = json.loads(line)
    try:
        try:
            code = compile(text, "<test>", "eval")
        except SyntaxError:
            exec(compile(text, "<test>", "exec"), names)
            answer = [None, None]
        else:
            answer = [None, eval(code, names)]
    except BaseException as error:
        traceback.print_exc()
        answer = [f"{type(error).__name__}: {error}", [*getattr(error, "__notes__", ())]]
    print(json.dumps(answer, default=repr), file=answers, flush=True)
"""


class Raised(Exception):
    """What the driven Python raised: str() is `Type: message`; notes."""

    def __init__(self, text: str, notes: list[str]) -> None:
        super().__init__(text)
        self.notes = notes


class Driven:
    """`python` as `person`; a context manager, which ends it: what closes at exit is closed. stderr is in `log`."""

    def __init__(self, person: Person, python: Path, log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with open(log, "wb") as stderr:
            self._process = person.popen(
                [python, "-c", _LOOP], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        self.pid = self._process.pid

    def __call__(self, text: str) -> Any:
        """The value of an expression, as JSON has it; None of statements. Raised."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the driven Python has ended:\n{self.log.read_text()[-4000:]}"
        raised, value = json.loads(line)
        if raised is not None:
            raise Raised(raised, value)
        return value

    def kill(self) -> None:
        """As if its machine had gone: it says nothing to anybody."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "Driven":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()


def owned(path: Path, person: Person) -> Path:
    """The file or directory, given to the person."""
    os.chown(path, person.uid, person.gid)
    return path
