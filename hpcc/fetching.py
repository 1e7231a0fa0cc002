"""SIFs that others made, and files at a URL, into the cache: once, by one process for all that want them.

address --asked again--> what is known, by ETag or digest; else fetched, resumed, verified, published as a blob
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from hpcc.artifacts import Address, File, host_of, known, may_be_private, token
from hpcc.cache.blobs import write_blob
from hpcc.cache.flight import Tell, single_flight
from hpcc.cache.intake import publish_blob
from hpcc.cache.partial import partial
from hpcc.cache.refs import Ref, write_ref
from hpcc.cache.temporary import sweep
from hpcc.errors import (
    CacheError,
    ImageNotFound,
    IntegrityError,
    PolicyError,
    RateLimited,
    RegistryUnavailable,
)
from hpcc.lookup import tiers
from hpcc.making import locking_of
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import OCI_MANIFEST, Descriptor
from hpcc.oci.platform import Platform
from hpcc.oci.reference import covers
from hpcc.progress import Progress, Telling
from hpcc.pulling import open_upstream
from hpcc.registry.web import Fetched, Web
from hpcc.settings import Settings
from hpcc.sources.docker import ca_files, readable_tiers
from hpcc.sources.growing import GrowingFile, download
from hpcc.sources.library import ask_library
from hpcc.sources.sifs import SIF_LAYER, Kept, open_file, parse_kept, write_kept
from hpcc.sources.signatures import check_signed, needs_signature
from hpcc.version import __version__


def fetch(
    address: Address,
    platform: Platform,
    settings: Settings,
    progress: Progress,
) -> File:
    """The file, fetched and published in a cache by one process for all that want it. Idempotent. HpccError."""
    began, caches = time.time(), tiers(settings)

    def look() -> File | None:
        return next((file for _, file in known(address, caches, settings, since=began)), None)

    def work(tell: Tell) -> File:
        sweep(tier.path("tmp"))
        return _Fetcher(address, platform, settings, Telling(progress, tell)).fetch()

    def waiting(holder: str) -> None:
        progress.info(f"Waiting for {holder}, who fetches {address.uri}")

    tier = caches[-1] if may_be_private(address, settings) else caches[-2]
    lock = f"{address.reference.canonical} {platform}"
    return single_flight(tier, lock, look, work, locking_of(settings), on_wait=waiting)


class _Fetcher:
    def __init__(self, address: Address, platform: Platform, settings: Settings, progress: Progress) -> None:
        self._address, self._platform, self._settings, self._progress = address, platform, settings, progress
        self._caches = tiers(settings)
        self._tier = self._caches[-1] if may_be_private(address, settings) else self._caches[-2]

    def fetch(self) -> File:
        address, settings = self._address, self._settings
        why = "--offline, or HPCC_OFFLINE" if settings.offline else "--pull never" if settings.pull == "never" else ""
        if why and (address.url or address.library):
            raise ImageNotFound(
                f"{address.uri} is not in the cache, and nobody is asked ({why})", hint="Fetch it once."
            )
        try:
            kept = self._oras() if not (address.url or address.library) else self._web()
        except (RegistryUnavailable, RateLimited) as error:
            found = None
            if settings.pull != "always":
                found = next(known(address, self._caches, settings, stale=True), None)
            if found is None:
                raise
            self._progress.warning(f"{error.message.rstrip('.')}. Using what the cache has.")
            return found[1]
        file = open_file((self._tier,), kept.file)
        if file is None:
            raise IntegrityError(
                f"{address.uri} is not what was just written", hint="Somebody else writes to the cache."
            )
        return File(*file)

    # http and libraries

    def _web(self) -> Kept:
        address, library = self._address, self._address.library
        base = library.endpoint if library else address.url
        settings = self._settings
        with Web(
            base,
            user_agent=f"hpcc/{__version__}",
            ca_files=ca_files(host_of(base), settings),
            insecure=settings.insecure,
            token=token(library, settings) if library else "",
        ) as web:
            if library is None:
                return self._from_url(web, address.url, address.expected)
            entry = ask_library(web, library, self._platform.architecture)
            if address.expected not in (None, entry.digest):
                raise IntegrityError(
                    f"{address.uri}: expected digest {address.expected}, the library has {entry.digest}"
                )
            if entry.digest is not None:
                file = Descriptor(SIF_LAYER, entry.digest, entry.size)
                found = open_file((self._tier,), file)
                if found is not None:
                    os.close(found[0])
                    return self._note(write_kept(self._tier, file))
            url = f"{library.endpoint}/v1/imagefile/{library.path}:{library.version}"
            return self._from_url(web, url, entry.digest, {"arch": self._platform.architecture})

    def _from_url(self, web: Web, url: str, expected: Digest | None, query: dict[str, str] | None = None) -> Kept:
        what, settings = self._address.uri.partition("?")[0], self._settings
        last = next(known(self._address, self._caches, settings, stale=True), None)
        if last is not None:
            os.close(last[1].fd)
        opened = web.open(
            url, what, etag=last[0].etag if last else "", modified=last[0].modified if last else "", query=query
        )
        if opened is None and last is not None:
            return self._note(last[0])
        if opened is None:
            raise IntegrityError(f"{what}: the server says that it has not changed, and nobody had it")
        if 0 < settings.max_image < opened.size:
            opened.response.close()
            raise PolicyError(
                f"{what} has {opened.size / 1e6:,.0f} MB, this site allows {settings.max_image / 1e6:,.0f} MB",
                hint="Use a smaller image, or ask your administrator (the setting max_image).",
            )
        self._progress.stage("Fetching", max(opened.size, 0))
        part = self._progress.part(what.rpartition("/")[2], max(opened.size, 0))
        with ExitStack() as stack:
            stack.callback(opened.response.close)
            if opened.size > 0 and opened.validator:
                stem = Digest.of(f"{url}\0{opened.validator}\0{opened.size}".encode())
                file, have = stack.enter_context(partial(self._tier, stem, opened.size))
            else:
                file, have = stack.enter_context(self._tier.temporary()), 0
            got = web.fetch(url, what, opened, file, have, settings.max_image, part.advance, query)
            if expected is not None and got.digest != expected:
                file.seek(0)
                file.truncate()  # nobody goes on from bytes that are wrong
                raise IntegrityError(
                    f"{what}: expected digest {expected}, found {got.digest}",
                    hint="It was changed, or somebody on the way alters it. Ask whoever gave the digest.",
                )
            publish_blob(self._tier, file, got.digest, got.size)
        part.finish()
        return self._keep(got)

    def _keep(self, got: Fetched) -> Kept:
        return self._note(write_kept(self._tier, Descriptor(SIF_LAYER, got.digest, got.size), got.etag, got.modified))

    def _note(self, kept: Kept) -> Kept:
        """Have the cache know what the address means now."""
        reference = self._address.reference
        if reference.digest is None:
            name = f"{reference.name}:{reference.tag}"
            try:
                ref = Ref(name, str(kept.manifest), OCI_MANIFEST, 0, time.time())
                write_ref(self._tier, reference.name, str(reference.tag), ref)
            except CacheError:
                pass  # it only saves the next one a question
        return kept

    # registries

    def _oras(self) -> Kept:
        address, settings = self._address, self._settings
        reference = address.reference
        with open_upstream(reference, settings) as upstream:
            resolved = upstream.resolve(reference.tag_or_digest)
            shared = any(covers(pattern, reference.name) for pattern in settings.share)
            self._tier = self._caches[-2] if shared or not resolved.private else self._caches[-1]
            if resolved.private:
                upstream.use_login()
            readable = readable_tiers(self._tier, self._caches)
            digest = resolved.descriptor.digest
            if needs_signature(reference.name, settings):
                check_signed(reference, (digest,), upstream, self._tier, readable, settings)
            data = upstream.manifest(digest)
            kept = parse_kept(data, digest)
            if settings.max_image and kept.file.size > settings.max_image:
                raise PolicyError(
                    f"{reference}: {kept.file.size / 1e6:,.0f} MB, this site allows {settings.max_image / 1e6:,.0f} MB",
                    hint="Ask your administrator (the setting max_image).",
                )
            if (found := open_file((self._tier,), kept.file)) is not None:
                os.close(found[0])
            else:
                self._progress.stage("Fetching", kept.file.size)
                part = self._progress.part(reference.repository.rpartition("/")[2], kept.file.size)
                with partial(self._tier, kept.file.digest, kept.file.size) as (file, have):
                    growing = GrowingFile(file, part, have)
                    download(upstream, kept.file, growing)
                    growing.wait()
                    publish_blob(self._tier, file, kept.file.digest, kept.file.size)
                part.finish()
            write_blob(self._tier, digest, data)
            return self._note(kept)
