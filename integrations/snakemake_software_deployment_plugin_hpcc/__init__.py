"""hpcc as a software deployment plugin of Snakemake: rules that say `software: hpcc(image_uri="docker://debian:12")`.

    PINS/<hash>.pin.txt                  docker://registry/repository:tag@digest, one line
    CACHE/<name>.sif, <name>.sif.sha256  a copy of the image, and its checksum as `sha256sum` writes it
    DEPLOYMENTS/<deployment hash>        what jobs execute: a link to the SIF in hpcc's cache, or a copy (hpcc.place)

Jobs never name a registry: they execute what is deployed. A deployment that is there is whole, and one that leads
nowhere any more counts as missing, for Snakemake too.

The interface wants EnvSpec, Env, Settings and common_settings in one module, and reads annotations as types.
"""

try:
    from snakemake_interface_software_deployment_plugins import (
        CacheableEnvBase,
        DeployableEnvBase,
        EnvBase,
        EnvSpecBase,
        PinnableEnvBase,
        SoftwareReport,
    )
    from snakemake_interface_software_deployment_plugins.settings import CommonSettings, SoftwareDeploymentSettingsBase
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    raise ImportError(
        f"hpcc's plugin for Snakemake needs the Python package {missing}, which is not installed: "
        "pip install 'hpcc[snakemake-plugin]'"
    ) from error

import os
import platform
import shlex
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Self

import hpcc
from snakemake_software_deployment_plugin_hpcc import images
from snakemake_software_deployment_plugin_hpcc.command import bind, mount, shell_line

common_settings = CommonSettings(provides="hpcc")

_FLAGS = {  # of an EnvSpec, and where that does not say, of the settings
    "compat": "as Docker does: a clean environment, an empty home, a writable root that is discarded",
    "contain": "an empty home and /tmp, a minimal /dev",
    "cleanenv": "leave the host's variables out",
    "nv": "NVIDIA's GPUs, libraries and programs of the host",
    "rocm": "the same of AMD's ROCm",
}


def _flag(name: str) -> Any:
    return field(default=False, metadata={"help": f"Every image: {_FLAGS[name]}."})


@dataclass
class Settings(SoftwareDeploymentSettingsBase):
    """`--sdm-hpcc-…` of Snakemake: for all images, where a rule's own `hpcc(…)` says nothing else."""

    compat: bool = _flag("compat")
    contain: bool = _flag("contain")
    cleanenv: bool = _flag("cleanenv")
    nv: bool = _flag("nv")
    rocm: bool = _flag("rocm")
    binds: list[str] = field(
        default_factory=list,
        metadata={"help": "Host paths for each image, beside a rule's own: SRC[:DEST[:ro]].", "nargs": "+"},
    )
    args: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "More options of `hpcc exec`, split as a shell splits words."}
    )
    pull: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "When a tag is looked up again; by default as hpcc is set up.",
            "choices": ["missing", "newer", "always", "never"],
        },
    )
    skip_cache: bool = field(
        default=False, metadata={"help": "Keep no copies of images in Snakemake's cache: hpcc's own cache has them."}
    )


