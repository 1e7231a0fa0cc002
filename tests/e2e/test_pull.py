"""hpcc pull, and the first run of an image, by the command line: files, requests, equal bytes everywhere, bad input."""

import gzip
import hashlib
import json
import os
import platform
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
from tests.support.images import awkward_layer, busybox, layer
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import config_of, noise
from tests.support.real import need

NAME = "lab/tools"


def _member(kind: bytes, mode: int, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.mode, info.linkname = kind, mode, target
    return info


def _layers() -> list[bytes]:
    """A static busybox with a few names, and 3 MB that do not compress."""
    directory = (_member(tarfile.DIRTYPE, 0o755), b"")
    base = {"bin": directory, "bin/busybox": (_member(tarfile.REGTYPE, 0o755), busybox())}
    for name in ("sh", "cat", "echo", "true", "ls", "sleep"):
        base[f"bin/{name}"] = (_member(tarfile.SYMTYPE, 0o777, "busybox"), b"")
    for name in ("etc", "tmp", "proc", "dev", "sys", "root", "var", "var/tmp"):
        base[name] = directory
    return [layer(base), layer({"etc/greeting": (_member(tarfile.REGTYPE, 0o644), b"hello from the image\n"),
                                "noise": (_member(tarfile.REGTYPE, 0o644), noise(3_000_000))})]  # fmt: skip


LAYERS = _layers()
CONFIG = config_of(LAYERS, config={"Env": ["PATH=/bin"], "Entrypoint": ["/bin/echo", "says"], "Cmd": ["hi"]})


class Puller:
    """hpcc as one person, and a registry that has docker://HOST/lab/tools:1.4."""

    def __init__(self, person: Person, installed: Installation, registry: FakeRegistry) -> None:
        self.person, self.installed, self.registry = person, installed, registry
        self.uri = f"docker://{registry.host}/{NAME}:1.4"
        self.env = {"HPCC_INSECURE": registry.host}
        self.cache = person.home / "cache"

    def __call__(self, *argv: object, env: dict[str, str] | None = None, **options: Any) -> Any:
        words = [self.installed.hpcc, *map(str, argv)]
        return self.person.run(words, env={**self.env, **(env or {})}, **options)

    def path(self, name: str) -> Path:
        return self.person.home / name

    def objects(self) -> dict[str, str]:
        """Relative path -> SHA-256 of each file of the cache, without locks and notes of how registries answer."""
        return {
            str(path.relative_to(self.cache)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.cache.rglob("*"))
            if path.is_file() and path.relative_to(self.cache).parts[0] not in ("locks", "limits")
        }


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=100) as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        yield registry


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation, registry: FakeRegistry) -> Puller:
    return Puller(runs_as, installed, registry)


# -- the file ------------------------------------------------------------------------------------------------------


def test_names(hpcc: Puller) -> None:
    (hpcc.path("sub")).mkdir()
    hpcc.person.at(hpcc.path("sub")) if os.geteuid() == 0 else None
    digest = next(tag for _, tag in hpcc.registry.manifests if tag.startswith("sha256:"))
    pinned = f"docker://{hpcc.registry.host}/{NAME}@{digest}"
    for argv, name in (
        ([hpcc.uri], "tools_1.4.sif"),
        ([pinned], f"tools_sha256.{digest.partition(':')[2]}.sif"),
        (["out.sif", hpcc.uri], "out.sif"),
        ([hpcc.path("sub/absolute.sif"), hpcc.uri], "sub/absolute.sif"),
        (["--name", "0123abcd.simg", hpcc.uri], "0123abcd.simg"),
        (["--dir", "sub", hpcc.uri], "sub/tools_1.4.sif"),
        (["--dir", "sub", "--name", "named.sif", hpcc.uri], "sub/named.sif"),
        (["--dir", hpcc.path("sub"), "second.sif", hpcc.uri], "sub/second.sif"),
    ):
        before = set(hpcc.person.home.rglob("*.s*i*"))
        done = hpcc("pull", *argv)
        assert done.returncode == 0, done.stderr
        made = {path for path in set(hpcc.person.home.rglob("*.s*i*")) - before if hpcc.cache not in path.parents}
        assert made == {hpcc.path(name)}, argv
        assert hpcc("exec", hpcc.path(name), "cat", "/etc/greeting").stdout == "hello from the image\n"


