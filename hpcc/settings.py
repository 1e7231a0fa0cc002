"""Settings: where each comes from, and which a site has locked.

    environment (HPCC_X, then APPTAINER_X, then SINGULARITY_X)
      over $XDG_CONFIG_HOME/hpcc/config.toml
      over /etc/hpcc/config.toml
      over the default

A key in the site file's [locked] table is final: an environment variable or user file that sets it is ignored,
and `hpcc config` says so. Both files hold `key = value` with the names of `KEYS`. What all of them say of bind_paths
adds up, the site's first.
"""

from __future__ import annotations

import os

from hpcc.errors import SettingsError
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from hpcc.siteprofiles import Profile
    from hpcc.siterules import BindRule


SITE_FILE = "/etc/hpcc/config.toml"
LOCKED = ", locked"  # behind the origin of a setting
SMALL = 20 << 30  # bytes free under $HOME below which a cache keeps neither blobs nor packs


def _path(text: Any) -> str:
    if not isinstance(text, str) or not text:
        raise ValueError("a path")
    return os.path.abspath(os.path.expanduser(text))


def _paths(value: Any) -> tuple[str, ...]:
    items = value.split(":") if isinstance(value, str) else value
    return tuple(_path(item) for item in items if item)


def _texts(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError("a list of strings")
    return tuple(item.strip() for item in items if item.strip())


def _bind_paths(value: Any) -> tuple[str | BindRule, ...]:
    """Strings, and in a file tables too (siterules.py)."""
    if not isinstance(value, list) or not any(isinstance(item, dict) for item in value):
        return _texts(value)
    from hpcc.siterules import parse_rule

    return tuple(
        entry for item in value for entry in ([parse_rule(item)] if isinstance(item, dict) else _texts([item]))
    )


def _mirrors(value: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Mirrors by prefix, in order: a table of lists, or PREFIX=MIRROR,PREFIX=MIRROR. A prefix may have none."""
    pairs = [item.partition("=") for item in _texts(value)] if isinstance(value, str) else []
    if not all(prefix.strip() and equals for prefix, equals, _ in pairs) or not isinstance(value, str | dict):
        raise ValueError("mirrors of registries, as docker.io=mirror.example:5000,quay.io=mirror.example/quay")
    found: dict[str, tuple[str, ...]] = {}
    for prefix, mirrors in value.items() if isinstance(value, dict) else ((pair[0].strip(), pair[2]) for pair in pairs):
        if isinstance(mirrors, dict):
            raise ValueError("""names with dots in quotes: "docker.io" = ["mirror.example"]""")
        found[prefix] = (*found.get(prefix, ()), *_texts(mirrors))
    return tuple(found.items())


def _mpi_profiles(value: Any) -> tuple[Profile, ...]:
    from hpcc.siteprofiles import parse_profiles

    return parse_profiles(value)


def _float(value: Any, what: str) -> float:
    try:
        return float(value)
    except (ValueError, TypeError):
        raise ValueError(what) from None


def _seconds(value: Any) -> float:
    number = _float(value, "seconds, 0 or more")
    if not 0 <= number < 1e10:
        raise ValueError("seconds, 0 or more")
    return number


def _days(value: Any) -> float:
    number = _float(value, "days, 0 or more")
    if isinstance(value, bool) or not 0 <= number < 1e5:
        raise ValueError("days, 0 or more")
    return number


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("true or false")


def _flag_or_auto(value: Any) -> bool | str:
    try:
        return "auto" if isinstance(value, str) and value.lower() == "auto" else _flag(value)
    except ValueError:
        raise ValueError("true, false or auto") from None


def _number(least: int, most: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = int(value)
        if isinstance(value, bool) or not least <= number <= most:
            raise ValueError(f"a number from {least} to {most}")
        return number

    return parse


def _size(value: Any) -> int:
    """Bytes: a number, or one with a unit, 20GB or 1.5 TB (powers of 1000)."""
    text = str(value).strip().upper().removesuffix("B").strip()
    power = "KMGT".find(text[-1:]) + 1 if text else 0
    number = _float(text[:-1] if power else text, "bytes, or a size such as 20GB")
    if isinstance(value, bool) or not 0 <= number * 1000**power < 1 << 63:
        raise ValueError("bytes, or a size such as 20GB")
    return int(number * 1000**power)


def _choice(*names: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError(" | ".join(names))
        return str(value)

    return parse


def _url(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith(("https://", "http://")) or not value.isprintable():
        raise ValueError("an address that begins with https:// or http://")
    return value.rstrip("/")


COMPRESSIONS = {"gzip": 12, "zstd": 22, "lz4": 0, "xz": 0}
"""Formats of the blocks of an image, and the highest level that each has; see compressors.py."""


def _compression(value: Any) -> str:
    """NAME or NAME:LEVEL, in one form: no leading zeros."""
    name, colon, level = str(value).strip().lower().partition(":")
    most = COMPRESSIONS.get(name, 0)
    if name not in COMPRESSIONS or (colon and not (level.isdecimal() and level.isascii() and 1 <= int(level) <= most)):
        forms = [name if not most else f"{name}[:1-{most}]" for name, most in COMPRESSIONS.items()]
        raise ValueError(f"one of {', '.join(forms)}")
    return f"{name}:{int(level)}" if colon else name


class Key(NamedTuple):
    parse: Callable[[Any], Any]
    variables: tuple[str, ...]  # beside HPCC_<NAME>, which comes first
    help: str
    adds: bool = False  # what the site, the user and the environment say counts together


KEYS: Mapping[str, Key] = {
    "cache_dir": Key(_path, (), "the shared cache; APPTAINER_CACHEDIR and SINGULARITY_CACHEDIR name its parent"),
    "private_dir": Key(_path, (), "cache for what only credentials could pull"),
    "node_dir": Key(_path, (), "this node's own disk: unpacked images, held mounts"),
    "node_days": Key(_days, (), "days after which what nobody used goes from node_dir; 0: never"),
    "node_size": Key(_size, (), "what unpacked images may take in node_dir, such as 50GB; 0: as much as there is"),
    "stage": Key(
        _choice("shared", "node", "auto"),
        (),
        "run images from where they are (shared), from a copy on the node, or auto: from one of what nodes share",
    ),
    "library_path": Key(_paths, (), "read-only caches, looked up first, separated by colons"),
    "trusted_users": Key(_texts, (), "users whose cached images are run, beside oneself, root and the cache's owner"),
    "trusted_groups": Key(_texts, (), "groups whose members' cached images are run"),
    "pull": Key(
        _choice("missing", "newer", "always", "never"),
        (),
        "when a tag is looked up again: newer, once the ttl is over; always; missing, only what no cache has; never",
    ),
    "offline": Key(_flag, (), "open no connection: use what the caches have, whatever its age"),
    "frozen": Key(_flag, (), "take only images whose digest is given, or stands in hpcc.lock"),
    "ttl": Key(_seconds, (), "seconds for which a tag is believed without asking the registry"),
    "lock": Key(
        _choice("auto", "flock", "lease"),
        (),
        "how processes find out that somebody else works: flock, lease, or auto, by the filesystem",
    ),
    "lease": Key(_seconds, (), "seconds after which a lease that nobody renews is taken over"),
    "heartbeat": Key(_seconds, (), "seconds between two renewals of a lease"),
    "lock_wait": Key(_seconds, (), "seconds to wait for somebody else's pull"),
    "disable_cache": Key(
        _flag,
        ("APPTAINER_DISABLE_CACHE", "SINGULARITY_DISABLE_CACHE"),
        "pull images for one command, and keep nothing",
    ),
    "keep_blobs": Key(_flag, (), "keep layers as the registry sent them"),
    "keep_packs": Key(_flag, (), "keep converted layers, so that the next image that shares them is quick"),
    "compression": Key(
        _compression, (), "of the images that are made: gzip (default), gzip:1-12, zstd[:1-22], lz4 or xz"
    ),
    "gc_days": Key(_days, (), "hpcc cache gc removes images that were not used for so many days; 0: none"),
    "gc_size": Key(_size, (), "hpcc cache gc brings the cache down to this, such as 500GB; 0: any size"),
    "gc_grace": Key(_days, (), "days for which hpcc cache gc spares what was used, and keeps what it took away"),
    "scratch_dirs": Key(_texts, (), "variables that name roomier places than the home directory, by commas"),
    "bind_paths": Key(
        _bind_paths,
        ("APPTAINER_BIND", "SINGULARITY_BIND"),
        "host paths bound into each container, by commas; in a file also with conditions, see the how-to",
        adds=True,
    ),
    "nv": Key(
        _flag_or_auto,
        ("APPTAINER_NV", "SINGULARITY_NV"),
        "NVIDIA's GPUs in each container, as by --nv; auto: where the job was given some",
    ),
    "rocm": Key(
        _flag_or_auto, ("APPTAINER_ROCM", "SINGULARITY_ROCM"), "AMD's GPUs in each container, as by --rocm, or auto"
    ),
    "cdi_dirs": Key(_paths, (), "where the CDI specifications of --device and --nv stand; a later one wins"),
    "hold_idle": Key(_seconds, (), "seconds for which a mounted image is held for the next run; 0 holds none"),
    "backend": Key(
        _choice("auto", "native", "apptainer"),
        (),
        "who runs containers: native, hpcc; apptainer, the site's own; auto, that where hpcc cannot",
    ),
    "rootfs": Key(
        _choice("auto", "kernel", "fuse", "squashfuse", "unpacked"), (), "how images are mounted; see hpcc doctor"
    ),
    "writable": Key(
        _choice("auto", "overlay", "fuse-overlayfs", "nested", "unpacked", "copy"),
        (),
        "how --writable-tmpfs is made; see hpcc doctor",
    ),
    "squashfuse": Key(_path, (), "the squashfuse_ll to use, where PATH has none or an old one"),
    "nohttps": Key(_flag, ("APPTAINER_NOHTTPS", "SINGULARITY_NOHTTPS"), "talk plain http to every registry"),
    "insecure": Key(_texts, (), "registries (host[:port]) whose certificate is not checked, or that have none"),
    "mirrors": Key(_mirrors, (), "where to ask first: docker.io=mirror.example:5000,quay.io=mirror.example/quay"),
    "ca_file": Key(_path, (), "certificates (PEM) that are trusted beside the system's, as those of a site's own CA"),
    "downloads": Key(_number(1, 64), (), "layers that are fetched at a time"),
    "share": Key(_texts, (), "images for the shared cache though only credentials can pull them, as nvcr.io/nvidia/*"),
    "library_url": Key(
        _url, ("APPTAINER_LIBRARY", "SINGULARITY_LIBRARY"), "where library:// leads, such as https://library.example"
    ),
    "allowed_registries": Key(_texts, (), "the only images that may be used, as quay.io or docker.io/library/*"),
    "signed": Key(_texts, (), "images that must be signed by one of signature_keys, as quay.io/site/* or docker.io"),
    "signature_keys": Key(_paths, (), "public keys (PEM), as cosign.pub; by colons, or a list in a file"),
    "mpi_profiles": Key(
        _mpi_profiles, (), "the host's MPI and fabric libraries, as --mpi brings them; tables in a file", adds=True
    ),
    "audit": Key(_flag, (), "a line in the system's log (authpriv) for each container that starts"),
    "max_layer": Key(
        _size, (), "the largest layer that is converted, unpacked, such as 200GB: a few MB can unpack to more; 0: any"
    ),
    "max_image": Key(_size, (), "the largest image that is pulled, as its layers are sent, such as 20GB; 0: any"),
}


class Settings:
    """All settings of one invocation, frozen. `origins[name]` says where each value came from."""

    __slots__ = (*KEYS, "environ", "origins")

    cache_dir: str
    private_dir: str
    node_dir: str
    node_days: float
    node_size: int
    stage: str
    library_path: tuple[str, ...]
    trusted_users: tuple[str, ...]
    trusted_groups: tuple[str, ...]
    pull: str
    offline: bool
    frozen: bool
    ttl: float
    lock: str
    lease: float
    heartbeat: float
    lock_wait: float
    disable_cache: bool
    keep_blobs: bool
    keep_packs: bool
    compression: str
    gc_days: float
    gc_size: int
    gc_grace: float
    scratch_dirs: tuple[str, ...]
    bind_paths: tuple[str | BindRule, ...]
    nv: bool | str  # or auto
    rocm: bool | str
    cdi_dirs: tuple[str, ...]
    hold_idle: float
    backend: str
    rootfs: str
    writable: str
    squashfuse: str
    nohttps: bool
    insecure: tuple[str, ...]
    mirrors: tuple[tuple[str, tuple[str, ...]], ...]
    ca_file: str
    downloads: int
    share: tuple[str, ...]
    library_url: str
    allowed_registries: tuple[str, ...]
    signed: tuple[str, ...]
    signature_keys: tuple[str, ...]
    mpi_profiles: tuple[Profile, ...]
    audit: bool
    max_layer: int
    max_image: int
    environ: Mapping[str, str]
    origins: Mapping[str, str]

    def __init__(self, values: Mapping[str, Any], origins: Mapping[str, str], environ: Mapping[str, str]) -> None:
        for name in KEYS:
            object.__setattr__(self, name, values[name])
        object.__setattr__(self, "origins", origins)
        object.__setattr__(self, "environ", environ)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are frozen; {name} cannot be set")

    def replace(self, **values: Any) -> Settings:
        """These settings with some set by the command line. SettingsError for one that the site has locked."""
        for name in values:
            if self.origins.get(name, "").endswith(LOCKED) and values[name] != getattr(self, name):
                raise SettingsError(
                    f"the setting {name} is locked by {self.origins[name].removesuffix(LOCKED)}",
                    hint=f"It stays as it is; `hpcc config {name}` shows it.",
                )
        origins = {**self.origins, **dict.fromkeys(values, "command line")}
        return Settings({name: values.get(name, getattr(self, name)) for name in KEYS}, origins, self.environ)

    def with_login(self, username: str, password: str) -> Settings:
        """These settings as if HPCC_DOCKER_USERNAME and HPCC_DOCKER_PASSWORD were set. Stored nowhere."""
        login = {"HPCC_DOCKER_USERNAME": username, "HPCC_DOCKER_PASSWORD": password}
        values = {name: getattr(self, name) for name in KEYS}
        return Settings(values, self.origins, {**self.environ, **login})

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None, *, site_file: str = SITE_FILE) -> Settings:
        """Read environment and files. SettingsError names the variable or file and what it should hold."""
        environ = dict(os.environ if environ is None else environ)
        home = environ.get("HOME") or "/"
        user_file = os.path.join(environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "hpcc/config.toml")
        site, locked = _read_file(site_file)
        user, _ = _read_file(user_file)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for name, key in KEYS.items():
            if name in locked:
                values[name], origins[name] = _parse(key, locked[name], f"{site_file}, {name}"), site_file + LOCKED
                continue
            variable = _variable(environ, name, key)
            if key.adds:
                given = [(site_file, site[name])] if name in site else []
                given += [(user_file, user[name])] if name in user else []
                given += [(variable, environ[variable])] if variable is not None else []
                if given:
                    parts = [
                        _parse(key, value, origin if origin == variable else f"{origin}, {name}")
                        for origin, value in given
                    ]
                    values[name] = tuple(entry for part in parts for entry in part)
                    origins[name] = " and ".join(origin for origin, _ in given)
            elif variable is not None:
                values[name], origins[name] = _parse(key, environ[variable], variable), variable
            elif name == "cache_dir" and (parent := _first(environ, ("APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR"))):
                values[name], origins[name] = os.path.join(_path(environ[parent]), "hpcc"), parent
            elif name in user:
                values[name], origins[name] = _parse(key, user[name], f"{user_file}, {name}"), user_file
            elif name in site:
                values[name], origins[name] = _parse(key, site[name], f"{site_file}, {name}"), site_file
        for name, value in _defaults(environ, home, values).items():
            if name not in values:
                values[name], origins[name] = value, "default"
        return cls(values, origins, environ)


def _defaults(environ: Mapping[str, str], home: str, values: Mapping[str, Any]) -> dict[str, Any]:
    xdg = environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    cache_dir = values.get("cache_dir") or os.path.join(xdg, "hpcc")
    keep = not _is_small_home(cache_dir, home)
    return {
        "cache_dir": cache_dir,
        "private_dir": os.path.join(xdg, "hpcc-private"),
        "node_dir": f"/var/tmp/hpcc-{os.getuid()}",
        "node_days": 14.0,
        "node_size": 0,
        "stage": "shared",
        "library_path": (),
        "trusted_users": (),
        "trusted_groups": (),
        "pull": "newer",
        "offline": False,
        "frozen": False,
        "ttl": 3600.0,
        "lock": "auto",
        "lease": 60.0,
        "heartbeat": 15.0,
        "lock_wait": 3600.0,
        "disable_cache": False,
        "keep_blobs": keep,
        "keep_packs": keep,
        "compression": "gzip",
        "gc_days": 0.0,
        "gc_size": 0,
        "gc_grace": 8.0,  # above the longest walltime of most sites
        "scratch_dirs": ("SCRATCH", "WORK"),
        "bind_paths": (),
        "nv": False,
        "rocm": False,
        "cdi_dirs": ("/etc/cdi", "/var/run/cdi"),  # SPEC.md of CDI, and every other runtime
        "hold_idle": 20.0,
        "backend": "auto",
        "rootfs": "auto",
        "writable": "auto",
        "squashfuse": "",
        "nohttps": False,
        "insecure": (),
        "mirrors": (),
        "ca_file": "",
        "downloads": 4,
        "share": (),
        "library_url": "https://library.sylabs.io",
        "allowed_registries": (),
        "signed": (),
        "signature_keys": (),
        "mpi_profiles": (),
        "audit": False,
        "max_layer": 200 * 10**9,
        "max_image": 0,
    }


def _is_small_home(cache_dir: str, home: str) -> bool:
    if not f"{cache_dir}/".startswith(home.rstrip("/") + "/"):
        return False
    try:
        free = os.statvfs(home)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < SMALL


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if environ.get(name)), None)


def _variable(environ: Mapping[str, str], name: str, key: Key) -> str | None:
    return _first(environ, (f"HPCC_{name.upper()}", *key.variables))


def _parse(key: Key, value: Any, origin: str) -> Any:
    try:
        return key.parse(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise SettingsError(f"{origin}: {str(value)[:100]!r} is not what belongs there: {error}") from None


def _read_file(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, locked settings) of a file; both empty where there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}, {}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", hint="hpcc must be able to read it.") from None
    import tomllib

    try:
        values = tomllib.loads(data.decode())
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    locked = values.pop("locked", {})
    if not isinstance(locked, dict):
        raise SettingsError(f"{path}: locked must be a table")
    for name in [*values, *locked]:
        if name not in KEYS:
            raise SettingsError(f"{path}: unknown setting {name!r}", hint="`hpcc config` lists all settings.")
    return values, locked