@dataclass(eq=False)
class EnvSpec(EnvSpecBase):
    """What a rule asks for: `image_uri` is docker://…, or the path of a SIF, a squashfs file or a directory.

    binds: SRC[:DEST[:ro]], each one bind, whatever commas it has. env: variables in the image, each value exactly.
    compat, contain, cleanenv, nv, rocm: None leaves it to the settings. args: more options of `hpcc exec`; a string is
    split as a shell does. All are kept so that they can be hashed: env as sorted pairs.
    """

    image_uri: str
    binds: Sequence[str] = ()
    env: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    nv: bool | None = None
    rocm: bool | None = None
    contain: bool | None = None
    compat: bool | None = None
    cleanenv: bool | None = None
    args: Sequence[str] | str = ()

    def __post_init__(self) -> None:
        self.image_uri = os.fspath(self.image_uri)
        self.binds = (self.binds,) if isinstance(self.binds, str) else tuple(map(os.fspath, self.binds))
        pairs = self.env.items() if isinstance(self.env, Mapping) else self.env
        self.env = tuple(sorted((str(name), str(value)) for name, value in pairs))
        self.args = tuple(shlex.split(self.args)) if isinstance(self.args, str) else tuple(map(str, self.args))

    @classmethod
    def identity_attributes(cls) -> Iterable[str]:
        return ("image_uri", "binds", "env", *_FLAGS, "args")

    @classmethod
    def source_path_attributes(cls) -> Iterable[str]:
        return ()

    def _modify_attributes(self, attribute_method: str, modify_func: Callable[[Any], Any]) -> Self:
        """Snakemake fills wildcards in with this: into each text, wherever it stands, and into nothing else."""

        def each(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(each(item) for item in value)
            return value if isinstance(value, bool) else modify_func(value)

        return super()._modify_attributes(attribute_method, each)  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self.image_uri


class Env(PinnableEnvBase, CacheableEnvBase, DeployableEnvBase, EnvBase):
    """An image and how a job's command gets into it."""

    spec: EnvSpec
    settings: Settings

    def __init__(self, *args: Any, **values: Any) -> None:
        if len(args) < 6:
            values.setdefault("envvars", frozenset())  # which the first cores with such plugins leave out
        super().__init__(*args, **values)

    def __post_init__(self) -> None:
        self.settings = self.settings or Settings()
        self._remote = images.is_remote(self.spec.image_uri)

    def _settings(self) -> hpcc.Settings:
        return images.settings_with(self.settings.pull)

    def _reference(self) -> Any:
        return images.known(self.spec.image_uri, self.pinfile, self._settings())

    # -- running ------------------------------------------------------------------------------------------------

    @property
    def image_path(self) -> str:
        """What jobs execute: always something on this host."""
        return str(self.deployment_path) if self._remote else os.path.abspath(self.spec.image_uri)

    def decorate_shellcmd(self, cmd: str) -> str:
        flags = {name: self._flag(name) for name in _FLAGS}
        given = [*shlex.split(self.settings.args or ""), *self.spec.args]
        with images.explained():
            return shell_line(
                self.image_path,
                [self.shell_executable.executable, *self.shell_executable.args, self.shell_executable.command_arg],
                cmd,
                options={
                    **flags,
                    "mount": [mount(path) for path in self._mountpoints()],
                    "bind": [bind(text) for text in (*self.settings.binds, *self.spec.binds)],
                },
                args=given,
                env=tuple(self.spec.env),  # type: ignore[arg-type]
                passed=sorted(name for name in self.envvars if name in os.environ),
            )

    def _flag(self, name: str) -> bool:
        said = getattr(self.spec, name)
        return bool(getattr(self.settings, name) if said is None else said)

    def _mountpoints(self) -> list[str]:
        """What Snakemake wants seen in the image, but not the standard library of its own Python, which it lists among
        its search paths: the image's Python would run with it.
        """
        library = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
        library |= {os.path.join(path, "lib-dynload") for path in library}
        wanted = dict.fromkeys(map(str, (*self.mountpoints, self.tempdir.absolute())))
        return [path for path in wanted if path not in library and os.path.exists(path)]

    def contains_executable(self, executable: str) -> bool:
        line = self.decorate_shellcmd(f"command -v {shlex.quote(executable)} >/dev/null")
        return bool(self.run_cmd(line).returncode == 0)

    # -- what it is ---------------------------------------------------------------------------------------------

    def is_deployable(self) -> bool:
        return self._remote

    def is_pinnable(self) -> bool:
        return self._remote

    def is_cacheable(self) -> bool:
        return self._remote and not self.settings.skip_cache

    def record_hash(self, hash_object: Any) -> None:
        """By the image alone: a bind or a variable more is no reason to run a job again."""
        said = self.spec.image_uri
        if not self._remote:
            with images.explained():
                said += f" {images.describe(self.image_path)}"
        hash_object.update(said.encode())

    def __eq__(self, other: object) -> bool:
        """Snakemake takes equal ones for each other, so that they must run alike too."""
        return bool(super().__eq__(other)) and isinstance(other, Env) and all(
            getattr(self.spec, name) == getattr(other.spec, name) for name in self.spec.identity_attributes()
        )  # fmt: skip

    def __hash__(self) -> int:
        return int(super().__hash__())

    def report_software(self) -> Iterable[SoftwareReport]:
        with images.explained():
            if not self._remote:
                return [SoftwareReport(name=self.spec.image_uri, version=images.describe(self.image_path))]
            reference = self._reference()
            digest = str(reference.digest or "")
            if not digest and self.deployment_path.exists():
                digest = images.describe(self.image_path)
            return [SoftwareReport(name=str(reference._replace(digest=None)), version=digest or None)]

    # -- pin, cache, deploy -------------------------------------------------------------------------------------

    @classmethod
    def pinfile_extension(cls) -> str:
        return ".pin.txt"

    async def pin(self) -> None:
        """Have the tag's digest in the pinfile: by one HEAD, if nobody knows it. Atomic; a pin that is there stays."""
        with images.explained(), images.interruptible():
            images.pin(self.spec.image_uri, self.pinfile, self._settings())
        self.clear_hashes()  # a deployment is of one digest

    async def get_cache_assets(self) -> Iterable[str]:
        with images.explained():
            name = images.asset_name(self._reference())
        return (name, name + images.CHECKSUM)

    async def cache_asset(self, asset: str, to_path: Path) -> None:
        """Write the image, or its checksum, to `to_path`. Atomic."""
        with images.explained(), images.interruptible():
            name = asset.removesuffix(images.CHECKSUM)
            if asset == name:
                to_path.unlink(missing_ok=True)  # an empty file, which would look like half an image
                hpcc.place(self._pinned_uri(), str(to_path), link=False, replace=True, **self._asking())
                return
            image = self.get_cache_asset_path(name)
            if not image.exists():
                image = Path(hpcc.open_image(self._pinned_uri(), self._settings(), progress=images.TOLD).path)
            images.write_checksum(image, name, to_path)

    def is_deployment_path_portable(self) -> bool:
        return True

    def record_deployment_hash(self, hash_object: Any) -> None:
        """By what is executed: an image for one architecture, with the digest as far as it is pinned."""
        with images.explained():
            hash_object.update(f"{self._pinned_uri()} {platform.machine()}".encode())

    async def deploy(self) -> None:
        """Have the image at the deployment path: from Snakemake's cache, else from hpcc's or its registry. Atomic."""
        with images.explained(), images.interruptible():
            self.deployment_path.parent.mkdir(parents=True, exist_ok=True)
            asset = self.get_cache_asset_path(images.asset_name(self._reference()))
            if self.is_cacheable() and asset.exists() and images.is_sound(asset):
                images.deploy_asset(asset, self.deployment_path)
            else:
                hpcc.place(self._pinned_uri(), str(self.deployment_path), replace=True, **self._asking())

    def remove(self) -> None:
        self.deployment_path.unlink(missing_ok=True)

    def _pinned_uri(self) -> str:
        return str(self._reference())

    def _asking(self) -> dict[str, Any]:
        return {"settings": self._settings(), "progress": images.TOLD}
