"""When a registry is asked, which one, and where what it gives belongs."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import (
    AccessDenied,
    HpccError,
    ImageNotFound,
    PolicyError,
    RegistryUnavailable,
    SettingsError,
    UnsupportedImage,
    UsageError,
)
from hpcc.image import open_image
from hpcc.oci.digest import Digest
from hpcc.registry.fake import INDEX, FakeRegistry, Faults
from hpcc.settings import Settings
from tests.support.pulls import ARCHITECTURE, DIGESTS, LAYERS, NAME, Told, config_of, pull, settings_of, uri_of

pytestmark = pytest.mark.usefixtures("hpcc_env")
ACCOUNT = {"HPCC_DOCKER_USERNAME": "ann", "HPCC_DOCKER_PASSWORD": "s3cret"}


def move_tag(registry: FakeRegistry, tag: str = "1") -> None:
    """Let the tag name another image."""
    registry.add_image(NAME, tag, LAYERS[:1], config_of(LAYERS[:1], author=str(time.time_ns())))


def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def age(home: Path, seconds: float, tier: str = "cache") -> None:
    """Make all refs of a tier older."""
    for path in (home / tier / "refs").rglob("*"):
        if path.is_file():
            ref = json.loads(path.read_bytes())
            path.chmod(0o644)
            path.write_text(json.dumps({**ref, "checked_at": ref["checked_at"] - seconds}))


# -- --pull, --offline -----------------------------------------------------------------------------------------------


def test_newer_asks_once_the_ttl_is_over(fake, hpcc_env: Path) -> None:
    registry = fake(index=True)
    first = pull(registry, hpcc_env)
    move_tag(registry)
    registry.requests.clear()
    assert pull(registry, hpcc_env).key == first.key and registry.requests == []
    age(hpcc_env, 3601)
    assert pull(registry, hpcc_env).key != first.key


def test_missing_takes_whatever_there_is(fake, hpcc_env: Path) -> None:
    registry = fake()
    assert pull(registry, hpcc_env, HPCC_PULL="missing")
    first = pull(registry, hpcc_env)
    move_tag(registry)
    age(hpcc_env, 1e8)
    registry.requests.clear()
    assert pull(registry, hpcc_env, HPCC_PULL="missing").key == first.key and registry.requests == []


def test_always_asks_each_time_by_head(fake, hpcc_env: Path) -> None:
    registry = fake()
    first = pull(registry, hpcc_env)
    registry.counts.clear()
    assert pull(registry, hpcc_env, HPCC_PULL="always").key == first.key
    assert (registry.counts["manifest_head"], registry.counts["manifest_get"]) == (1, 0)
    move_tag(registry)
    assert pull(registry, hpcc_env, HPCC_PULL="always").key != first.key


@pytest.mark.parametrize("way", [{"HPCC_PULL": "never"}, {"HPCC_OFFLINE": "1"}])
def test_nobody_is_asked(fake, hpcc_env: Path, way: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm cache just works, by tag however old and by digest; a miss says what to do, with 255."""
    registry = fake(index=True)
    first = pull(registry, hpcc_env)
    digest = registry.manifests[NAME, "1"][1]
    age(hpcc_env, 1e8)
    no_socket(monkeypatch)
    assert pull(registry, hpcc_env, **way).key == first.key
    by_digest = f"docker://{registry.host}/{NAME}@{Digest.of(digest)}"
    assert open_image(by_digest, settings_of(hpcc_env, **way)).key == first.key
    with pytest.raises(ImageNotFound, match="not in the cache") as caught:
        pull(registry, hpcc_env, tag="2", **way)
    assert caught.value.exit_code == 255 and caught.value.hint
    with pytest.raises(ImageNotFound, match="not in the cache"):
        open_image(f"docker://{registry.host}/{NAME}@{Digest.of(b'')}", settings_of(hpcc_env, **way))