def test_tag_is_latest_by_default(hpcc: Puller) -> None:
    hpcc.registry.add_image(NAME, "latest", LAYERS, CONFIG)
    assert hpcc("pull", f"docker://{hpcc.registry.host}/{NAME}").returncode == 0
    assert hpcc.path("tools_latest.sif").exists()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o000, 0o755)])
def test_mode_is_0755_less_umask_and_it_is_nobodys_hard_link(hpcc: Puller, umask: int, mode: int) -> None:
    script = f'umask {umask:o}; exec "$0" "$@"'
    argv = ["sh", "-c", script, hpcc.installed.hpcc, "pull", "mine.sif", hpcc.uri]
    assert hpcc.person.run(argv, env=hpcc.env).returncode == 0
    status = hpcc.path("mine.sif").stat()
    assert stat.S_IMODE(status.st_mode) == mode
    assert status.st_nlink == 1 and status.st_uid == hpcc.person.uid
    (cached,) = (hpcc.cache / "sif-v1").iterdir()
    assert cached.read_bytes() == hpcc.path("mine.sif").read_bytes()
    with open(hpcc.path("mine.sif"), "r+b") as file:  # the user's file to write to; the cache does not notice
        file.write(b"x")
    assert cached.read_bytes()[:1] == b"#"


def test_a_file_that_is_there(hpcc: Puller) -> None:
    target = hpcc.path("tools_1.4.sif")
    target.write_text("precious\n")
    done = hpcc("pull", hpcc.uri)
    assert done.returncode == 255 and "there already" in done.stderr and "--force" in done.stderr
    assert target.read_text() == "precious\n" and not hpcc.registry.requests  # refused before anybody was asked
    assert hpcc("pull", "--force", hpcc.uri).returncode == 0
    assert target.read_bytes()[:2] == b"#!" and stat.S_IMODE(target.stat().st_mode) == 0o755
    target.unlink()
    target.symlink_to("/nonexistent")
    assert hpcc("pull", hpcc.uri).returncode == 255
    assert target.is_symlink()
    assert [path.name for path in hpcc.person.home.iterdir() if path.name.startswith(".tools")] == []


def test_a_directory_that_is_not_there(hpcc: Puller) -> None:
    done = hpcc("pull", "--dir", "no/such", hpcc.uri)
    assert done.returncode == 255 and "no/such" in done.stderr and "HINT" in done.stderr
    done = hpcc("pull", "no/such/x.sif", hpcc.uri)
    assert done.returncode == 255 and "no/such" in done.stderr


def test_a_second_pull_sends_nothing(hpcc: Puller) -> None:
    first = hpcc("pull", "one.sif", hpcc.uri)
    assert first.returncode == 0 and "Using cached" not in first.stderr
    asked = list(hpcc.registry.requests)
    second = hpcc("pull", "two.sif", hpcc.uri)
    assert second.returncode == 0 and "INFO:    Using cached SIF image" in second.stderr
    assert hpcc("exec", hpcc.uri, "cat", "/etc/greeting").stdout == "hello from the image\n"
    assert hpcc("run", hpcc.uri).stdout == "says hi\n"
    assert hpcc.registry.requests == asked
    assert hpcc.path("one.sif").read_bytes() == hpcc.path("two.sif").read_bytes()


def test_quiet_says_nothing_and_a_log_has_lines(hpcc: Puller) -> None:
    done = hpcc("--quiet", "pull", "one.sif", hpcc.uri)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    hpcc.registry.add_image(NAME, "2", LAYERS[:1], config_of(LAYERS[:1]))
    done = hpcc("pull", f"docker://{hpcc.registry.host}/{NAME}:2")
    assert done.returncode == 0 and done.stdout == "" and "\r" not in done.stderr and "\x1b" not in done.stderr


# -- many at once ----------------------------------------------------------------------------------------------------


