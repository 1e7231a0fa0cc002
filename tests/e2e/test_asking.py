"""What users see of registries: limits, the reasons of the cache, logins at a prompt, bars; as root and as a user."""

import json
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
from tests.e2e.test_pull import CONFIG, LAYERS, NAME, Puller
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import config_of
from tests.support.terminal import on_terminal

SECRET = "s3cret-Passw0rd"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=100, username="ann", password=SECRET, private=["lab/hidden"]) as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        registry.add_image("lab/hidden", "1", LAYERS, CONFIG)
        yield registry


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation, registry: FakeRegistry) -> Puller:
    return Puller(runs_as, installed, registry)


def at_a_terminal(hpcc: Puller, *argv: str, login: tuple[str, str] | None = None) -> tuple[int, str]:
    """(status, all that the terminal showed); `login` is typed where hpcc asks for it."""
    questions = (b"Enter Docker Username:", b"Enter Docker Password:")
    steps = [(question, f"{answer}\n".encode()) for question, answer in zip(questions, login or (), strict=False)]
    env = {**hpcc.env, "TERM": "xterm"}
    status, shown = on_terminal(hpcc.person, [str(hpcc.installed.hpcc), *argv], steps, env=env)
    return status, shown.decode(errors="replace")


# -- limits ----------------------------------------------------------------------------------------------------------


def test_limits_as_a_table(hpcc: Puller) -> None:
    hpcc.env["HPCC_DOCKER_USERNAME"], hpcc.env["HPCC_DOCKER_PASSWORD"] = "ann", SECRET
    done = hpcc("limits", hpcc.registry.host)
    assert done.returncode == 0, done.stderr
    head, anybody, account, *_ = done.stdout.splitlines()
    assert head.split() == ["REGISTRY", "WHO", "IS", "COUNTED", "LEFT", "OF", "WINDOW", "AS", "OF"]
    assert anybody.split()[:6] == [hpcc.registry.host, "anybody", "at", "127.0.0.1", "100", "100"]
    assert account.split()[:5] == [hpcc.registry.host, "account", "ann", "100", "100"]
    assert max(map(len, done.stdout.splitlines())) <= 110 and "registry login" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert hpcc.registry.counts["manifest_get"] == 0 and hpcc.registry.used == 0


def test_limits_of_an_image_as_json_and_from_memory(hpcc: Puller) -> None:
    before = time.time()
    (row,) = json.loads(hpcc("limits", "--json", f"docker://{hpcc.registry.host}/{NAME}:1.4").stdout)
    assert row["limit"] == row["left"] == 100 and row["window"] == 21600 and row["not_before"] is None
    assert before - 1 <= row["seen_at"] <= time.time()
    asked = len(hpcc.registry.requests)
    assert json.loads(hpcc("limits", "--json", "--offline").stdout) == [row]
    assert len(hpcc.registry.requests) == asked


def test_limits_tell_of_a_refusal_and_of_its_end(hpcc: Puller) -> None:
    hpcc.registry.quota = 0
    assert hpcc("exec", hpcc.uri, "true").returncode == 75
    said = hpcc("limits", hpcc.registry.host).stdout
    assert "0     0" in said and "left alone until" in said and "toomanyrequests" in said
    assert hpcc("exec", hpcc.uri, "true").returncode == 75
    hpcc.registry.quota = 9
    assert "left alone" not in hpcc("limits", hpcc.registry.host).stdout
    assert hpcc("exec", hpcc.uri, "true").returncode == 0


def test_limits_where_there_are_none(hpcc: Puller) -> None:
    hpcc.registry.quota = None
    assert "no limit" in hpcc("limits", hpcc.registry.host).stdout
    assert "No limits are known" in hpcc("limits", "--offline").stdout
    done = hpcc("limits", "127.0.0.1:1")
    assert done.returncode == 75 and "cannot reach" in done.stderr
    assert hpcc("limits", "--offline", hpcc.registry.host).returncode == 255


def test_the_message_of_a_429(hpcc: Puller) -> None:
    """For somebody who never heard of the limit: what, whose, how much, until when, and what to do."""
    hpcc.registry.quota = 0
    done = hpcc("pull", hpcc.uri)
    assert done.returncode == 75 and done.stdout == ""
    for word in ("429", "You have reached your", "0 of 0 pulls left in 6 h for 127.0.0.1", "without an account",
                 "all behind one address are counted together", "Three ways out", "hpcc registry login",
                 "mirror", "wait, until", "hpcc limits"):  # fmt: skip
        assert word in done.stderr, word


