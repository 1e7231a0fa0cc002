"""--disable-cache: an image that is pulled for one command, and leaves nothing behind."""

from __future__ import annotations

from contextlib import contextmanager

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpcc.settings import Settings


@contextmanager
def cache_for(settings: Settings) -> Iterator[Settings]:
    """The settings themselves; where they want no cache, with one in $TMPDIR that is gone at the end of the block.

    Whoever has opened an image in it goes on with the open file. Site-wide libraries are still looked up. SIGTERM and
    SIGHUP end the block by SystemExit, so that a job that is cancelled leaves nothing. For the main thread only.
    """
    if not settings.disable_cache:
        yield settings
        return
    import os
    import shutil
    import signal
    import tempfile

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    ending = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, leave)
    directory = tempfile.mkdtemp(prefix="hpcc-")
    try:
        yield settings.replace(
            cache_dir=os.path.join(directory, "cache"),
            private_dir=os.path.join(directory, "private"),
            keep_blobs=False,
            keep_packs=False,
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
