"""What push, search and delete have to do with a library."""

import os

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments
from hpcc.cli.sif.opening import opened, pread
from hpcc.cli.terminal import terminal
from hpcc.errors import IntegrityError, InvalidReference, SettingsError, UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.settings import Settings
from hpcc.sif.load import load
from hpcc.sources.library import LibraryName
from hpcc.version import __version__

if TYPE_CHECKING:
    from hpcc.registry.library import Library

_MISSING = "A library's image is library://ENTITY/COLLECTION/NAME:TAG."


def settings_for(arguments: Arguments, what: str) -> Settings:
    """With the library that the command line names. SettingsError where hpcc is offline, and does not do `what`."""
    settings = Settings.from_environ()
    if arguments.options.get("library"):
        settings = settings.replace(library_url=arguments.library)
    if arguments.options.get("no_https"):
        settings = settings.replace(nohttps=True)
    if settings.offline:
        raise SettingsError(f"hpcc is offline ({settings.origins['offline']}), and {what}", hint="HPCC_OFFLINE=false.")
    return settings


def connect(endpoint: str, settings: Settings, *, token: str | None = None) -> "Library":
    """A client with the token that is known for it, or with this one."""
    from hpcc import artifacts
    from hpcc.registry.library import Library
    from hpcc.sources.docker import ca_files

    return Library(
        endpoint,
        user_agent=f"hpcc/{__version__}",
        ca_files=ca_files(artifacts.host_of(endpoint), settings),
        insecure=settings.insecure,
        token=artifacts.token(settings, endpoint) if token is None else token,
    )


def parse_names(uri: str, settings: Settings) -> list[LibraryName]:
    """library://[HOST/]entity/collection/name[:tag[,tag…]], one of each tag. InvalidReference for what is implied."""
    text = uri.removeprefix("library://")
    before, slash, last = text.rpartition("/")
    name, colon, tags = last.partition(":")
    words = before.split("/")
    if "." in words[0] or ":" in words[0]:  # a host
        words = words[1:]
    if "@" in text or not slash or len(words) != 2:
        raise InvalidReference(f"{uri[:200]} is no whole name of an image in a library", hint=_MISSING)
    return [
        LibraryName.parse(f"{before}/{name}:{tag}", settings.library_url, plain=settings.nohttps)
        for tag in (tags.split(",") if colon else ["latest"])
    ]


def push(path: str, uri: str, arguments: Arguments) -> int:
    """hpcc push SIF library://…"""
    if arguments.oci:
        raise UsageError(f"{uri}: a library takes the SIF as it is", hint="Leave --oci away.")
    settings = settings_for(arguments, "pushes nothing")
    names = parse_names(uri, settings)
    if any(name.digest or name.version.startswith("sha256.") for name in names):
        raise UsageError(f"{uri}: an image is pushed to a tag, and its digest follows from it", hint="Give NAME:TAG.")
    target = names[0]
    progress = terminal(arguments)
    try:
        with opened(path, load) as (fd, sif):
            partition = sif.primary().partition
            arch = partition.arch if partition else "unknown"
            if not arguments.allow_unsigned:
                _check_signature(path)
            from hpcc.cli.push import digest_of

            size = os.fstat(fd).st_size
            digest = digest_of(fd, size, progress)
            progress.stage("Pushing", size)
            part = progress.part(digest.hex[:12], size)
            tags = tuple(name.version for name in names)
            with connect(target.endpoint, settings) as library:
                sent = library.push(
                    target.path, tags, arch, digest, size, lambda at, length: pread(fd, length, at), part,
                    arguments.description or "",
                )  # fmt: skip
    finally:
        progress.close()
    where = f"library://{target.path}:{','.join(tags)} of {target.endpoint}"
    inform(arguments, f"Pushed {path} to {where}, for {arch}{'' if sent else '; it had it'}")
    inform(arguments, f"Its digest is {digest}")
    return 0


def _check_signature(path: str) -> None:
    from hpcc.cli.verify import is_verified

    error = is_verified(path)
    if error is not None:
        raise IntegrityError(
            f"{path} is not pushed to a library, for its signature does not verify: {error.message}",
            hint="`hpcc sign` signs it, by a key in your keyring; -U pushes it without a signature.",
        )
