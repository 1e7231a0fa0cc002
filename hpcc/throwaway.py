"""--disable-cache: an image that is pulled for one command, and leaves nothing behind."""

from __future__ import annotations

import os
from contextlib import contextmanager

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, endings)  # between the directory and its `try` lies an instant
    ending = [number for number in endings[1:] if signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, leave)
    try:
        directory = tempfile.mkdtemp(prefix="hpcc-")
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield settings.replace(
                cache_dir=os.path.join(directory, "cache"),
                private_dir=os.path.join(directory, "private"),
                keep_blobs=False,
                keep_packs=False,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, endings)
            _remove(directory)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # one that came meanwhile still says how this ended
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def _remove(directory: str) -> None:
    """Remove a tree in which downloads that nobody waits for may still be writing: under another name they lose it."""
    import shutil

    for name in os.listdir(directory):
        os.rename(os.path.join(directory, name), os.path.join(directory, name + ".gone"))
    shutil.rmtree(directory, ignore_errors=True)
