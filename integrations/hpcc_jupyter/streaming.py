"""A command whose output is shown while it is written, and which ends with its cell when the stop button is pressed."""

from __future__ import annotations

import codecs
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

_GRACE = 2.0  # seconds after INT, and again after TERM


def stream(argv: Sequence[str], text: str = "", said: list[str] | None = None) -> int:
    """Run it with `text` as its input; its status, 128 + N for signal N. stdout goes into `said` where that is given.

    KeyboardInterrupt ends it and all that it has started, within some seconds, and is raised again. The text is a file,
    since a pipe that nobody reads would stop this.
    """
    with tempfile.TemporaryFile() as given:
        given.write(text.encode())
        given.seek(0)
        process = subprocess.Popen(
            argv, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            with process:
                _show(process, said)
            status = process.returncode
        except BaseException:
            _end(process)
            raise
    return 128 - status if status < 0 else status


def _show(process: subprocess.Popen[bytes], said: list[str] | None) -> None:
    with selectors.DefaultSelector() as selector:
        for pipe, out in ((process.stdout, None), (process.stderr, sys.stderr)):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ, (codecs.getincrementaldecoder("utf-8")("replace"), out))
        while selector.get_map():
            for key, _ in selector.select():
                decoder, out = key.data
                data = os.read(key.fd, 1 << 16)
                piece = decoder.decode(data, final=not data)
                if out is None and said is not None:
                    said.append(piece)
                elif piece:
                    target = out or sys.stdout
                    target.write(piece)
                    target.flush()
                if not data:
                    selector.unregister(key.fileobj)


def _end(process: subprocess.Popen[bytes]) -> None:
    """INT as a terminal gives it, then TERM, then KILL, to the whole session."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            continue
        break
    process.wait()
