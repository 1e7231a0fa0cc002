"""The command line itself: help, mistakes, settings, cache; and what a warm run imports."""

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.cli import COMMANDS, cache, instance, overlay, registry, sif
from hpcc.errors import SettingsError
from hpcc.registry.fake import FakeRegistry
from hpcc.settings import KEYS, Settings
from hpcc.version import __version__
from tests.e2e.test_pull import CONFIG, LAYERS, NAME, Puller
from tests.support.images import images
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import config_of

SUBCOMMANDS = [
    *COMMANDS,
    *(f"cache {name}" for name in cache.SUBCOMMANDS),
    *(f"instance {name}" for name in instance.SUBCOMMANDS),
    *(f"overlay {name}" for name in overlay.SUBCOMMANDS),
    *(f"registry {name}" for name in registry.SUBCOMMANDS),
    *(f"sif {name}" for name in sif.SUBCOMMANDS),
]


@pytest.fixture
def hpcc(plain_user: Person, installed: Installation, open_dir: Path) -> Iterator[Puller]:
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    with FakeRegistry() as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        yield Puller(plain_user.at(home), installed, registry)


# -- help and mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *SUBCOMMANDS])
def test_help(hpcc: Puller, command: str) -> None:
    done = hpcc(*command.split(), "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(("Usage: hpcc", "hpcc: "))
    too_long = [line for line in done.stdout.splitlines() if len(line) > 80]
    assert not too_long
    assert re.search(r"Example:\n  hpcc ", done.stdout), done.stdout


def test_help_of_a_command_in_two_ways(hpcc: Puller) -> None:
    assert hpcc("help", "pull").stdout == hpcc("pull", "--help").stdout == hpcc("pull", "-h").stdout
    assert hpcc().stdout == hpcc("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in hpcc("--help").stdout


def test_version(hpcc: Puller) -> None:
    assert hpcc("--version").stdout == f"hpcc version {__version__}\n"
    assert hpcc("version").stdout == f"hpcc version {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said", "usage"),
    [
        (["pulll"], "pulll", "Did you mean pull"),
        (["--nonsense"], "--nonsense", "hpcc --help"),
        (["pull"], "URI", "Usage: hpcc pull"),
        (["pull", "--nonsense", "docker://x"], "--nonsense", "Usage: hpcc pull"),
        (["pull", "a", "b", "c"], "URI", "Usage: hpcc pull"),
        (["pull", "--name", "x", "y", "docker://z"], "twice", "Usage: hpcc pull"),
        (["exec", "--bind"], "--bind needs a value", "Usage: hpcc exec"),
        (["exec", "--compat=perhaps", "x", "y"], "--compat", "Usage: hpcc exec"),
        (["run"], "no image", "Usage: hpcc run"),
        (["shell"], "no image", "Usage: hpcc shell"),
        (["inspect"], "one image", "Usage: hpcc inspect"),
        (["cache"], "subcommand", "list, clean"),
        (["cache", "list", "--type", "nonsense"], "nonsense", "sif"),
        (["config", "nonsense"], "nonsense", "hpcc config"),
        (["shim"], "enable", "Usage: hpcc shim"),
        (["shim", "nonsense"], "enable", "Usage: hpcc shim"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(hpcc: Puller, argv: list[str], said: str, usage: str) -> None:
    done = hpcc(*argv)
    assert done.returncode == 255 and done.stdout == "" and "Traceback" not in done.stderr
    assert re.match(f"FATAL: .*{re.escape(said)}", done.stderr), done.stderr
    assert usage in done.stderr and "\nHINT: " in done.stderr, done.stderr


def test_a_closed_stdout_is_no_traceback(hpcc: Puller) -> None:
    line = f"{hpcc.installed.hpcc} config | true"
    for _ in range(3):
        assert hpcc.person.run(["bash", "-c", line]).stderr == ""


def test_debug_shows_where_an_error_arose(hpcc: Puller) -> None:
    done = hpcc("--debug", "exec", "no-such.sif", "true")
    assert "Traceback" in done.stderr and done.returncode == hpcc("exec", "no-such.sif", "true").returncode == 255


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_a_stdout_that_takes_nothing(hpcc: Puller, where: str) -> None:
    done = hpcc.person.run(["/bin/sh", "-c", f'"$0" --version {where}', hpcc.installed.hpcc], env=hpcc.env)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if where == ">/dev/full":
        assert done.returncode == 255 and "cannot write to stdout: No space left on device" in done.stderr
    assert "Traceback" not in hpcc("exec", "no-such.sif", "true").stderr


# -- settings --------------------------------------------------------------------------------------------------------


def test_every_setting_is_shown_with_its_origin(hpcc: Puller) -> None:
    rows = json.loads(hpcc("config", "--json").stdout)
    assert rows.keys() == KEYS.keys()
    assert rows["cache_dir"] == {"value": str(hpcc.cache), "origin": "HPCC_CACHE_DIR"}
    assert rows["ttl"] == {"value": 3600.0, "origin": "default"}
    text = hpcc("config").stdout
    for name, key in KEYS.items():
        assert re.search(rf"^{name} = .*\n    {re.escape(key.help)}\n    from: .+$", text, re.M), name
    assert hpcc("config", "cache_dir").stdout == f"{hpcc.cache}\n"


def test_environment_over_user_file(hpcc: Puller) -> None:
    directory = hpcc.person.home / ".config/hpcc"
    directory.mkdir(parents=True)
    (directory / "config.toml").write_text('ttl = 7\nbind_paths = ["/data"]\nhold_idle = 3\n')
    assert hpcc("config", "ttl").stdout == "7\n"
    assert hpcc("config", "ttl", env={"HPCC_TTL": "9"}).stdout == "9\n"
    assert hpcc("config", "bind_paths", env={"APPTAINER_BIND": "/a,/b"}).stdout == "/data:/a:/b\n"  # adds up
    assert hpcc("config", "bind_paths", env={"APPTAINER_BIND": "/a", "HPCC_BIND_PATHS": "/c"}).stdout == "/data:/c\n"
    env = {"SINGULARITY_NOHTTPS": "1", "APPTAINER_NOHTTPS": "0"}
    assert hpcc("config", "nohttps", env=env).stdout == "false\n"
    (directory / "config.toml").write_text("tttl = 7\n")
    done = hpcc("config")
    assert done.returncode == 255 and "'tttl'" in done.stderr and str(directory) in done.stderr
    done = hpcc("config", env={"HPCC_TTL": "soon", "XDG_CONFIG_HOME": "/nonexistent"})
    assert done.returncode == 255 and "HPCC_TTL" in done.stderr and "'soon'" in done.stderr


def test_environment_over_user_file_over_site_file_and_locked_keys(tmp_path: Path) -> None:
    site, user = tmp_path / "site.toml", tmp_path / "xdg/hpcc/config.toml"
    user.parent.mkdir(parents=True)
    site.write_text('ttl = 1\nlock_wait = 1\nhold_idle = 1\n[locked]\nrootfs = "unpacked"\ntrusted_users = ["root"]\n')
    user.write_text('lock_wait = 2\nhold_idle = 2\nrootfs = "kernel"\n')
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HPCC_HOLD_IDLE": "3",
               "HPCC_ROOTFS": "squashfuse", "HPCC_TRUSTED_USERS": "mallory"}  # fmt: skip
    found = Settings.from_environ(environ, site_file=str(site))
    assert (found.ttl, found.lock_wait, found.hold_idle) == (1.0, 2.0, 3.0)
    assert (found.rootfs, found.trusted_users) == ("unpacked", ("root",))
    origins = [found.origins[name] for name in ("ttl", "lock_wait", "hold_idle", "rootfs", "keep_blobs")]
    assert origins == [str(site), str(user), "HPCC_HOLD_IDLE", f"{site}, locked", "default"]
    assert found.replace(ttl=5.0).ttl == 5.0 and found.ttl == 1.0
    with pytest.raises(AttributeError):
        found.ttl = 6.0  # type: ignore[misc]
    for text in ("locked = 3\n", "ttl = [\n", "[locked]\nnonsense = 1\n", 'ttl = "soon"\n'):
        site.write_text(text)
        with pytest.raises(SettingsError, match=re.escape(str(site))):
            Settings.from_environ(environ, site_file=str(site))


def test_apptainers_cache_variables_name_a_parent(hpcc: Puller) -> None:
    env = {"HPCC_CACHE_DIR": "", "APPTAINER_CACHEDIR": "/a", "SINGULARITY_CACHEDIR": "/s"}
    assert hpcc("config", "cache_dir", env=env).stdout == "/a/hpcc\n"
    assert hpcc("config", "cache_dir", env={**env, "HPCC_CACHE_DIR": "/h"}).stdout == "/h\n"


# -- the cache -------------------------------------------------------------------------------------------------------

SUMMARY = (
    r"There are (\d+) container file\(s\) using (\S+ \S+) and (\d+) oci blob file\(s\) using (\S+ \S+) of space\n"
    r"(?:and \d+ converted layer\(s\) using \S+ \S+\n)?Total space used: (\S+ \S+)\n"
)


def filled(hpcc: Puller) -> None:
    assert hpcc("pull", "one.sif", hpcc.uri).returncode == 0
    hpcc.registry.add_image("other", "2", LAYERS[:1], config_of(LAYERS[:1]))
    assert hpcc("pull", "two.sif", f"docker://{hpcc.registry.host}/other:2").returncode == 0


def test_cache_list(hpcc: Puller) -> None:
    assert re.fullmatch(SUMMARY, hpcc("cache", "list").stdout)
    assert not hpcc.cache.exists()  # to look makes nothing
    filled(hpcc)
    found = re.fullmatch(SUMMARY, hpcc("cache", "list").stdout)
    assert found and found[1] == "2" and int(found[3]) >= len(LAYERS)
    verbose = hpcc("cache", "list", "-v").stdout
    assert verbose.startswith("NAME ") and f"{hpcc.registry.host}/{NAME}" in verbose
    rows = json.loads(hpcc("cache", "list", "--json").stdout)
    assert {row["kind"] for row in rows} == {"sif", "blob", "pack"}
    assert sum(row["kind"] == "sif" for row in json.loads(hpcc("cache", "list", "--json", "-T", "sif").stdout)) == 2


def test_cache_clean(hpcc: Puller) -> None:
    filled(hpcc)
    before = hpcc.objects()
    dry = hpcc("cache", "clean", "--dry-run")
    assert dry.returncode == 0 and "Would remove sif" in dry.stdout and "Nothing was removed" in dry.stdout
    asked = hpcc("cache", "clean")
    assert asked.returncode == 255 and "--force" in asked.stderr and "--dry-run" in asked.stdout
    assert hpcc("cache", "clean", "--force", "--days", "1").stdout == "There is nothing of yours to remove.\n"
    assert hpcc.objects() == before
    assert hpcc("cache", "clean", "--force", "--name", f"docker://{hpcc.registry.host}/other:2").returncode == 0
    assert len([name for name in hpcc.objects() if name.endswith(".sif")]) == 1
    assert hpcc("cache", "clean", "-f", "-T", "sif,pack").returncode == 0
    assert {name.split("/")[0] for name in hpcc.objects()} & {"sif-v1", "packs-v1"} == set()
    assert hpcc("cache", "clean", "-f").returncode == 0
    found = re.fullmatch(SUMMARY, hpcc("cache", "list").stdout)
    assert found and found[1] == found[3] == "0"
    assert hpcc("run", hpcc.uri).stdout == "says hi\n"  # and it fills again


def test_cache_clean_asks_on_a_terminal(hpcc: Puller) -> None:
    import pty

    filled(hpcc)
    for answer, left in ((b"\n", 2), (b"n\n", 2), (b"y\n", 0)):
        leader, follower = pty.openpty()
        os.write(leader, answer)
        done = hpcc("cache", "clean", "-T", "sif", stdin=follower)
        os.close(leader)
        os.close(follower)
        assert done.returncode == 0 and "[N/y]" in done.stdout
        assert len([name for name in hpcc.objects() if name.endswith(".sif")]) == left


def test_the_cache_is_closed_to_others(hpcc: Puller) -> None:
    filled(hpcc)
    for path in hpcc.cache.rglob("*"):  # within a directory that nobody else can pass through
        assert path.parent.name == "locks" or not stat.S_IMODE(path.stat().st_mode) & 0o022, path
    assert stat.S_IMODE(hpcc.cache.stat().st_mode) == 0o700


# -- what a warm run imports -------------------------------------------------------------------------------------------

HEAVY = {
    "requests", "ssl", "asyncio", "tarfile", "dataclasses", "filelock", "inspect", "logging", "subprocess", "email",
    "argparse", "json", "typing", "re", "urllib", "http", "importlib.metadata", "concurrent.futures", "tempfile",
    "shutil", "rich",
}  # fmt: skip


def imported(hpcc: Puller, *argv: object) -> set[str]:
    """The modules that a run imports, as bin/hpcc starts it."""
    (site,) = hpcc.installed.venv.glob("lib/python3*/site-packages")
    words = [hpcc.installed.python, "-X", "importtime", "-I", "-S", site / "hpcc/__main__.py", *map(str, argv)]
    done = hpcc.person.run(words, env={**hpcc.env, "HPCC_SITE_PACKAGES": str(site)})
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.M))