def test_ten_at_once_on_an_empty_cache(hpcc: Puller) -> None:
    """One conversion: one SIF, one pack for each layer; at most two manifest GETs, each blob once."""
    argv = [hpcc.installed.hpcc, "exec", hpcc.uri, "cat", "/etc/greeting"]
    runs = [
        hpcc.person.popen(argv, env=hpcc.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL)
        for _ in range(10)
    ]  # fmt: skip
    ended = [(run.communicate(timeout=120), run.returncode) for run in runs]
    for (out, err), status in ended:
        assert (status, out) == (0, "hello from the image\n"), err
    assert hpcc.registry.counts["manifest_get"] <= 2
    blobs = [path for method, path in hpcc.registry.requests if method == "GET" and "/blobs/" in path]
    assert len(blobs) == len(set(blobs)) == len(LAYERS) + 1  # and the config
    assert len(list((hpcc.cache / "sif-v1").iterdir())) == 1
    assert len(list((hpcc.cache / "packs-v1").iterdir())) == len(LAYERS)
    assert list((hpcc.cache / "tmp").iterdir()) == []


# -- the same bytes ----------------------------------------------------------------------------------------------------

LEVEL_3 = """
import hashlib, sys
from isal import isal_zlib
sys.path.append(sys.argv[1])
from tests.integration.test_determinism import samples
print(hashlib.sha256(b"".join(isal_zlib.compress(data, 3) for data in samples())).hexdigest())
"""


@pytest.mark.root
@pytest.mark.skipif(platform.machine() != "x86_64", reason="CPU models of x86_64 are compared")
def test_the_same_image_is_the_same_file_for_everybody_and_on_an_old_cpu(
    installed: Installation, registry: FakeRegistry, open_dir: Path, plain_user: Person
) -> None:
    from tests.integration import test_determinism
    from tests.support.people import myself

    qemu = [need("qemu-x86_64"), "-cpu", "Nehalem"]
    assert test_determinism.run(LEVEL_3) != test_determinism.emulated(LEVEL_3), (
        "isal's level 3 gives the same bytes there, so that is no other CPU, and this test would find nothing out"
    )
    layers = [*LAYERS, awkward_layer()]
    registry.add_image(NAME, "all", layers, config_of(layers, config={"Env": ["PATH=/bin"]}), index=True)
    uri = f"docker://{registry.host}/{NAME}:all"
    (site,) = installed.venv.glob("lib/python3*/site-packages")
    real = os.path.realpath(installed.python)
    emulated = [*qemu, real, "-m", "hpcc"]  # in one process: an exec would leave the emulator
    digests = {}
    for who, user in (("root", None), ("user", plain_user)):
        for where, program in (("natively", [str(installed.hpcc)]), ("on Nehalem", emulated)):
            home = open_dir / f"{who}-{where[:2]}"
            home.mkdir(mode=0o700)
            person = user.at(home) if user else myself(home)
            env = {"HPCC_INSECURE": registry.host}
            if program is emulated:
                env |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
            done = person.run([*program, "pull", "it.sif", uri], env=env, timeout=500)
            assert done.returncode == 0, done.stderr
            digests[who, where] = hashlib.sha256((home / "it.sif").read_bytes()).hexdigest()
    assert len(set(digests.values())) == 1, digests


def test_by_tag_by_digest_and_from_packs_it_is_the_same_file(hpcc: Puller) -> None:
    manifests = {tag: json.loads(data) for (_, tag), (_, data) in hpcc.registry.manifests.items()}
    digest = next(tag for tag, document in manifests.items() if "layers" in document)
    found = set()
    for number, uri in enumerate((hpcc.uri, f"docker://{hpcc.registry.host}/{NAME}@{digest}")):
        for keep in ("true", "false"):
            env = {"HPCC_CACHE_DIR": str(hpcc.path(f"cache-{number}-{keep}")), "HPCC_KEEP_PACKS": keep}
            assert hpcc("pull", "--force", "it.sif", uri, env=env).returncode == 0
            found.add(hashlib.sha256(hpcc.path("it.sif").read_bytes()).hexdigest())
    hpcc.registry.add_image(NAME, "lower", LAYERS[:1], config_of(LAYERS[:1]))
    env = {"HPCC_CACHE_DIR": str(hpcc.path("cache-packs"))}
    assert hpcc("pull", f"docker://{hpcc.registry.host}/{NAME}:lower", env=env).returncode == 0
    assert hpcc("pull", "--force", "it.sif", hpcc.uri, env=env).returncode == 0
    found.add(hashlib.sha256(hpcc.path("it.sif").read_bytes()).hexdigest())
    assert len(found) == 1


