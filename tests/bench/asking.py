"""What is sent to a registry, counted; and an OCI layout by hpcc and by skopeo, timed in turns."""

import shutil
import time
from collections.abc import Sequence
from typing import NamedTuple

from hpcc.registry.fake import FakeRegistry
from tests.support.docker_registry import DockerRegistry
from tests.support.people import Person
from tests.support.pulls import LAYERS, NAME, config_of

ROUNDS = 5
LAYOUT_TARGET = "hpcc / skopeo at most 1.5"


class Sent(NamedTuple):
    """What a command sent; a blob that was sent twice counts in `again`.

    challenge: HEADs without a token, from whose 401 a client learns where to get one; head: the others.
    """

    what: str
    challenge: int
    head: int
    manifest: int
    blob: int
    again: int
    target: str


def count_requests(user: Person, hpcc: str) -> list[Sent]:
    """The requests of pulls and runs of an image behind an index, from an empty cache on."""
    found = []
    for account in (False, True):
        private = {"username": "ann", "password": "s3cret", "private": [NAME]} if account else {}
        with FakeRegistry(quota=1000, **private) as registry:  # type: ignore[arg-type]
            registry.add_image(NAME, "1", LAYERS, config_of(LAYERS), index=True)
            home = user.home / f"requests-{account}"
            home.mkdir()
            uri, person = f"docker://{registry.host}/{NAME}:1", user.at(home)
            login = {"HPCC_DOCKER_USERNAME": "ann", "HPCC_DOCKER_PASSWORD": "s3cret"} if account else {}

            def ask(what: str, target: str, *argv: str, **env: str) -> None:
                registry.requests.clear()
                registry.authorised.clear()
                environ = {"HPCC_INSECURE": registry.host, **login, **env}  # noqa: B023
                person.run([hpcc, *argv], env=environ).check_returncode()  # noqa: B023
                found.append(_sent(what, target, registry))

            if account:
                ask("cold, private", "2 HEAD, at most 2 GET, each blob once", "pull", "a.sif", uri)
                continue
            ask("cold", "1 HEAD, at most 2 GET, each blob once", "pull", "a.sif", uri)
            ask("warm pull", "0", "pull", "b.sif", uri)
            ask("warm exec --dry-run", "0", "exec", "--dry-run", uri, "x")
            ask("pull, the ttl over", "1 HEAD, 0 GET", "pull", "c.sif", uri, HPCC_TTL="0")
            ask("pull --format oci, cached", "0", "pull", "--format", "oci", "d", uri)
    return found


def _sent(what: str, target: str, registry: FakeRegistry) -> Sent:
    heads = [path for method, path in registry.requests if method == "HEAD"]
    manifests = [path for method, path in registry.requests if method == "GET" and "/manifests/" in path]
    blobs = [path for method, path in registry.requests if method == "GET" and "/blobs/" in path]
    with_token = sum(path in heads for path in registry.authorised)  # a tag is asked for by HEAD alone
    again = len(blobs) - len(set(blobs))
    return Sent(what, len(heads) - with_token, with_token, len(manifests), len(set(blobs)), again, target)


def time_layouts(user: Person, hpcc: str, registry: DockerRegistry, image: str) -> dict[str, list[float]]:
    """Seconds of each round, of an image into a new directory, from an empty cache: by hpcc, by skopeo."""
    source = f"docker://{registry.host}/{image}"
    found: dict[str, list[float]] = {"hpcc": [], "skopeo": []}
    for number in range(ROUNDS):
        for who, argv in (
            ("hpcc", [hpcc, "--quiet", "pull", "--format", "oci", "ours", source]),
            (
                "skopeo",
                ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", source, "oci:its:1"],
            ),
        ):
            cache = str(user.home / f"layout-{number}")
            begun = time.perf_counter()
            user.run(argv, env={"HPCC_INSECURE": registry.host, "HPCC_CACHE_DIR": cache}).check_returncode()
            found[who].append(time.perf_counter() - begun)
        for name in ("ours", "its", f"layout-{number}"):
            shutil.rmtree(user.home / name)
    return found


def show_requests(found: Sequence[Sent]) -> None:
    print(f"\n{'requests':<34}{'401':>6}{'HEAD':>6}{'manifest GET':>14}{'blobs':>7}{'again':>7}   target")
    for sent in found:
        numbers = f"{sent.challenge:>6}{sent.head:>6}{sent.manifest:>14}{sent.blob:>7}{sent.again:>7}"
        print(f"{sent.what:<34}{numbers}   {sent.target}")
