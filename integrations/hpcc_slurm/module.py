"""hpcc module: a modulefile that gives users the commands of an image, so that they need not know it is one."""

from __future__ import annotations

import os
import shutil

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.run import COMMANDS as RUN
from hpcc.cli.source import SOURCE_OPTIONS, chosen_platform, source_settings
from hpcc.cli.terminal import terminal
from hpcc.errors import CacheError, UsageError, place_hint
from hpcc.image import open_image
from hpcc.invoke import program
from hpcc.local import Image, read_json
from hpcc.lookup import Wanted, choose_cached, known_digests, tiers
from hpcc.oci.digest import Digest
from hpcc.oci.reference import Reference
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages
from hpcc_slurm.commands import check_commands, commands_of, is_plain, own_commands
from hpcc_slurm.modulefiles import Module, lua, tcl, wrapper

COMMAND = Command(
    "module [OPTIONS] IMAGE --out DIR",
    "Write modulefiles for Lmod and for Environment Modules, which put the commands of an image on PATH. What they run "
    "is the image that IMAGE means now, by its digest. Without --commands: those that are not in /bin or /usr/bin, and "
    "what the image runs by default.",
    (
        Option(("--out",), "a directory of MODULEPATH", "DIR"),
        Option(("--commands",), "which commands, by commas; a path stands for its last part", "NAMES", many=True),
        Option(("--list",), "only show all commands of the image"),
        Option(("--name",), "of the module; default: the image's", "NAME"),
        Option(("--version",), "of the module; default: the image's tag", "TEXT"),
        Option(("--with",), "an option of hpcc exec for each command, as --nv or --bind=/data", "OPTION", many=True),
        Option(("-F", "--force"), "replace a module that is there"),
        *SOURCE_OPTIONS,
    ),
    "hpcc module docker://python:3.12 --commands python3,pip --out /opt/modules\n"
    "module use /opt/modules && module load python/3.12",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "module needs one image")
    (uri,) = arguments.positional
    if not arguments.out and not arguments.list:
        raise usage_error(COMMAND, "--out says where the modulefiles go")
    options = _options(arguments)
    load_site_packages()
    settings = source_settings(arguments, uri)
    image = open_image(uri, settings, arch=chosen_platform(arguments), progress=terminal(arguments))
    if arguments.list:
        for command, path in sorted(commands_of(image).items()):
            print(f"{command:<24} {path}")
        return 0
    name, version = _named(arguments, uri, image)
    words = _commands(arguments, image)
    pinned = _pinned(uri, image, settings, arguments)
    directory = os.path.abspath(os.path.expanduser(arguments.out))
    module = Module(
        name, version, pinned, os.path.join(directory, name, f".{version}/bin"), tuple(words), _about(image)
    )
    scripts = {key: wrapper(program(), options, pinned, command) for key, command in words.items()}
    _write(module, directory, scripts, replace=arguments.force)
    inform(arguments, f"{directory}/{name}/{version}: {', '.join(words)}")
    return 0


def _options(arguments: Arguments) -> list[str]:
    """UsageError for what is no option of hpcc exec."""
    words: list[str] = list(arguments.options["with"])
    if parse(RUN["exec"], words).positional:
        raise usage_error(COMMAND, "--with takes one option each: --with --nv --with --bind=/data")
    return words


def _named(arguments: Arguments, uri: str, image: Image) -> tuple[str, str]:
    """(name, version) of the module. UsageError for what can be no path below MODULEPATH."""
    if uri.startswith("docker://"):
        reference = Reference.parse(uri)
        name = reference.repository.rpartition("/")[2]
        version = reference.tag or f"sha256-{str(reference.digest).partition(':')[2][:12]}"
    else:
        stem = os.path.basename(image.path).removesuffix(".sif")
        name, _, version = stem.partition("_")
    name, version = arguments.name or name, arguments.version or version or "1"
    if not all(map(is_plain, [*name.split("/"), version])):
        raise UsageError(
            f"{name}/{version} can be no name of a module", hint="--name and --version take letters, digits and . _ + -"
        )
    return name, version


def _commands(arguments: Arguments, image: Image) -> dict[str, str]:
    """{name of the script: command in the image}."""
    given = [word.strip() for item in arguments.commands for word in item.split(",") if word.strip()]
    if given:
        check_commands(image, given)
    else:
        given = own_commands(image, commands_of(image))
    found = {word.rpartition("/")[2]: word for word in given}
    if not found:
        raise UsageError(
            f"{image.name} has only what any distribution has", hint="Name the commands: --commands python3,pip."
        )
    for name in found:
        if name in ("", ".", "..") or not name.isprintable():
            raise UsageError(f"--commands {name!r}: no name of a command")
    return found


def _pinned(uri: str, image: Image, settings: Settings, arguments: Arguments) -> str:
    """What the scripts run: the digest that the tag means now, for all platforms where the registry has an index."""
    if not uri.startswith("docker://"):
        return image.path
    wanted = Wanted.parse(uri, settings, arch=chosen_platform(arguments))
    mine = Digest.parse(image.reference.partition("@")[2])
    caches = tiers(settings)
    for digest, _, _ in known_digests(wanted.reference, caches, settings, stale=True):
        if choose_cached(caches, digest, wanted) == mine:
            return f"docker://{wanted.reference.name}@{digest}"
    return f"docker://{wanted.reference.name}@{mine}"


def _about(image: Image) -> tuple[tuple[str, str], ...]:
    """What the image's labels say about it."""
    config = read_json(image.sif, image.rootfs.fd, "oci-config.json") if image.sif else None
    labels = (config or {}).get("Labels")
    found = []
    for title, label in (("Description", "description"), ("URL", "url"), ("License", "licenses")):
        text = labels.get(f"org.opencontainers.image.{label}") if isinstance(labels, dict) else None
        if isinstance(text, str) and text.strip():
            found.append((title, " ".join(text.split())[:200]))
    return tuple(found)


def _write(module: Module, directory: str, scripts: dict[str, str], *, replace: bool) -> None:
    """All files; the modulefiles last, so that no module loads without its commands. UsageError, CacheError."""
    top = os.path.join(directory, module.name)
    files = {f"{module.version}.lua": lua(module), module.version: tcl(module)}
    hidden = os.path.join(top, f".{module.version}")
    if not replace and any(os.path.lexists(os.path.join(top, name)) for name in (*files, hidden)):
        raise UsageError(f"{top}/{module.version} is there already", hint="Replace it with --force.")
    new = f"{hidden}.new-{os.getpid()}"
    try:
        os.makedirs(os.path.join(new, "bin"))
        for name, text in scripts.items():
            path = os.path.join(new, "bin", name)
            _write_file(path, text)
            os.chmod(path, os.stat(path).st_mode | 0o111)  # noqa: S103 - where the umask lets others read
        if os.path.lexists(hidden):
            shutil.rmtree(hidden)
        os.rename(new, hidden)
        for name, text in files.items():
            _write_file(f"{hidden}/{name}", text)
            os.rename(f"{hidden}/{name}", os.path.join(top, name))
    except OSError as error:
        raise CacheError(f"cannot write to {top}: {error.strerror}", hint=place_hint(error)) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_file(path: str, text: str) -> None:
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
