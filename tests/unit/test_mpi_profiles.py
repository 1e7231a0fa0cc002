"""Profiles of --mpi: what a site may write, what becomes of it on a host, and how it reaches the environment."""

from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import SettingsError, UsageError
from hpcc.runtime.environment import PREPEND_LIBRARIES, RunConfig, container_environment, script
from hpcc.runtime.mpi import PLACE, find_mpi, libraries_of
from hpcc.settings import Settings
from hpcc.siteprofiles import Profile, parse_profiles
from hpcc_slurm.check_mpi import findings, suggestion

HEADER = Path("/proc/self/exe").read_bytes()[:64]
FOREIGN = HEADER[:4] + bytes([3 - HEADER[4]]) + HEADER[5:]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """mpi/libmpi.so.12.2 and its names; fabric/ with two libraries and one of another machine; a device; a text."""
    for name in ("mpi", "fabric", "dev"):
        (tmp_path / name).mkdir()
    (tmp_path / "mpi/libmpi.so.12.2").write_bytes(HEADER)
    (tmp_path / "mpi/libmpi.so.12").symlink_to("libmpi.so.12.2")
    (tmp_path / "mpi/libmpi.so").symlink_to("libmpi.so.12")
    for name, data in (("libfabric.so.1", HEADER), ("libcxi.so.1", HEADER), ("libold.so.1", FOREIGN), ("notes", b"x")):
        (tmp_path / "fabric" / name).write_bytes(data)
    (tmp_path / "dev/cxi0").write_text("")
    return tmp_path


def settings(home: Path, text: str, **environ: str) -> Settings:
    (home / "config.toml").write_text(text)
    return Settings.from_environ({"HOME": str(home), **environ}, site_file=str(home / "config.toml"))


def test_a_profile_in_a_file(host: Path) -> None:
    text = f"""
[mpi_profiles.cray]
libraries = ["{host}/mpi/libmpi.so.12", "{host}/fabric"]
bind = "{host}/fabric:/opt/fabric:ro"
devices = ["{host}/dev/cxi*", "{host}/dev/none*"]
prepend = ["/opt/fabric"]
env = ["MPICH_*", "FI_PROVIDER"]
set = {{MPICH_X = "1"}}
"""
    found = find_mpi("cray", settings(host, text, MPICH_Y="2", FI_PROVIDER="cxi", FI_OTHER="no"))
    targets = {bind.target: bind.source for bind in found.binds if bind.target.startswith(PLACE)}
    assert targets == {
        f"{PLACE}/libmpi.so": f"{host}/mpi/libmpi.so.12", f"{PLACE}/libmpi.so.12": f"{host}/mpi/libmpi.so.12",
        f"{PLACE}/libfabric.so.1": f"{host}/fabric/libfabric.so.1",
        f"{PLACE}/libcxi.so.1": f"{host}/fabric/libcxi.so.1",
    }  # fmt: skip
    others = [bind for bind in found.binds if not bind.target.startswith(PLACE)]
    assert [(bind.source, bind.target, bind.readonly, bind.device) for bind in others] == [
        (f"{host}/fabric", "/opt/fabric", True, False),
        (f"{host}/dev/cxi0", f"{host}/dev/cxi0", False, True),
    ]
    assert dict(found.env) == {
        "MPICH_Y": "2", "FI_PROVIDER": "cxi", "MPICH_X": "1", PREPEND_LIBRARIES: f"{PLACE}:/opt/fabric",
    }  # fmt: skip


