"""The stages of a definition file, one after the other, each to a directory with its root.

A stage is made of its base, %setup, %files, %post in this order. Where nothing of that has changed since an earlier
build on this node, its root comes from the cache of builds: <node dir>/builds-v1/<key>, a squashfs, in a node store.
%pre and %setup do what they like on the host, so a stage with one of them is made each time; so is one whose base has
no name that changes with it.
"""

import os
from collections.abc import Sequence
from hashlib import sha256

from hpcc.build import agents, metadata
from hpcc.build.files import copy_files, fingerprint
from hpcc.build.inside import Inside
from hpcc.build.metadata import TOP, About
from hpcc.build.pack import How, Known, pack_squashfs
from hpcc.build.root import Root
from hpcc.build.run import post_variables, run_in_container, run_on_host
from hpcc.build.scripts import app_install
from hpcc.build.unpack import copy_directory, remove_tree, unpack_squashfs
from hpcc.build.work import Work
from hpcc.compressors import converter_id
from hpcc.definition.model import Script, Stage, Transfer, base_uri
from hpcc.errors import UsageError
from hpcc.image import open_image
from hpcc.local import Image
from hpcc.progress import SILENT, Progress
from hpcc.records import NamedTuple
from hpcc.runtime import store
from hpcc.runtime.enter import node_directory
from hpcc.settings import Settings

_FORMAT = "1"  # of what a key stands for


class Options(NamedTuple):
    """Of `hpcc build`. container: words for hpcc exec, such as --bind, of %post and %test."""

    sandbox: bool = False
    force: bool = False
    update: bool = False
    notest: bool = False
    fakeroot: bool = False
    sections: tuple[str, ...] = ()
    container: tuple[str, ...] = ()
    cleanup: bool = True
    cache: bool = True
    quiet: bool = False
    arch: str | None = None
    epoch: int = -1

    def wants(self, section: str) -> bool:
        return not self.sections or section in self.sections


class Built(NamedTuple):
    """A stage on disk. key: names all that is in it, "" where nothing does. known: what of it was packed already."""

    stage: Stage
    root: str
    key: str = ""
    commands: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    known: Known | None = None


