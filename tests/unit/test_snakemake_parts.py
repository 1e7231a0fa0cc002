"""hpcc_snakemake without Snakemake: words, variables, states, and what is tried again."""

import os
import time
from pathlib import Path

import pytest

from hpcc.cli.arguments import parse
from hpcc.errors import HpccError, ImageNotFound, LockTimeout, RateLimited, RegistryUnavailable, UsageError
from hpcc.progress import SILENT, Progress
from hpcc.runtime.allotted import is_allotted
from hpcc.settings import Settings
from hpcc_snakemake import fetch as fetching
from hpcc_snakemake.options import option_words
from hpcc_snakemake.prefetch import split_arguments
from hpcc_snakemake.resolve import Container
from hpcc_snakemake.run import COMMAND, environment
from hpcc_snakemake.snakemakes import with_options


def test_option_words() -> None:
    words = option_words({"compat": True, "contain": False, "nv": True}, ["/a:/b", "/c"], {"B": "2", "A": "x, y"}, [])
    assert words == ("--compat", "--nv", "--bind", "/a:/b", "--bind", "/c", "--env", "A=x, y", "--env", "B=2")
    assert option_words({}, "/a:/b:ro", {}, ["--no-home"]) == ("--bind", "/a:/b:ro", "--no-home")
    for binds, env, args in (
        (["/a:b"], {}, []), ([], {"not a name": "x"}, []), ([], {"A": "1,B=2"}, []), ([], {}, ["image.sif"]),
        ([], {}, ["--no-such"]), ([], {}, ["--"]), ([], {}, "--no-home"), ([], {}, ["--help"]),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            option_words({}, binds, env, args)


def test_split_arguments() -> None:
    argv = ["--list", "-s", "Snakefile", "--bundle", "x.tar", "all", "--config", "a=1", "--patience=3", "--", "--json"]
    assert split_arguments(argv) == (
        ["--list", "--bundle", "x.tar", "--patience=3"],
        ["-s", "Snakefile", "all", "--config", "a=1", "--", "--json"],
    )
    assert split_arguments(["-q", "-h"]) == (["-h"], ["-q"])
    assert with_options(["a", "--", "b"], ["--x"]) == ["a", "--x", "--", "b"]


def test_what_run_sets() -> None:
    """What the caller has set stays; two runs have two names."""
    base = {"HOME": "/h", "PATH": "/bin"}

    def made(*argv: str, **environ: str) -> dict[str, str]:
        settings = Settings.from_environ({**base, **environ}, site_file="/nonexistent")
        return environment(parse(COMMAND, argv), settings, "/work", "/shim")

    found = made()
    assert (found["PATH"], found["HPCC_PROJECT"], found["HPCC_NV"]) == ("/shim:/bin", "/work", "auto")
    assert found["HPCC_RUN_ID"] != made()["HPCC_RUN_ID"] and "HPCC_COMPAT" not in found
    assert made(HPCC_RUN_ID="mine")["HPCC_RUN_ID"] == "mine" and "HPCC_NV" not in made(APPTAINER_NV="1")
    found = made("--compat", "--frozen", "--no-gpu", HPCC_NV="1")
    assert (found["HPCC_COMPAT"], found["HPCC_FROZEN"], found["HPCC_NV"], found["HPCC_ROCM"]) == ("1", "1", "0", "0")


def test_gpus_that_were_given(tmp_path: Path) -> None:
    device = tmp_path / "nvidiactl"
    drivers = {"nv": (str(device),), "rocm": ("/nonexistent",)}
    job = {"SLURM_JOB_ID": "7"}
    given = [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"SLURM_JOB_GPUS": "0"}, {"SLURM_STEP_GPUS": "1"}]
    assert not any(is_allotted("nv", {**job, **each}, drivers) for each in given)  # no driver here
    device.touch()
    assert all(is_allotted("nv", {**job, **each}, drivers) for each in given)
    assert is_allotted("nv", {}, drivers) and not is_allotted("rocm", {}, drivers)  # a workstation
    for value in ("", "NoDevFiles", "-1", "none"):
        assert not is_allotted("nv", {**job, "CUDA_VISIBLE_DEVICES": value}, drivers)
    assert not is_allotted("nv", job, drivers) and not is_allotted("nv", {"PBS_JOBID": "1"}, drivers)


# -- again, where that helps -----------------------------------------------------------------------------------------


class _Told(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def container(name: str) -> Container:
    return Container(f"docker://lab/{name}:1", f"/prefix/{name}.simg", ("rule",))


def test_pauses() -> None:
    assert fetching.pause_after(RateLimited("x", wait=30)) == 31
    assert fetching.pause_after(RateLimited("x")) == fetching.pause_after(RegistryUnavailable("x")) == 61
    assert fetching.pause_after(LockTimeout("x")) == 5 and fetching.pause_after(ImageNotFound("x")) is None


def test_again_until_patience_ends(monkeypatch: pytest.MonkeyPatch, hpcc_env: Path) -> None:
    slept: list[float] = []
    fails = {"once": [RateLimited("busy", wait=2)], "never": [ImageNotFound("no")], "good": [],
             "always": [RateLimited("busy", wait=2)] * 99}  # fmt: skip

    def fetch(wanted: Container, settings: Settings, progress: Progress, *, replace: bool) -> None:
        errors = fails[wanted.path.rpartition("/")[2].removesuffix(".simg")]
        if errors:
            raise errors.pop()

    start, monotonic = time.monotonic(), time.monotonic
    monkeypatch.setattr(fetching, "fetch", fetch)
    monkeypatch.setattr(fetching.time, "sleep", slept.append)
    monkeypatch.setattr(fetching.time, "monotonic", lambda: monotonic() + sum(slept))
    told = _Told()
    wanted = [container(name) for name in ("once", "never", "good", "always")]
    failed = fetching.fetch_all(wanted, Settings.from_environ(), lambda _: told, replace=False, patience=30)
    assert [(each.path, type(error)) for each, error in failed] == [
        ("/prefix/never.simg", ImageNotFound), ("/prefix/always.simg", RateLimited),
    ]  # fmt: skip
    assert 3 <= len(slept) <= 11 and "busy. Trying again in 3 s" in told.warnings
    assert monotonic() - start < 20


def test_a_file_is_not_fetched_but_looked_at(hpcc_env: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "tools.sif")
    wanted = Container(path, path, ("rule",))
    settings = Settings.from_environ()
    assert fetching.state_of(wanted, settings).state == "missing"
    with pytest.raises(HpccError, match="is a file that is not there"):
        fetching.fetch(wanted, settings, SILENT, replace=False)
    Path(path).touch()
    assert fetching.state_of(wanted, settings).state == "ready" and sorted(os.listdir(tmp_path)) == [
        "home",
        "tools.sif",
    ]