# -- cache why ---------------------------------------------------------------------------------------------------------


def why(hpcc: Puller, *options: str, env: dict[str, str] | None = None) -> str:
    asked = len(hpcc.registry.requests)
    done = hpcc("cache", "why", *options, hpcc.uri, env=env)
    assert done.returncode == 0, done.stderr
    assert len(hpcc.registry.requests) == asked
    return str(done.stdout)


def test_why(hpcc: Puller) -> None:
    """The last line of each is what then really happens."""
    assert "nobody looked 1.4 up" in why(hpcc) and "fetches a manifest, which counts" in why(hpcc)
    assert hpcc("exec", hpcc.uri, "true").returncode == 0
    assert why(hpcc).endswith("A run starts from the cache now, and sends nothing.\n")
    stale = why(hpcc, env={"HPCC_TTL": "0"})
    assert "(ttl 0 s)" in stale and "asks for the tag by HEAD" in stale and "unless the tag has moved" in stale
    assert "(--pull always)" in why(hpcc, "--pull", "always")
    assert "starts from the cache" in why(hpcc, "--offline", env={"HPCC_TTL": "0"})
    for path in (hpcc.cache / "sif-v1").iterdir():
        path.unlink()
    assert "never made, or cleaned away" in why(hpcc) and "fetches nothing" in why(hpcc)
    assert "makes the SIF anew" in why(hpcc, "--offline")
    for path in (*(hpcc.cache / "packs-v1").iterdir(), *(hpcc.cache / "oci/blobs/sha256").iterdir()):
        if path.stat().st_size > 1_000_000:
            path.unlink()
    assert "fetches 2 layer(s) (1." in why(hpcc) and "2 not here" in why(hpcc)
    assert "A run fails now" in why(hpcc, "--offline")
    steps = json.loads(why(hpcc, "--json"))
    assert [step["what"] for step in steps["steps"]] == ["name", "tag", "manifest", "SIF", "layers"]
    assert steps["verdict"].startswith("A run fetches 2 layer(s)")


def test_why_a_registry_is_left_alone_and_a_damaged_sif(hpcc: Puller) -> None:
    assert hpcc("exec", hpcc.uri, "true").returncode == 0
    (sif,) = (hpcc.cache / "sif-v1").iterdir()
    sif.chmod(0o644)
    sif.write_bytes(sif.read_bytes()[:1000])
    assert "damaged, or its owner is nobody" in why(hpcc)
    hpcc.registry.quota = 0
    assert hpcc("exec", f"docker://{hpcc.registry.host}/{NAME}@sha256:{'0' * 64}", "true").returncode in (75, 255)
    hpcc.registry.faults = Faults(busy=-1, retry_after="7200")
    assert hpcc("exec", f"docker://{hpcc.registry.host}/{NAME}:2", "true").returncode == 75
    assert "is left alone until" in why(hpcc)


# -- as whom, and what is seen meanwhile -----------------------------------------------------------------------------


def test_docker_login(hpcc: Puller) -> None:
    """For this command alone: nothing is stored, and the payload does not see it."""
    uri = f"docker://{hpcc.registry.host}/lab/hidden:1"
    status, shown = at_a_terminal(hpcc, "exec", "--docker-login", uri, "/bin/busybox", "env", login=("ann", SECRET))
    assert status == 0, shown
    assert "Enter Docker Username: " in shown and "Enter Docker Password: " in shown
    assert SECRET not in shown and "DOCKER_PASSWORD" not in shown
    for top in (hpcc.cache, hpcc.path("private"), hpcc.path(".config")):
        for path in top.rglob("*") if top.exists() else ():
            assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    assert hpcc("pull", "--pull", "always", uri).returncode == 255  # it is as if nobody had logged in
    status, shown = at_a_terminal(hpcc, "pull", "--docker-login", "--pull", "always", uri, login=("ann", "wrong"))
    assert status == 255 and "incorrect username or password" in " ".join(shown.split()), shown


