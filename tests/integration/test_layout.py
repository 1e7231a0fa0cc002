"""hpcc pull --format oci: a layout that others read, from the registry or the cache, whole or not there."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcc.errors import HpccError, PolicyError, UsageError
from hpcc.layout import write_layout
from hpcc.lookup import Wanted
from hpcc.oci.digest import Digest
from hpcc.registry.fake import FakeRegistry, Faults
from tests.support.docker_registry import DockerRegistry
from tests.support.pulls import DIGESTS, LAYERS, NAME, StallingStorage, Told, config_of, pull, settings_of, uri_of
from tests.support.real import need

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("hpcc_env")


def write(uri: str, home: Path, target: Path, *, replace: bool = False, **environ: str) -> Told:
    settings, told = settings_of(home, **environ), Told()
    write_layout(Wanted.parse(uri, settings), settings, str(target), told, replace=replace)
    return told


def check(path: Path, registry: FakeRegistry) -> None:
    """Each blob is what its name says, and all that the manifest names are there."""
    assert json.loads((path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    blobs = {f"sha256:{each.name}": each.read_bytes() for each in (path / "blobs/sha256").iterdir()}
    assert all(f"sha256:{hashlib.sha256(data).hexdigest()}" == name for name, data in blobs.items())
    (entry,) = json.loads((path / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blobs.pop(entry["digest"]))
    assert {blob["digest"] for blob in (manifest["config"], *manifest["layers"])} == blobs.keys() >= set(DIGESTS)
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "1"}


@pytest.mark.parametrize("index", [False, True])
def test_from_the_registry(fake, hpcc_env: Path, index: bool) -> None:
    registry = fake(index=index)
    told = write(uri_of(registry), hpcc_env, hpcc_env / "out")
    check(hpcc_env / "out", registry)
    assert registry.counts["blob_get"] == 3 and registry.counts["manifest_get"] == 1 + index
    assert told.done == sum(map(len, LAYERS)) and len(told.parts) == len(LAYERS)
    assert not [name for name in os.listdir(hpcc_env) if name.startswith(".out")]


def test_from_the_cache(fake, hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env)
    registry.requests.clear()
    told = write(uri_of(registry), hpcc_env, hpcc_env / "out", HPCC_OFFLINE="1")
    check(hpcc_env / "out", registry)
    assert registry.requests == [] and {said for _, said in told.parts} == {"in the cache"}
    assert all(path.stat().st_nlink == 1 for path in (hpcc_env / "out").rglob("*") if path.is_file())


def test_a_damaged_blob_of_the_cache_is_fetched(fake, hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env)
    blob = hpcc_env / "cache/oci/blobs" / DIGESTS[1].replace(":", "/")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    registry.counts.clear()
    write(uri_of(registry), hpcc_env, hpcc_env / "out")
    check(hpcc_env / "out", registry)
    assert registry.counts["blob_get"] == 1


def test_what_is_there(fake, hpcc_env: Path) -> None:
    registry = fake()
    out = hpcc_env / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(UsageError, match="there already"):
        write(uri_of(registry), hpcc_env, out)
    with pytest.raises(UsageError, match="no OCI layout"):
        write(uri_of(registry), hpcc_env, out, replace=True)
    assert os.listdir(out) == ["precious"]
    (out / "oci-layout").write_text("{}")
    write(uri_of(registry), hpcc_env, out, replace=True)
    check(out, registry)
    assert [name for name in os.listdir(hpcc_env) if "out" in name] == ["out"]


def test_a_link_is_not_replaced_and_nothing_is_fetched_for_it(fake, hpcc_env: Path) -> None:
    registry = fake()
    write(uri_of(registry), hpcc_env, hpcc_env / "real")
    (hpcc_env / "link").symlink_to(hpcc_env / "real")
    registry.requests.clear()
    with pytest.raises(UsageError, match="no OCI layout"):
        write(uri_of(registry), hpcc_env, hpcc_env / "link", replace=True)
    assert registry.requests == [] and (hpcc_env / "link").is_symlink()
    check(hpcc_env / "real", registry)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_replacing_takes_one_step_where_it_can(
    fake, hpcc_env: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = fake()
    write(uri_of(registry), hpcc_env, hpcc_env / "out")
    (hpcc_env / "out/old").write_text("x")
    if not can_exchange:

        def refuse(*_: str) -> None:
            raise OSError(22, "not here")

        monkeypatch.setattr("hpcc.layout.exchange", refuse)
    write(uri_of(registry), hpcc_env, hpcc_env / "out", replace=True)
    assert not (hpcc_env / "out/old").exists()
    check(hpcc_env / "out", registry)
    assert [name for name in os.listdir(hpcc_env) if "out" in name] == ["out"]


def test_ctrl_c_does_not_wait(fake, hpcc_env: Path) -> None:
    """For a storage that says nothing more."""
    registry = fake()
    with StallingStorage(registry.blobs) as storage:
        registry.faults = Faults(redirect=storage.url)
        argv = [sys.executable, "-m", "hpcc", "pull", "--format", "oci", str(hpcc_env / "out"), uri_of(registry)]
        env = {**os.environ, "HPCC_NOHTTPS": "1"}
        process = subprocess.Popen(argv, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert storage.stalled.wait(30)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - begun < 5 and process.returncode == 130, said
    assert not [name for name in os.listdir(hpcc_env) if "out" in name]


@pytest.mark.parametrize("faults", [Faults(alter=-1), Faults(truncate=-1, no_range=True), Faults(error_as_ok=-1)])
def test_what_fails_leaves_nothing(fake, hpcc_env: Path, faults: Faults) -> None:
    registry = fake(faults=faults)
    with pytest.raises(HpccError) as caught:
        write(uri_of(registry), hpcc_env, hpcc_env / "out")
    assert NAME in caught.value.message
    assert not [name for name in os.listdir(hpcc_env) if "out" in name]


def test_policy_holds_here_too(fake, hpcc_env: Path) -> None:
    registry = fake()
    with pytest.raises(PolicyError):
        write(uri_of(registry), hpcc_env, hpcc_env / "out", HPCC_MAX_IMAGE="1MB")
    assert not (hpcc_env / "out").exists()


def test_a_repeated_layer_is_there_once(fake, hpcc_env: Path) -> None:
    registry = fake()
    layers = [LAYERS[0], LAYERS[0], LAYERS[1]]
    registry.add_image(NAME, "1", layers, config_of(layers))
    write(uri_of(registry), hpcc_env, hpcc_env / "out")
    check(hpcc_env / "out", registry)


def test_by_digest_there_is_no_tag(fake, hpcc_env: Path) -> None:
    registry = fake()
    digest = Digest.of(registry.manifests[NAME, "1"][1])
    write(f"docker://{registry.host}/{NAME}@{digest}", hpcc_env, hpcc_env / "out")
    (entry,) = json.loads((hpcc_env / "out/index.json").read_bytes())["manifests"]
    assert entry["digest"] == str(digest) and "annotations" not in entry


def test_skopeo_reads_it_and_has_the_same(docker_registry: DockerRegistry, hpcc_env: Path) -> None:
    skopeo = need("skopeo")
    docker_registry.push(NAME, "1", LAYERS, config_of(LAYERS))
    source = f"docker://{docker_registry.host}/{NAME}:1"
    write(source, hpcc_env, hpcc_env / "ours")
    run = [skopeo, "--insecure-policy"]
    subprocess.run([*run, "copy", "--quiet", "--src-tls-verify=false", source, f"oci:{hpcc_env}/theirs:1"], check=True)
    ours, theirs = (
        {path.name: path.read_bytes() for path in (hpcc_env / who / "blobs/sha256").iterdir()}
        for who in ("ours", "theirs")
    )
    assert ours == theirs
    raw = subprocess.run([*run, "inspect", "--raw", f"oci:{hpcc_env}/ours:1"], check=True, capture_output=True).stdout
    assert hashlib.sha256(raw).hexdigest() in ours
    copied = [*run, "copy", "--quiet", f"oci:{hpcc_env}/ours:1", f"oci-archive:{hpcc_env}/x.tar"]
    subprocess.run(copied, check=True)