def test_a_warm_run_of_a_sif_imports_little(hpcc: Puller) -> None:
    image = images().main
    imported(hpcc, "exec", image, "true")
    found = imported(hpcc, "exec", image, "true")
    assert sorted(found & HEAVY) == []
    commands = {name for name in found if name.startswith("hpcc.cli.")}
    assert commands <= {"hpcc.cli.arguments", "hpcc.cli.run", "hpcc.cli.source", "hpcc.cli.terminal"}
    assert not {name for name in found if name.startswith(("hpcc.registry", "hpcc.sources", "hpcc.pulling"))}


def test_a_warm_run_of_a_docker_uri_imports_little(hpcc: Puller) -> None:
    assert hpcc("exec", hpcc.uri, "true").returncode == 0
    asked = list(hpcc.registry.requests)
    found = imported(hpcc, "exec", hpcc.uri, "true")
    assert sorted(found & HEAVY) == []
    assert not {name for name in found if name.startswith(("hpcc.registry", "hpcc.sources", "hpcc.pulling"))}
    assert hpcc.registry.requests == asked


def test_site_is_not_imported(hpcc: Puller) -> None:
    """What pip put beside hpcc, with its .pth files, must not slow each run down."""
    assert "site" not in imported(hpcc, "--version")
    done = subprocess.run(["sh", "-n", hpcc.installed.hpcc], check=False)
    assert done.returncode == 0
