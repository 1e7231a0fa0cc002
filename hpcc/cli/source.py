"""The options of every command that takes a URI: whom to ask for an image, and as whom."""

from __future__ import annotations

from hpcc.cli.arguments import Arguments, Option
from hpcc.cli.terminal import terminal
from hpcc.errors import UsageError
from hpcc.image import open_image
from hpcc.records import TYPE_CHECKING
from hpcc.settings import KEYS, Settings

if TYPE_CHECKING:
    from typing import Any

    from hpcc.local import Image

SOURCE_OPTIONS = (
    Option(("--arch",), "the image for this architecture, such as arm64", "ARCH"),
    Option(("--platform",), "the image for this platform", "OS/ARCH[/VARIANT]"),
    Option(("--pull",), "when to look a tag up again: missing, newer (default), always, never", "WHEN"),
    Option(("--offline",), "open no connection: only what the cache has, whatever its age"),
    Option(("--disable-cache",), "pull the image for this command alone, and keep nothing"),
    Option(("--frozen",), "only images whose digest is given, or stands in hpcc.lock"),
    Option(("--lock-wait",), "how long to wait for somebody else's pull", "SECONDS"),
    Option(("--docker-login",), "ask for a registry account, for this command alone"),
    Option(("--no-https", "--nohttps"), "talk plain http to the registry"),
)


def parsed(key: str, option: str, text: str) -> Any:
    """The value of the setting `key`, as `option` gives it. UsageError names the option and what belongs there."""
    try:
        return KEYS[key].parse(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option} {text!r}: {error}") from None


def source_settings(arguments: Arguments, uri: str) -> Settings:
    """The settings, with what the command line sets. UsageError, SettingsError. May ask for a login at the terminal."""
    settings = Settings.from_environ()
    flags = {
        "nohttps": arguments.no_https,
        "offline": arguments.offline,
        "frozen": arguments.frozen,
        "disable_cache": arguments.disable_cache,
    }
    chosen: dict[str, object] = {name: True for name, given in flags.items() if given}
    if arguments.pull is not None:
        if arguments.pull not in ("missing", "newer", "always", "never"):
            raise UsageError(
                f"--pull {arguments.pull!r}: there is no such way", hint="One of missing, newer, always, never."
            )
        chosen["pull"] = arguments.pull
    if arguments.lock_wait is not None:
        try:
            chosen["lock_wait"] = max(0.0, float(arguments.lock_wait))
        except ValueError:
            raise UsageError(f"--lock-wait {arguments.lock_wait!r} is no number of seconds") from None
    settings = settings.replace(**chosen) if chosen else settings
    if arguments.docker_login and uri.startswith(("docker://", "oras:")):
        from hpcc.sitepath import load_site_packages

        load_site_packages()
        from hpcc.cli.prompts import ask_login
        from hpcc.oci.reference import Reference

        login = ask_login(Reference.parse(uri.removeprefix("oras:").removeprefix("//")).registry)
        settings = settings.with_login(login.username, login.password)
    return settings


def wanted_image(uri: str, settings: Settings, arguments: Arguments) -> Image:
    """The image to run: a local one, the cache's, or pulled, staged on the node where that is wanted.

    With --disable-cache it is an open file without a name.
    """
    platform, progress = chosen_platform(arguments), terminal(arguments)
    if settings.disable_cache:
        from hpcc.throwaway import cache_for

        with cache_for(settings) as effective:
            return open_image(uri, effective, arch=platform, progress=progress)
    image = open_image(uri, settings, arch=platform, progress=progress)
    if arguments.stage is not None:
        settings = settings.replace(stage=parsed("stage", "--stage", arguments.stage))
    if settings.stage == "shared":
        return image
    from hpcc.staging import staged

    return staged(image, settings, progress)


def chosen_platform(arguments: Arguments) -> str | None:
    """What --platform or --arch names, None for this machine's. UsageError where they are both there."""
    if arguments.platform and arguments.arch:
        raise UsageError("--platform and --arch exclude each other", hint="--platform linux/arm64 says both.")
    platform: str | None = arguments.platform or arguments.arch
    return platform