@pytest.mark.parametrize("gone", [["sif-v1"], ["sif-v1", "packs-v1"]])
def test_offline_converts_what_is_here(fake, hpcc_env: Path, gone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake()
    first = pull(registry, hpcc_env)
    for kind in gone:
        for path in (hpcc_env / "cache" / kind).iterdir():
            path.unlink()
    no_socket(monkeypatch)
    told = Told()
    assert pull(registry, hpcc_env, told=told, HPCC_OFFLINE="1").key == first.key
    assert {said for _, said in told.parts} == {"in the cache" if "packs-v1" in gone else "converted before"}


def test_offline_with_a_layer_missing_says_which(fake, hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env)
    for path in (*(hpcc_env / "cache/sif-v1").iterdir(), *(hpcc_env / "cache/packs-v1").iterdir()):
        path.unlink()
    (hpcc_env / "cache/oci/blobs" / DIGESTS[1].replace(":", "/")).unlink()
    with pytest.raises(ImageNotFound, match=DIGESTS[1]):
        pull(registry, hpcc_env, HPCC_OFFLINE="1")


# -- jobs and workflow runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [{"HPCC_RUN_ID": "a workflow"}, {"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "big"}])
def test_a_tag_means_one_thing_in_a_run(fake, hpcc_env: Path, run: dict[str, str]) -> None:
    """Also when it is --pull always, and after the ttl; another run sees the new image."""
    registry = fake(index=True)
    first = pull(registry, hpcc_env, **run)
    move_tag(registry)
    registry.requests.clear()
    for way in ({}, {"HPCC_TTL": "0"}, {"HPCC_PULL": "always"}):
        assert pull(registry, hpcc_env, **run, **way).key == first.key
    assert registry.requests == []
    other = {name: f"{value}0" for name, value in run.items()}
    moved = pull(registry, hpcc_env, **other, HPCC_TTL="0")
    assert moved.key != first.key
    assert pull(registry, hpcc_env, **run).key == first.key  # though the newest ref says otherwise
    assert pull(registry, hpcc_env).key == moved.key


def test_what_was_cached_before_the_run_is_its_meaning_too(fake, hpcc_env: Path) -> None:
    registry = fake()
    first = pull(registry, hpcc_env)
    assert pull(registry, hpcc_env, HPCC_RUN_ID="7").key == first.key  # a warm run, within the ttl
    move_tag(registry)
    assert pull(registry, hpcc_env, HPCC_RUN_ID="7", HPCC_TTL="0").key == first.key


def test_a_stale_image_stays_for_the_run(fake, hpcc_env: Path) -> None:
    """What a run began with while the registry was away it also ends with."""
    registry = fake()
    first = pull(registry, hpcc_env)
    registry.faults = Faults(unavailable=-1)
    assert pull(registry, hpcc_env, HPCC_RUN_ID="7", HPCC_TTL="0").key == first.key
    registry.faults = Faults()
    move_tag(registry)
    assert pull(registry, hpcc_env, HPCC_RUN_ID="7", HPCC_TTL="0").key == first.key


def test_runs_stand_in_the_private_tier(fake, hpcc_env: Path) -> None:
    registry = fake(username="ann", password="s3cret", private=[NAME])
    pull(registry, hpcc_env, HPCC_RUN_ID="7", **ACCOUNT)
    assert list((hpcc_env / "private/runs").rglob("*"))
    registry.private = ()
    pull(registry, hpcc_env, HPCC_RUN_ID="8", **ACCOUNT, HPCC_PULL="always")
    assert not (hpcc_env / "cache/runs").exists()


def test_old_runs_are_forgotten(fake, hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env, HPCC_RUN_ID="old")
    (old,) = (hpcc_env / "private/runs").iterdir()
    os.utime(old, (1, 1))
    pull(registry, hpcc_env, HPCC_RUN_ID="new")
    assert old.name not in os.listdir(old.parent) and len(os.listdir(old.parent)) == 1


# -- tiers -----------------------------------------------------------------------------------------------------------


def test_share_by_prefix(fake, hpcc_env: Path) -> None:
    registry = fake(username="ann", password="s3cret", private=[NAME])
    image = pull(registry, hpcc_env, **ACCOUNT, HPCC_SHARE=f"{registry.host}/group/*")
    assert image.path.startswith(str(hpcc_env / "cache"))
    other = pull(registry, hpcc_env / "b", **ACCOUNT, HPCC_SHARE=f"{registry.host}/groups/*")
    assert "/private/" in other.path


def test_private_layers_are_not_for_public_images(fake, hpcc_env: Path) -> None:
    """A public manifest that names a layer of a private image, which its registry does not give away, gets nothing."""
    registry = fake(username="ann", password="s3cret", private=[NAME])
    pull(registry, hpcc_env, **ACCOUNT)
    public = fake()
    public.add_image("thief/image", "1", LAYERS, config_of(LAYERS))
    for digest in DIGESTS:
        del public.blobs[digest]
    with pytest.raises(ImageNotFound, match="there is no layer"):
        open_image(f"docker://{public.host}/thief/image:1", settings_of(hpcc_env))
    assert not any((hpcc_env / "cache/oci/blobs" / digest.replace(":", "/")).exists() for digest in DIGESTS)


# -- policy ----------------------------------------------------------------------------------------------------------


def test_allowed_registries(fake, hpcc_env: Path) -> None:
    registry = fake()
    allowed = {"HPCC_ALLOWED_REGISTRIES": f"quay.io, {registry.host}/{NAME}"}
    assert pull(registry, hpcc_env, **allowed)
    registry.add_image("group/toolsmith", "1", LAYERS, config_of(LAYERS))
    for uri in (f"docker://{registry.host}/group/toolsmith:1", "docker://debian"):
        with pytest.raises(PolicyError, match="does not allow") as caught:
            open_image(uri, settings_of(hpcc_env, **allowed))
        assert "quay.io" in caught.value.hint
    with pytest.raises(PolicyError):  # also what is in the cache already
        pull(registry, hpcc_env, HPCC_ALLOWED_REGISTRIES="quay.io")


def test_largest_image(fake, hpcc_env: Path) -> None:
    registry = fake()
    with pytest.raises(PolicyError, match=r"3 MB, this site allows 2 MB"):
        pull(registry, hpcc_env, HPCC_MAX_IMAGE="2MB")
    assert registry.counts["blob_get"] == 1  # the config
    assert pull(registry, hpcc_env, HPCC_MAX_IMAGE="2.9 MB")


def test_what_the_site_has_locked_no_option_changes(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text("[locked]\nfrozen = true\nnohttps = false\n")
    settings = Settings.from_environ({"HOME": str(tmp_path), "HPCC_FROZEN": "0"}, site_file=str(site))
    assert settings.frozen
    with pytest.raises(SettingsError, match="nohttps is locked") as caught:
        settings.replace(nohttps=True)
    assert "hpcc config nohttps" in caught.value.hint
    assert settings.replace(frozen=True, offline=True).offline


def test_lock_file(fake, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake(index=True)
    project = hpcc_env / "project"
    (project / "sub").mkdir(parents=True)
    monkeypatch.chdir(project / "sub")
    with pytest.raises(UsageError, match="only what is locked may run"):
        pull(registry, hpcc_env, HPCC_FROZEN="1")
    digest = Digest.of(registry.manifests[NAME, "1"][1])
    (project / "hpcc.lock").write_text(f'version = 1\n[images]\n"{registry.host}/{NAME}:1" = "{digest}"\n')
    move_tag(registry)
    locked = pull(registry, hpcc_env, HPCC_FROZEN="1")
    registry.requests.clear()
    assert pull(registry, hpcc_env, HPCC_TTL="0").key == locked.key and registry.requests == []
    (project / "hpcc.lock").unlink()
    assert pull(registry, hpcc_env).key != locked.key


# -- mirrors ---------------------------------------------------------------------------------------------------------


def mirrored(home: Path, name: str, *mirrors: FakeRegistry | str, **more: str) -> Settings:
    hosts = [mirror if isinstance(mirror, str) else mirror.host for mirror in mirrors]
    return settings_of(home, HPCC_MIRRORS=",".join(f"{name}={host}" for host in hosts), **more)


def test_mirrors_are_asked_in_order(fake, hpcc_env: Path) -> None:
    """One that is down, one that has nothing, one that has it; the registry itself is not asked at all."""
    itself, empty, full = fake(), fake(), fake()
    empty.manifests.clear()
    empty.blobs.clear()
    settings = mirrored(hpcc_env, itself.host, "127.0.0.1:1", empty, full)
    image = open_image(uri_of(itself), settings)
    assert image.reference.startswith(f"{itself.host}/{NAME}@")  # whatever it came through
    assert itself.requests == [] and empty.counts["manifest_head"] == 1
    assert full.counts["manifest_head"] == full.counts["manifest_get"] == 1
    assert full.counts["blob_get"] == 3


def test_the_same_bytes_with_and_without_a_mirror(fake, hpcc_env: Path) -> None:
    itself, mirror = fake(), fake()
    direct = pull(itself, hpcc_env / "a")
    through = open_image(uri_of(itself), mirrored(hpcc_env / "b", itself.host, mirror))
    assert through.key == direct.key
    assert Path(through.path).read_bytes() == Path(direct.path).read_bytes()


def test_a_mirror_that_fails_in_the_middle(fake, hpcc_env: Path) -> None:
    """What it brought is kept; the rest comes from the registry itself."""
    itself, mirror = fake(), fake(faults=Faults(truncate=-1, no_range=True))
    assert open_image(uri_of(itself), mirrored(hpcc_env, itself.host, mirror))
    assert itself.counts["manifest_get"] == 0 and itself.counts["blob_get"] == 3
    assert any(path for method, path in itself.requests if "/blobs/" in path)


def test_a_mirror_that_lies(fake, hpcc_env: Path) -> None:
    itself, mirror = fake(), fake(faults=Faults(alter=-1))
    image = open_image(uri_of(itself), mirrored(hpcc_env / "a", itself.host, mirror))
    direct = pull(itself, hpcc_env / "b")
    assert Path(image.path).read_bytes() == Path(direct.path).read_bytes()


def test_a_mirror_out_of_quota_is_passed_over(fake, hpcc_env: Path) -> None:
    itself, mirror = fake(quota=5), fake(quota=0)
    assert open_image(uri_of(itself), mirrored(hpcc_env, itself.host, mirror))
    assert itself.used == 1


def test_variables_are_for_no_mirror(fake, hpcc_env: Path) -> None:
    """A mirror sees its own account alone, from a store; the registry's never."""
    itself, mirror = fake(username="ann", password="s3cret", private=[NAME]), fake(scheme="basic", username="m")
    mirror.manifests.clear()
    assert open_image(uri_of(itself), mirrored(hpcc_env, itself.host, mirror, **ACCOUNT))
    assert mirror.requests and mirror.authorised == []


def test_when_all_fail_the_error_tells_of_each(fake, hpcc_env: Path) -> None:
    empty = fake()
    empty.manifests.clear()
    with pytest.raises(RegistryUnavailable, match=r"cannot reach 127\.0\.0\.1:1") as caught:
        open_image(f"docker://127.0.0.1:1/{NAME}:1", mirrored(hpcc_env, "127.0.0.1:1", empty))
    assert f"{empty.host} (mirror): " in caught.value.hint and "there is no image 1" in caught.value.hint


def test_registries_conf(fake, hpcc_env: Path) -> None:
    mirror = fake()
    conf = hpcc_env / "registries.conf"
    conf.write_text(
        f'[[registry]]\nprefix = "site.example/apps"\nlocation = "127.0.0.1:1/group"\n'
        f'[[registry.mirror]]\nlocation = "{mirror.host}/group"\n'
        '[[registry]]\nprefix = "bad.example"\nblocked = true\n'
    )
    settings = settings_of(hpcc_env, CONTAINERS_REGISTRIES_CONF=str(conf))
    image = open_image("docker://site.example/apps/tools:1", settings)
    assert image.reference.startswith("site.example/apps/tools@")
    with pytest.raises(AccessDenied, match="blocks bad"):
        open_image("docker://bad.example/x", settings)


# -- kinds of images -------------------------------------------------------------------------------------------------


def add_foreign(registry: FakeRegistry, urls: list[str], tag: str = "foreign") -> None:
    """An image whose second layer the registry does not have: it lies at `urls`."""
    registry.add_image(NAME, tag, LAYERS, config_of(LAYERS))
    media_type, data = registry.manifests[NAME, tag]
    document = json.loads(data)
    document["layers"][1]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    document["layers"][1]["urls"] = urls
    del registry.blobs[DIGESTS[1]]
    registry.add_manifest(NAME, tag, json.dumps(document).encode(), media_type)


def test_foreign_layers(fake, hpcc_env: Path) -> None:
    registry, elsewhere = fake(username="ann", password="s3cret", private=[NAME]), fake(scheme="none")
    path = f"/v2/any/thing/blobs/{DIGESTS[1]}"
    add_foreign(registry, ["http://127.0.0.1:1/gone", f"{elsewhere.url}{path}"])
    image = pull(registry, hpcc_env, tag="foreign", **ACCOUNT)
    assert image.path and elsewhere.authorised == []
    assert [path for _, path in elsewhere.requests] == [path]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "https://[::1", ""])
def test_foreign_layers_that_lie_nowhere(fake, hpcc_env: Path, url: str) -> None:
    registry = fake()
    add_foreign(registry, [url])
    with pytest.raises(HpccError) as caught:
        pull(registry, hpcc_env, tag="foreign")
    assert NAME in caught.value.message and "Traceback" not in caught.value.message


def test_the_right_one_of_several_nested_indexes(fake, hpcc_env: Path) -> None:
    """Entries without a platform are opened one after the other; attestations are none."""
    registry = fake()
    first = pull(registry, hpcc_env)
    _, manifest = registry.manifests[NAME, "1"]

    def index(*entries: tuple[bytes, str]) -> bytes:
        manifests = []
        for data, architecture in entries:
            entry: dict[str, Any] = {"mediaType": INDEX, "digest": str(Digest.of(data)), "size": len(data)}
            if architecture:
                entry["platform"] = {"os": "linux", "architecture": architecture}
            manifests.append(entry)
        return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()

    foreign = index((manifest, "s390x"))
    ours = index((manifest, ARCHITECTURE))
    for data in (foreign, ours):
        registry.add_manifest(NAME, "", data, INDEX)
    registry.add_manifest(NAME, "both", index((foreign, ""), (ours, "")), INDEX)
    registry.add_manifest(NAME, "none", index((foreign, ""), (manifest, "unknown")), INDEX)
    assert pull(registry, hpcc_env, tag="both").key == first.key
    assert pull(registry, hpcc_env, tag="both", HPCC_OFFLINE="1").key == first.key
    with pytest.raises(UnsupportedImage, match="s390x"):
        pull(registry, hpcc_env, tag="none")


def test_platform_in_full(fake, hpcc_env: Path) -> None:
    registry = fake(index=True)
    assert open_image(uri_of(registry), settings_of(hpcc_env), arch=f"linux/{ARCHITECTURE}").key
    with pytest.raises(UnsupportedImage, match="linux/arm/v6"):
        open_image(uri_of(registry), settings_of(hpcc_env), arch="linux/arm/v6")