# -- bad input ---------------------------------------------------------------------------------------------------------

Break = Callable[[FakeRegistry], None]


def _faults(**faults: Any) -> Break:
    def apply(registry: FakeRegistry) -> None:
        registry.faults = Faults(**faults)

    return apply


def _manifest(data: bytes, media_type: str = "application/vnd.oci.image.manifest.v1+json") -> Break:
    return lambda registry: registry.add_manifest(NAME, "1.4", data, media_type) and None


def _spend(registry: FakeRegistry) -> None:
    registry.quota = registry.used = 3


def _forget_layer(registry: FakeRegistry) -> None:
    del registry.blobs[max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))]


def _outside(registry: FakeRegistry) -> None:
    layers = [layer({"../../outside": (_member(tarfile.REGTYPE, 0o644), b"x")})]
    registry.add_image(NAME, "1.4", layers, config_of(layers))


def _no_tar(registry: FakeRegistry) -> None:
    import gzip

    layers = [gzip.compress(b"no tar at all" * 1000)]
    registry.add_image(NAME, "1.4", layers, config_of(layers))


def _other_platform(registry: FakeRegistry) -> None:
    index = json.loads(registry.manifests[NAME, "1.4"][1])
    index["manifests"] = [entry for entry in index["manifests"] if entry["platform"]["architecture"] == "s390x"]
    registry.add_manifest(NAME, "1.4", json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json")


SCHEMA_1 = json.dumps({"schemaVersion": 1, "name": NAME, "tag": "1.4", "fsLayers": [], "history": []}).encode()
BAD: dict[str, tuple[Break, int, str]] = {
    "404": (lambda registry: registry.manifests.clear(), 255, "there is no image 1.4"),
    "429": (_spend, 75, "429|rate limit|quota"),
    "503": (_faults(unavailable=-1), 75, "503|unavailable|try again"),
    "truncated": (_faults(truncate=-1, no_range=True), 75, ""),
    "altered": (_faults(alter=-1), 255, "sha256"),
    "no-json": (_manifest(b"<html>no manifest</html>"), 255, "JSON|json|manifest"),
    "no-manifest": (_manifest(b"[1, 2]"), 255, "manifest"),
    "schema-1": (_manifest(SCHEMA_1, "application/vnd.docker.distribution.manifest.v1+prettyjws"), 255, "schema"),
    "platform": (_other_platform, 255, "s390x"),
    "missing-layer": (_forget_layer, 255, "sha256"),
    "outside": (_outside, 255, r"\.\."),
    "no-tar": (_no_tar, 255, "tar|layer"),
}


def check_failure(done: Any, status: int, words: str) -> None:
    import re

    assert done.returncode == status, done.stderr
    assert "FATAL:" in done.stderr and "HINT:" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert re.search(words, done.stderr), done.stderr


@pytest.mark.parametrize("what", BAD)
def test_bad_images(hpcc: Puller, what: str) -> None:
    """Said, with what to do; nothing half-written; what was in the cache before is there and works."""
    other = f"docker://{hpcc.registry.host}/other:1"
    small = LAYERS[:1]
    hpcc.registry.add_image("other", "1", small, config_of(small, config={"Env": ["PATH=/bin"]}))
    assert hpcc("exec", other, "true").returncode == 0
    before = hpcc.objects()
    spoil, status, words = BAD[what]
    spoil(hpcc.registry)
    done = hpcc("pull", "it.sif", hpcc.uri)
    check_failure(done, status, words)
    assert not hpcc.path("it.sif").exists()
    assert [path.name for path in hpcc.person.home.iterdir() if path.name.startswith(".it")] == []
    assert list((hpcc.cache / "tmp").iterdir()) == []
    after = hpcc.objects()
    assert {name: after.get(name) for name in before} == before
    assert [name for name in after.keys() - before.keys() if name.startswith("sif-v1/")] == []
    assert hpcc("exec", other, "true").returncode == 0
    check_failure(hpcc("exec", hpcc.uri, "true"), status, words)


def test_it_works_once_the_registry_does(hpcc: Puller) -> None:
    hpcc.registry.faults = Faults(alter=-1)
    assert hpcc("pull", hpcc.uri).returncode == 255
    hpcc.registry.faults = Faults()
    assert hpcc("pull", hpcc.uri).returncode == 0
    assert hpcc("run", hpcc.path("tools_1.4.sif")).stdout == "says hi\n"


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_401_and_403(runs_as: Person, installed: Installation, scheme: str) -> None:
    with FakeRegistry(username="me", password="secret", private=(NAME,), scheme=scheme) as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG)
        hpcc = Puller(runs_as, installed, registry)
        check_failure(hpcc("pull", hpcc.uri), 255, "401|unauthorized|denied|authentication")
        wrong = {"HPCC_DOCKER_USERNAME": "me", "HPCC_DOCKER_PASSWORD": "wrong-one"}
        done = hpcc("pull", hpcc.uri, env=wrong)
        check_failure(done, 255, "401|unauthorized|denied|authentication|password")
        assert "wrong-one" not in done.stderr
        right = {"HPCC_DOCKER_USERNAME": "me", "HPCC_DOCKER_PASSWORD": "secret"}
        assert hpcc("pull", hpcc.uri, env=right).returncode == 0
        assert not list(hpcc.cache.rglob("*.sif")), "what only credentials could pull is not shared"