def test_without_a_terminal_nobody_is_asked(hpcc: Puller) -> None:
    done = hpcc("pull", "--docker-login", hpcc.uri)
    assert done.returncode == 255 and "no terminal" in done.stderr and "--password-stdin" in done.stderr


def test_a_broken_helper_does_not_stop_a_public_pull(hpcc: Puller) -> None:
    (hpcc.path(".docker")).mkdir()
    config = {"credsStore": "desktop", "auths": {hpcc.registry.host: {}}}
    hpcc.path(".docker/config.json").write_text(json.dumps(config))
    done = hpcc("exec", hpcc.uri, "true")
    assert done.returncode == 0 and "docker-credential-desktop" in done.stderr and "without an account" in done.stderr
    done = hpcc("exec", f"docker://{hpcc.registry.host}/lab/hidden:1", "true")
    assert done.returncode == 255 and "docker-credential-desktop" in done.stderr


def test_bars_at_a_terminal(hpcc: Puller) -> None:
    """One for all and one for each layer on its way, within 80 columns; gone at the end of each layer."""
    hpcc.registry.faults = Faults(truncate=8, cut_at=1_000_000)  # each waits for a moment before it goes on
    status, shown = at_a_terminal(hpcc, "pull", hpcc.uri)
    assert status == 0, shown
    assert "Pulling" in shown and "layer 2 of 2" in shown and "Converting" in shown
    assert max(len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) for line in re.split(r"[\r\n]", shown)) <= 80
    status, shown = at_a_terminal(hpcc, "--quiet", "pull", "--force", "--pull", "always", hpcc.uri)
    assert (status, shown) == (0, "")


def test_lines_in_a_log(hpcc: Puller) -> None:
    done = hpcc("pull", hpcc.uri)
    lines = sorted(line[:23] for line in done.stderr.splitlines())
    assert lines == ["INFO:    Layer 1 of 2, ", "INFO:    Layer 2 of 2, "]
    hpcc.registry.add_image(NAME, "2", LAYERS[:1], config_of(LAYERS[:1]))
    assert "converted before" in hpcc("pull", f"docker://{hpcc.registry.host}/{NAME}:2").stderr


def test_a_layout(hpcc: Puller) -> None:
    assert hpcc("pull", "--format", "oci", hpcc.uri).returncode == 0
    assert hpcc.path("tools_1.4/oci-layout").exists()
    assert hpcc("pull", "--format", "oci", hpcc.uri).returncode == 255
    assert hpcc("pull", "--format", "oci", "--force", hpcc.uri).returncode == 0
    done = hpcc("pull", "--format", "tar", hpcc.uri)
    assert done.returncode == 255 and "sif, oci" in done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["exec", "--pull", "sometimes", "URI", "true"], "newer, always, never"),
        (["exec", "--arch", "arm64", "--platform", "linux/arm64", "URI", "true"], "exclude each other"),
        (["exec", "--platform", "nonsense/x", "URI", "true"], "no platform"),
        (["pull", "--platform", "linux/arm64", "URI"], "nothing for linux/arm64"),
        (["exec", "--frozen", "URI", "true"], "only what is locked may run"),
        (["exec", "--offline", "URI", "true"], "is not in the cache"),
        (["cache", "why"], "why needs one image"),
        (["limits", "not a registry"], "reference"),
    ],
)
def test_mistakes(hpcc: Puller, argv: list[str], said: str) -> None:
    done = hpcc(*(hpcc.uri if word == "URI" else word for word in argv))
    assert done.returncode == 255 and said in done.stderr and "HINT" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_passwords_are_on_no_command_line(hpcc: Puller) -> None:
    """Not even of the processes that hpcc starts for a run."""
    hpcc.registry.faults = Faults(delay=0.2)
    env = {**hpcc.env, "HPCC_DOCKER_USERNAME": "ann", "HPCC_DOCKER_PASSWORD": SECRET}
    uri = f"docker://{hpcc.registry.host}/lab/hidden:1"
    process = hpcc.person.popen(
        [hpcc.installed.hpcc, "exec", uri, "true"], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    seen = ""
    while process.poll() is None:
        seen += subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert process.returncode == 0, process.stderr and process.stderr.read()
    assert "lab/hidden" in seen and SECRET not in seen
