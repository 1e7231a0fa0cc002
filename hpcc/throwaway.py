"""--disable-cache: an image that is pulled for one command, and leaves nothing behind."""

from __future__ import annotations

import os
from contextlib import contextmanager

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from hpcc.settings import Settings


@contextmanager
def cache_for(settings: Settings) -> Iterator[Settings]:
    """The settings themselves; where they want no cache, with one in $TMPDIR that is gone at the end of the block.

    Whoever has opened an image in it goes on with the open file. Site-wide libraries are still looked up. SIGTERM and
    SIGHUP end the block by SystemExit, SIGINT by KeyboardInterrupt, so that a job that is cancelled leaves nothing,
    at whatever instant that comes. For the main thread only.
    """
    if not settings.disable_cache:
        yield settings
        return
    import signal
    import tempfile

    # Python runs handlers in the main thread whatever other threads have masked, so it is the handler that waits.
    held, came = True, 0

    def leave(number: int, _: object) -> None:
        nonlocal came
        came = number
        if not held:
            end()

    def end() -> None:
        if came:
            raise KeyboardInterrupt if came == signal.SIGINT else SystemExit(128 + came)

    defaults: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    ours = [number for number, default in defaults.items() if signal.getsignal(number) is default]
    for number in ours:
        signal.signal(number, leave)
    try:
        directory = tempfile.mkdtemp(prefix="hpcc-")
        try:
            try:
                held = False
                end()
                yield settings.replace(
                    cache_dir=os.path.join(directory, "cache"),
                    private_dir=os.path.join(directory, "private"),
                    keep_blobs=False,
                    keep_packs=False,
                )
            finally:
                held = True
        finally:
            held = True  # also where the signal came between the block and the line above
            _remove(directory)
    finally:
        for number in ours:
            signal.signal(number, defaults[number])
    end()


def _remove(directory: str) -> None:
    """Remove a tree in which downloads that nobody waits for may still be writing: under another name they lose it."""
    import shutil

    for name in os.listdir(directory):
        os.rename(os.path.join(directory, name), os.path.join(directory, name + ".gone"))
    shutil.rmtree(directory, ignore_errors=True)