BAD_URIS = {
    "docker://": "empty|no name|reference|image",
    "docker://UPPER/case": "UPPER|lower",
    "docker://a//b": "a//b",
    "docker://name:bad tag": "bad tag",
    "docker://name@sha256:12": "sha256:12",
    "docker://127.0.0.1:99999/x": "99999",
    "debian:12": "docker://debian:12",
    "ftp://x/y": "ftp",
}


@pytest.mark.parametrize("uri", BAD_URIS)
def test_uris_that_do_not_parse(runs_as: Person, installed: Installation, uri: str) -> None:
    done = runs_as.run([installed.hpcc, "pull", uri])
    check_failure(done, 255, BAD_URIS[uri])
    assert not (runs_as.home / "cache").exists()


def test_unknown_registries(runs_as: Person, installed: Installation) -> None:
    done = runs_as.run([installed.hpcc, "pull", "--no-https", "docker://127.0.0.1:1/x"])
    check_failure(done, 75, "127.0.0.1:1")
    done = runs_as.run([installed.hpcc, "pull", "docker://no-such-host.invalid/x"])
    check_failure(done, 75, "no-such-host.invalid")


def test_plain_http_where_https_was_meant(hpcc: Puller) -> None:
    done = hpcc.person.run([hpcc.installed.hpcc, "pull", hpcc.uri])
    check_failure(done, done.returncode, "http")
    assert done.returncode in (255, 75) and "--no-https" in done.stderr


def test_missing_command_in_the_image(hpcc: Puller) -> None:
    check_failure(hpcc("exec", hpcc.uri, "no-such"), 255, "no-such")


# -- places that cannot be written to ----------------------------------------------------------------------------------


def within_mounts(hpcc: Puller, mounts: str, after: str, *argv: str) -> "subprocess.CompletedProcess[str]":
    """Run hpcc as its person where the shell script `mounts` has been run as root, then the script `after` as root."""
    script = f'{mounts}; "$@"; status=$?; {after}; exit $status'
    command = hpcc.person.argv([hpcc.installed.hpcc, *argv])
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *command],
        env={**hpcc.person.environ(hpcc.env), "CACHE": str(hpcc.cache), "PLACE": str(hpcc.person.home)},
        cwd=hpcc.person.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("size", ["64k", "1m", "4m"])