def test_what_is_not_there_is_an_error(host: Path) -> None:
    for libraries, words in (
        (f'"{host}/mpi/none.so"', "does not have"),
        (f'"{host}/fabric/libold.so.1"', "no library for this machine"),
        (f'"{host}/fabric/notes"', "no library for this machine"),
    ):
        with pytest.raises(UsageError, match=words):
            find_mpi("a", settings(host, f"[mpi_profiles.a]\nlibraries = [{libraries}]"))
    with pytest.raises(UsageError, match="no such profile") as caught:
        find_mpi("b", settings(host, f'[mpi_profiles.a]\nlibraries = ["{host}/mpi"]'))
    assert "Those there are: a." in caught.value.hint
    with pytest.raises(UsageError, match="no such profile"):
        find_mpi("b", settings(host, ""))
    assert libraries_of(Profile("a", (f"{host}/mpi/none*",))) == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x", "tables in a file"),
        ({"a": "x"}, "a: a table"),
        ({"a": {"libs": ["/x"]}}, "no key 'libs'"),
        ({"a": {"libraries": ["x"]}}, "absolute"),
        ({"a": {"libraries": [1]}}, "list of strings"),
        ({"a": {"env": ["X"]}}, "libraries, or a bind"),
        ({"a": {"bind": "/x", "set": {"A": 1}}}, "table of strings"),
    ],
)
def test_what_belongs_there(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_profiles(value)


def test_the_site_may_lock_them(host: Path) -> None:
    text = f'[locked.mpi_profiles.site]\nlibraries = "{host}/mpi/libmpi.so.12"\n'
    (host / ".config/hpcc").mkdir(parents=True)
    (host / ".config/hpcc/config.toml").write_text('[mpi_profiles.mine]\nlibraries = "/x"\n')
    assert [profile.name for profile in settings(host, text).mpi_profiles] == ["site"]
    with pytest.raises(SettingsError, match="HPCC_MPI_PROFILES"):
        settings(host, "", HPCC_MPI_PROFILES="x")


def environment(config: RunConfig, *options: tuple[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    env, override = container_environment(
        "x.sif", "/x.sif", config, {}, options, "exec", clean=True, compat=True, home="/",
        devices=((PREPEND_LIBRARIES, "/m:/n"),),
    )  # fmt: skip
    return dict(env), dict(override)


def test_before_the_images_libraries() -> None:
    env, _ = environment(RunConfig(("LD_LIBRARY_PATH=/image",)))
    assert env["LD_LIBRARY_PATH"] == "/m:/n:/image:/.singularity.d/libs" and PREPEND_LIBRARIES not in env
    assert environment(RunConfig())[0]["LD_LIBRARY_PATH"] == "/m:/n:/.singularity.d/libs"
    env, _ = environment(RunConfig(("LD_LIBRARY_PATH=/image",)), ("LD_LIBRARY_PATH", "/mine"))
    assert env["LD_LIBRARY_PATH"] == "/m:/n:/mine"


def test_before_those_of_an_image_with_scripts() -> None:
    import subprocess

    _, override = environment(RunConfig(scripts=True))
    for before, after in (("LD_LIBRARY_PATH=/image; export LD_LIBRARY_PATH", "/m:/n:/image:"), ("", "/m:/n:")):
        text = f"{before}\n{script(tuple(sorted(override.items())))}"
        done = subprocess.run(
            ["sh", "-c", text, "sh", "sh", "-c", "echo $LD_LIBRARY_PATH"], capture_output=True, text=True
        )
        assert done.stdout == f"{after}/.singularity.d/libs\n", done.stderr


def test_what_the_doctor_says() -> None:
    libraries = {"libmpi.so.12": "/opt/libmpi.so.12", "libfabric.so.1": "/opt/libfabric.so.1", "libpmi2.so.0": "/l/p"}
    devices = {"Slingshot": ["/dev/cxi0"], "XPMEM": []}
    found = list(findings(libraries, devices, {}))
    assert [row.state for row in found if row.what == "profiles"] == ["gap"]
    assert 'libraries = ["/opt/libmpi.so.12", "/opt/libfabric.so.1"] devices = ["/dev/cxi*"]' in suggestion(
        libraries, devices
    )
    found = list(findings(libraries, devices, {Profile("a"): (["libraries: x"], ""), Profile("b"): ([], "gone")}))
    assert {row.what: row.state for row in found if row.what.startswith("--mpi")} == {
        "--mpi a": "ok",
        "--mpi b": "fails",
    }
    (row,) = [row for row in findings({}, {}, {}) if row.what == "profiles"]
    assert row.state == "info"


def test_a_users_profiles_stand_beside_the_sites(host: Path) -> None:
    (host / ".config/hpcc").mkdir(parents=True)
    (host / ".config/hpcc/config.toml").write_text('[mpi_profiles.mine]\nlibraries = "/x"\n')
    found = settings(host, f'[mpi_profiles.site]\nlibraries = "{host}/mpi"\n').mpi_profiles
    assert [profile.name for profile in found] == ["site", "mine"]