class Builder:
    """Builds the stages of one definition file in a work directory."""

    def __init__(self, settings: Settings, options: Options, inside: Inside, work: Work, progress: Progress) -> None:
        self._settings, self._options, self._inside, self._work = settings, options, inside, work
        self._progress = progress
        self._built: list[Built] = []

    @property
    def how(self) -> How:
        return How(self._settings.compression, self._inside.owners in ("all", "ids"), self._options.epoch)

    def build(self, stages: Sequence[Stage], root: str = "") -> Built:
        """All of them; the last one. root: where that is to be, if it is there already (--update)."""
        for number, stage in enumerate(stages):
            last = number == len(stages) - 1
            directory = root if last and root else f"{self._work.path}/{number}"
            if len(stages) > 1:
                self._progress.info(f"Building stage {stage.name or number}")
            self._built.append(self._stage(stage, directory, update=bool(last and root)))
        return self._built[-1]

    def _stage(self, stage: Stage, root: str, *, update: bool) -> Built:
        options = self._options
        self._on_host("pre", stage, root)
        agent = stage.header["bootstrap"].lower()
        image: Image | None = None
        if not (update or agent in agents.AGENTS):
            image = open_image(base_uri(stage.header), self._settings, arch=options.arch, progress=self._progress)
        commands = (image.config.entrypoint, image.config.cmd) if image else ((), ())
        post = self._post(stage)
        key = "" if update or not post else self._key(stage, image, post)
        if key and self._from_cache(key, root):
            return Built(stage, root, key, commands)
        if not update:
            self._base(stage, agent, image, root)
        self._inside.call(metadata.prepare, root, stage)
        self._on_host("setup", stage, root)
        self._files(stage, root)
        if post:
            self._progress.info("Running post scriptlet")
            self._run_post(post, root)
        known = self._to_cache(key, root) if key else None
        return Built(stage, root, key, commands, known)

    def _base(self, stage: Stage, agent: str, image: Image | None, root: str) -> None:
        if image is None:
            agents.bootstrap(agent, stage.header, root, self._inside, self._settings, self._work.path, self._progress)
        else:
            unpack_image(image, root, self._inside, owners=True, progress=self._progress)

    def _on_host(self, name: str, stage: Stage, root: str) -> None:
        script = stage.section(name)
        if script and self._options.wants(name):
            self._progress.info(f"Running {name} scriptlet")
            self._inside.call(run_on_host, name, script, self._work.path, root)

    def _files(self, stage: Stage, root: str) -> None:
        if self._options.wants("files"):
            for each in sorted(stage.files, key=lambda files: not files.stage):  # those of stages first
                source = self._stage_named(each.stage).root if each.stage else ""
                for transfer in each.transfers:
                    self._progress.info(f"Copying {transfer.source} to {transfer.target or transfer.source}")
                self._inside.call(copy_files, each.transfers, root, source)
        for name, sections in stage.apps.items():
            if script := sections.get("appfiles"):
                self._inside.call(copy_files, app_transfers(script), root, "", f"/scif/apps/{name}")

    def _stage_named(self, name: str) -> Built:
        for number, built in enumerate(self._built):
            if name in (built.stage.name, str(number)):
                return built
        raise UsageError(f"%files from {name}: there is no such stage before this one")

    def _post(self, stage: Stage) -> Script | None:
        if not self._options.wants("post"):
            return None
        script = stage.section("post")
        installs = [
            app_install(name, sections["appinstall"])
            for name, sections in stage.apps.items()
            if sections.get("appinstall")
        ]
        return script._replace(text=script.text + "".join(installs)) if script or installs else None

    def _run_post(self, script: Script, root: str) -> None:
        text = script.text.encode("utf-8", "surrogateescape")
        self._inside.call(write_file, root, "/.post.script", text, 0o755)
        # Not the host's /tmp, which `rm -rf /tmp/*`, as many write at the end, would empty.
        options = ["--writable", "--cleanenv", "--no-mount", "tmp", *post_variables(), *self._options.container]
        run_in_container(
            root, script.command("/.post.script"), "post", options, quiet=self._options.quiet,
            pass_fds=(self._work.lock,),
        )  # fmt: skip

    # -- the cache of builds -------------------------------------------------------------------------------------------

    def _key(self, stage: Stage, image: Image | None, post: Script) -> str:
        """64 hexadecimal digits; "" where not all that the stage is made of is known."""
        impure = stage.section("pre") or stage.section("setup") or self._options.container
        base = "" if image is None else image.reference or image.rootfs.identity
        agent = stage.header["bootstrap"].lower()
        if impure or self._options.sections or not (base or image is None) or not self._options.cache:
            return ""
        seen = [_FORMAT, converter_id(self._settings.compression), self._inside.owners, agent, base, *post]
        seen += [f"{key}={value}" for key, value in sorted(stage.header.items())]
        for each in stage.files:
            seen += [f"{each.stage}", *(word for transfer in each.transfers for word in transfer)]
            if each.stage:
                below = self._stage_named(each.stage).key
                if not below:
                    return ""
                seen.append(below)
            else:
                seen.append(self._inside.call(fingerprint, each.transfers))
        for name, sections in stage.apps.items():
            seen += [name, *(word for section in sorted(sections) for word in (section, *sections[section]))]
            if files := sections.get("appfiles"):
                seen.append(self._inside.call(fingerprint, app_transfers(files)))
        return sha256("\0".join(seen).encode("utf-8", "surrogateescape")).hexdigest()

    def _from_cache(self, key: str, root: str) -> bool:
        path = os.path.join(node_directory(self._settings, "builds-v1"), key)
        try:
            size = os.stat(path).st_size
            os.utime(f"{path}.lock")
            self._inside.call(unpack_squashfs, path, 0, size, root, owners=True, progress=SILENT)
        except (OSError, UsageError):
            return False
        self._progress.info("Nothing has changed up to %post: it comes from the cache of builds")
        return True

    def _to_cache(self, key: str, root: str) -> Known | None:
        made: list[Known] = []

        def make(path: str) -> None:
            made.append(self._inside.call(pack_squashfs, root, path, self.how, progress=SILENT))

        limits = store.Limits(self._settings.node_days, self._settings.node_size)
        path = store.obtain(node_directory(self._settings, "builds-v1"), key, make, limits, 0, "keep a stage")
        return made[0]._replace(path=path) if made else None


def write_file(root: str, path: str, data: bytes, mode: int) -> None:
    Root(root).write(path, data, mode)


def app_transfers(script: Script) -> tuple[Transfer, ...]:
    """The lines of %appfiles: SOURCE [TARGET]."""
    rows = [line.split() for line in script.text.splitlines() if line.strip() and not line.strip().startswith("#")]
    return tuple(Transfer(row[0], row[1] if len(row) > 1 else "") for row in rows)


def unpack_image(image: Image, root: str, inside: Inside, *, owners: bool, progress: Progress) -> None:
    """The root filesystem of an image as the new directory `root`, or nothing at all. Warns of what was left out."""
    rootfs = image.rootfs
    try:
        if rootfs.kind == "directory":
            inside.call(copy_directory, rootfs.path, root, owners=owners)
            return
        # An image of --disable-cache has no name any more.
        path = rootfs.path if os.path.exists(rootfs.path) else f"/proc/{os.getpid()}/fd/{rootfs.fd}"
        left_out = inside.call(unpack_squashfs, path, rootfs.offset, rootfs.size, root, owners=owners, progress=SILENT)
    except BaseException:
        inside.call(remove_tree, root)
        raise
    if left_out:
        progress.warning(f"{len(left_out)} device files and sockets of the image were left out, {left_out[0]} first")


def complete(built: Built, about: About, inside: Inside, progress: Progress) -> bytes:
    """Write the metadata of the last stage; inspect-metadata.json."""
    data, warnings = inside.call(metadata.complete, built.root, built.stage, about)
    for text in warnings:
        progress.warning(text)
    return data


def run_test(built: Built, options: Options, work: Work) -> None:
    """%test, in the image as it will be."""
    run_in_container(built.root, [f"{TOP}/test"], "test", options.container, quiet=options.quiet, pass_fds=(work.lock,))