def test_full_disk(hpcc: Puller, size: str) -> None:
    """Full at once, within the first layer, within the second."""
    hpcc.cache.mkdir()
    done = within_mounts(
        hpcc,
        f"mount -t tmpfs -o size={size},mode=700,uid={hpcc.person.uid},gid={hpcc.person.gid} none $CACHE",
        "ls -A $CACHE/tmp; find $CACHE -name '*.sif'",
        "pull", "it.sif", hpcc.uri,
    )  # fmt: skip
    check_failure(done, 255, r"No space|full|has \S+ [MG]B free")
    assert done.stdout == "" and not hpcc.path("it.sif").exists()


@pytest.mark.root
def test_converting_takes_no_room_of_its_own(hpcc: Puller) -> None:
    """What a pull leaves in the cache is all that it ever had there; nor does it write anywhere else."""
    assert hpcc("exec", hpcc.uri, "true").returncode == 0
    left = sum(-(-path.lstat().st_size // 4096) * 4096 for path in hpcc.cache.rglob("*"))
    before = hpcc.objects()
    mounts = (
        f"mount -t tmpfs -o size={left + 65536},mode=700,uid={hpcc.person.uid},gid={hpcc.person.gid} none $CACHE; "
        "mount -t tmpfs -o ro none /tmp; export TMPDIR=/tmp"
    )
    listing = "cd $CACHE; find oci/blobs packs-v1 sif-v1 -type f -exec sha256sum {} +"
    done = within_mounts(hpcc, mounts, listing, "exec", hpcc.uri, "true")
    assert done.returncode == 0, done.stderr
    found = {path: digest for digest, path in (line.split() for line in done.stdout.splitlines())}
    assert found == {path: digest for path, digest in before.items() if path.startswith(("oci/blobs", "packs", "sif"))}


@pytest.mark.root
def test_full_disk_where_the_file_goes(hpcc: Puller) -> None:
    hpcc.path("small").mkdir()
    done = within_mounts(
        hpcc, "mount -t tmpfs -o size=200k,mode=777 none $PLACE/small", "ls -A $PLACE/small",
        "pull", "small/it.sif", hpcc.uri,
    )  # fmt: skip
    check_failure(done, 255, "small/it.sif")
    assert done.stdout == ""
    assert hpcc("exec", hpcc.uri, "true").returncode == 0  # the cache has it whole


@pytest.mark.root
def test_read_only_cache(hpcc: Puller) -> None:
    """What is in it runs; what is not is refused."""
    assert hpcc("exec", hpcc.uri, "true").returncode == 0
    before = hpcc.objects()
    read_only = "mount --bind $CACHE $CACHE; mount -o remount,bind,ro $CACHE"
    for _ in range(2):
        done = within_mounts(hpcc, read_only, ":", "exec", hpcc.uri, "cat", "/etc/greeting")
        assert (done.returncode, done.stdout) == (0, "hello from the image\n"), done.stderr
    hpcc.registry.add_image("other", "1", LAYERS[:1], config_of(LAYERS[:1]))
    done = within_mounts(hpcc, read_only, ":", "pull", f"docker://{hpcc.registry.host}/other:1")
    check_failure(done, 255, "Read-only|cannot be written|cannot write|read-only")
    assert hpcc.objects() == before


def test_cache_of_somebody_else_without_a_right_to_write(hpcc: Puller, open_dir: Path) -> None:
    if hpcc.person.uid == 0:
        pytest.skip("root may write everywhere") if os.geteuid() != 0 else None
        return
    cache = open_dir / "closed"
    cache.mkdir(mode=0o700)
    os.chmod(cache, 0o000 if os.geteuid() else 0o700)
    done = hpcc("pull", hpcc.uri, env={"HPCC_CACHE_DIR": str(cache)})
    check_failure(done, 255, "closed")
    os.chmod(cache, 0o700)


# -- compression, and how large things may be -----------------------------------------------------------------------


def test_compression(hpcc: Puller) -> None:
    """Each is an image of its own in the cache, found again by who wants it; the layers are not fetched again."""
    sizes = {}
    for compression in ("gzip", "gzip:1", "gzip:12", "zstd:19", "lz4", "xz"):
        target = hpcc.path(f"{compression}.sif")
        done = hpcc("pull", "--compression", compression, target, hpcc.uri)
        assert done.returncode == 0, done.stderr
        sizes[compression] = target.stat().st_size
        assert hpcc("exec", target, "cat", "/etc/greeting").stdout == "hello from the image\n"
        asked = len(hpcc.registry.requests)
        done = hpcc("exec", hpcc.uri, "cat", "/etc/greeting", env={"HPCC_COMPRESSION": compression})
        assert (done.stdout, done.stderr) == ("hello from the image\n", "")
        assert len(hpcc.registry.requests) == asked
    assert sizes["xz"] < sizes["zstd:19"] < sizes["gzip:12"] < sizes["gzip:1"] < sizes["gzip"] < sizes["lz4"], sizes
    assert len(list((hpcc.cache / "sif-v1").iterdir())) == 6
    assert len([path for _, path in hpcc.registry.requests if "/blobs/" in path]) == 1 + len(LAYERS)
    assert hpcc("cache", "verify").returncode == 0


def test_a_compression_that_there_is_not(hpcc: Puller) -> None:
    done = hpcc("pull", "--compression", "bzip2", hpcc.uri)
    assert done.returncode == 255 and "bzip2" in done.stderr and "gzip[:1-12]" in done.stderr
    assert not hpcc.registry.requests


def test_a_layer_that_unpacks_to_more_than_is_allowed(hpcc: Puller) -> None:
    bomb = gzip.compress(bytes(300 << 20))
    assert len(bomb) < 400_000
    hpcc.registry.add_image(NAME, "bomb", [LAYERS[0], bomb], config_of([LAYERS[0], bomb]))
    uri = hpcc.uri.replace(":1.4", ":bomb")
    done = hpcc("exec", uri, "true", env={"HPCC_MAX_LAYER": "100MB"})
    assert done.returncode == 255 and uri in done.stderr and "0.1 GB" in done.stderr and "HPCC_MAX_LAYER" in done.stderr
    assert "Traceback" not in done.stderr and not list((hpcc.cache / "tmp").rglob("*.sif"))
    assert hpcc("exec", hpcc.uri, "true", env={"HPCC_MAX_LAYER": "100MB"}).returncode == 0


# -- without a cache -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", [["--disable-cache"], {"HPCC_DISABLE_CACHE": "1"}, {"SINGULARITY_DISABLE_CACHE": "true"}], ids=str
)
def test_without_a_cache(hpcc: Puller, way: list[str] | dict[str, str]) -> None:
    """docker:// runs all the same, from a temporary that is removed; what others cached is not used, nor touched."""
    flags, env = (way, {}) if isinstance(way, list) else ([], way)
    temporary = hpcc.path("temporary")
    temporary.mkdir()
    hpcc.person.at(temporary) if os.geteuid() == 0 else None
    env = {**env, "TMPDIR": str(temporary)}
    for _ in range(2):
        done = hpcc("exec", *flags, hpcc.uri, "cat", "/etc/greeting", env=env)
        assert (done.returncode, done.stdout) == (0, "hello from the image\n"), done.stderr
        assert list(temporary.iterdir()) == [] and not hpcc.cache.exists()
    assert hpcc("pull", *flags, "one.sif", hpcc.uri, env=env).returncode == 0
    assert hpcc("pull", "two.sif", hpcc.uri).returncode == 0
    assert hpcc.path("one.sif").read_bytes() == hpcc.path("two.sif").read_bytes()
    assert list(temporary.iterdir()) == []
    assert hpcc("exec", *flags, hpcc.uri + "0", "true", env=env).returncode == 255
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_without_a_cache_and_cancelled(hpcc: Puller, number: int) -> None:
    temporary = hpcc.path("temporary")
    temporary.mkdir()
    if hpcc.person.uid != os.geteuid():
        os.chown(temporary, hpcc.person.uid, hpcc.person.gid)
    hpcc.registry.delay = 3.0
    argv = [hpcc.installed.hpcc, "exec", "--disable-cache", hpcc.uri, "true"]
    process = hpcc.person.popen(argv, env={**hpcc.env, "TMPDIR": str(temporary)})
    try:
        end = time.monotonic() + 20
        while not list(temporary.iterdir()) and time.monotonic() < end:
            time.sleep(0.01)
        assert list(temporary.iterdir())
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert list(temporary.iterdir()) == []
    finally:
        process.kill()
        process.wait()
