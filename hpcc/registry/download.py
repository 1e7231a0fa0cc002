"""One blob, from wherever it can be had: resumed where a connection breaks, from the next place where one fails."""

import random
import time
from collections.abc import Callable, Sequence

from hpcc.errors import IntegrityError, RegistryError, RegistryUnavailable
from hpcc.oci.digest import Verifier
from hpcc.oci.manifest import Descriptor
from hpcc.registry import transport
from hpcc.registry.connections import Interrupted
from hpcc.registry.sink import Sink
from hpcc.registry.transport import CHUNK, Blob

BLOB_TRIES = 5  # at a blob, each from where the last one broke off, while it does not get ahead by CHUNK
OPENINGS = 2  # of a place that does not answer, each with the tries of a request

Place = Callable[[int], Blob]
"""Opens the blob from an offset on, or from 0 where it cannot; raises RegistryError."""


def fetch_blob(
    places: Sequence[Place], descriptor: Descriptor, sink: Sink, what: str = "", begun: Verifier | None = None
) -> None:
    """Stream a blob into `sink`; size and digest are right when this returns.

    The places are tried in order, each while it brings anything. `begun` has seen the bytes that the sink has already.
    Raises what the last place raised: IntegrityError after the second time that its bytes were wrong, or a
    RegistryError; and what the sink raises.
    """
    what = what or str(descriptor.digest)
    verifier = begun or Verifier(descriptor.digest, descriptor.size, what)
    for place in places:
        last = place is places[-1]
        try:
            _fetch_from(place, descriptor, sink, what, verifier)
            return
        except (RegistryError, IntegrityError) as error:
            if last:
                raise
            if isinstance(error, IntegrityError):  # what is there came from a place that cannot be believed
                sink.restart()
                verifier = Verifier(descriptor.digest, descriptor.size, what)


def _fetch_from(place: Place, descriptor: Descriptor, sink: Sink, what: str, verifier: Verifier) -> None:
    wrong = broken = shut = 0
    best = verifier.seen

    def restart() -> None:
        sink.restart()
        verifier.restart()

    while True:
        blob = None
        try:
            if verifier.seen < descriptor.size or not verifier.seen:
                blob = place(verifier.seen)
                _stream(blob, descriptor, sink, verifier, restart)
            verifier.finish()
            return
        except Interrupted as error:
            shut += blob is None  # a place that does not open was tried several times already
            if shut == OPENINGS:
                raise RegistryUnavailable(f"{what}: {error.message}", hint=error.hint) from None
            # Counted only while nothing is won, so that a long download survives many cuts, and an endless one ends.
            broken = broken + 1 if verifier.seen < best + CHUNK else 1
            best = max(best, verifier.seen)
            if broken == BLOB_TRIES:
                raise RegistryUnavailable(
                    f"{what}: only {verifier.seen} of {descriptor.size} bytes came, in {BLOB_TRIES} tries at the rest: "
                    f"{error.message}",
                    hint="Try again later: what came is kept.",
                ) from None
            time.sleep(transport.PAUSE * 2 ** (broken - 1) * random.uniform(0.5, 1.5))
        except IntegrityError as error:
            wrong += 1
            if wrong == 2:
                raise IntegrityError(
                    error.message, hint="The registry, or a proxy on the way, alters it. Ask whoever runs it."
                ) from None
            restart()


def _stream(blob: Blob, descriptor: Descriptor, sink: Sink, verifier: Verifier, restart: Callable[[], None]) -> None:
    """The rest of the blob, as far as it comes; Interrupted where it breaks off early."""
    with blob:
        if blob.offset != verifier.seen:
            restart()
        try:
            for data in blob:
                verifier.update(data)
                sink.write(data)
        except Interrupted:
            if verifier.seen != descriptor.size:
                raise
