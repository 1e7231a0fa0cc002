"""hpcc pyxis-importer: pyxis gets its images from hpcc's cache instead of having each node import them.

    plugstack.conf   required pyxis.so importer=/usr/local/bin/hpcc-importer      (--print makes that file)

pyxis calls it once for a step on each node, as the user, without a terminal, with the job's environment:

    get URI    prints the path of a squashfs file on stdout; what goes to stderr is shown where it fails
    release    after the container is made, and again when the step ends; it must not mind

    <node dir>/enroot-v1/<key>             made once on a node of the cache's SIF: a node store (runtime/store.py)
    <node dir>/enroot-steps/<job>.<step>   a link to it, so that it stays from get to release, whatever goes there
"""

from __future__ import annotations

import os
import stat
import time

from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.terminal import terminal
from hpcc.errors import CacheError
from hpcc.image import note_use, open_image
from hpcc.invoke import program
from hpcc.runtime.enter import node_directory
from hpcc.runtime.store import Limits, obtain
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages
from hpcc_slurm.enroot import parse_uri, write_enroot_image

COMMAND = Command(
    "pyxis-importer [OPTIONS] get URI | release",
    "The importer of pyxis: `get` prints the path of a squashfs file, made on this node once of an image that is "
    "pulled once for the cluster; `release` forgets what the step had. URI is docker://[USER@][REGISTRY#]IMAGE[:TAG].",
    (Option(("--print",), "print the script that plugstack.conf names as importer="),),
    "hpcc pyxis-importer --print > /usr/local/bin/hpcc-importer\n"
    "chmod 755 /usr/local/bin/hpcc-importer\n"
    "hpcc pyxis-importer get docker://nvcr.io#nvidia/cuda:12.4.1-base-ubuntu22.04",
)
_SPARE = 64 << 20  # bytes that are to be free beside the image
_FORGOTTEN = 3 * 86400.0  # seconds after which a link is of a step that was killed before its release


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    words = arguments.positional
    if arguments.options["print"]:
        print(script())
        return 0
    if words[:1] == ["get"] and len(words) == 2:
        print(get_image(words[1], _settings(), arguments))
        return 0
    if words == ["release"]:
        release(_settings())
        return 0
    raise usage_error(COMMAND, "pyxis calls it `get URI` or `release`")


def script() -> str:
    """The file that pyxis executes: it calls it with get and release alone."""
    from shlex import join

    return f'#!/bin/sh\nexec {join([*program(), "pyxis-importer"])} "$@"'


def _settings() -> Settings:
    """Those of the job's environment, which has no HOME where somebody submitted with --export=NONE."""
    environ = dict(os.environ)
    if not environ.get("HOME"):
        import pwd

        try:
            environ["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            pass
    return Settings.from_environ(environ)


def get_image(text: str, settings: Settings, arguments: Arguments) -> str:
    """The path of the squashfs file, which stays until `release`; idempotent. HpccError."""
    load_site_packages()
    uri, progress = parse_uri(text), terminal(arguments)
    if uri.user:
        progress.info(f"for {uri.user}@ hpcc takes the login of its own stores; see hpcc registry list")
    image = open_image(uri.image, settings, progress=progress)
    if not settings.disable_cache:
        note_use(image)
    path = obtain(
        node_directory(settings, "enroot-v1"),
        image.key or image.rootfs.identity,
        lambda target: write_enroot_image(image, target),
        Limits(settings.node_days, settings.node_size),
        image.rootfs.size + _SPARE,
        f"make a squashfs file of {image.path}",
    )
    return _keep(path, settings)


def _keep(path: str, settings: Settings) -> str:
    """A name of the step's own for the file. Outside of a step, or where links are not possible: its own."""
    steps = node_directory(settings, "enroot-steps")
    _forget_old(steps)
    name = _step(settings)
    if not name:
        return path
    link, new = os.path.join(steps, name), os.path.join(steps, f"{name}.{os.getpid()}")
    try:
        os.link(path, new)
        os.rename(new, link)  # does nothing where both are the same file already
        if os.path.lexists(new):
            os.unlink(new)
    except OSError:
        return path
    return link


def release(settings: Settings) -> None:
    """Remove the step's own name. Idempotent; never an error, as pyxis wants it."""
    name = _step(settings)
    try:
        if name:
            os.unlink(os.path.join(node_directory(settings, "enroot-steps"), name))
    except (CacheError, OSError):
        pass


def _step(settings: Settings) -> str:
    parts = [settings.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    return "-".join(parts) if all(part.isalnum() for part in parts) else ""


def _forget_old(steps: str) -> None:
    """Remove what killed steps left: links change their file's ctime, which a later link renews."""
    oldest = time.time() - _FORGOTTEN
    for entry in os.scandir(steps):
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_ctime < oldest:
                os.unlink(entry.path)
        except OSError:
            continue
