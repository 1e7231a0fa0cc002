"""Job scripts of hpcc_dask as text, run by their shell with a program in hpcc's place that says what it was given."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed import Security

from hpcc.errors import UsageError
from hpcc_dask import job_scripts
from hpcc_dask.command import container
from hpcc_dask.job_scripts import JobImage, shell_word
from hpcc_dask.walltime import lifetime_words, seconds

QUEUES = {
    "slurm": job_scripts.SLURM, "pbs": job_scripts.PBS, "lsf": job_scripts.LSF, "sge": job_scripts.SGE,
    "oar": job_scripts.OAR, "htcondor": job_scripts.HTCondor,
}  # fmt: skip
SCHEDULER = "tcp://10.0.0.1:8786"
EVIL = "a  b'\"`id`$(id)$HOME\\$(Owner) ;&é"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program that stands for hpcc writes its arguments and environment; its own path is no plain word."""
    out, program = tmp_path / "said", tmp_path / "my hpcc"
    code = "import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open(os.environ['SAID'], 'w'))"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr("hpcc_dask.command.program", lambda: [str(program)])
    return out


def job(queue: str, options: dict[str, Any] | None = None, path: str = "/images/a.sif", **kwargs: Any) -> Any:
    image = JobImage("docker://a", container(**(options or {})))
    image.path = path
    more = {"disk": "1 GB"} if queue == "htcondor" else {}
    more |= {"memory_per_core_property_name": "not_applicable"} if queue == "oar" else {}
    return QUEUES[queue](SCHEDULER, "w-0", image=image, cores=1, memory="1 GiB", **more, **kwargs)


def run(queue: str, script: str, said: Path) -> tuple[list[str], dict[str, str]]:
    """What a job of this script gives to hpcc."""
    argv = ["bash", "-c", script]
    if queue == "htcondor":
        found = re.search(r'^Arguments = "(.*)"$', script, re.M)
        assert found
        # as condor_submit reads its new syntax: "" is a ", blanks part words but within '…', where '' is a '
        text = re.sub(r"\$\((\w+)\)", lambda each: {"DOLLAR": "$"}.get(each[1], "EXPANDED"), found[1])
        parts = re.findall(r"((?:[^ ']|'(?:[^']|'')*')+)", text.replace('""', '"'))
        argv = ["/bin/sh", *(re.sub(r"'((?:[^']|'')*)'", lambda each: each[1].replace("''", "'"), p) for p in parts)]
    env = {**os.environ, "SAID": str(said), "SCRATCH": "/scratch/job 7", "HOME": "/home/x"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, cwd=said.parent)
    assert done.returncode == 0, (script, done.stderr)
    words, environ = json.loads(said.read_text())
    return words, environ


@pytest.mark.parametrize("queue", QUEUES)
def test_each_word_arrives_as_it_was_given(queue: str, said: Path) -> None:
    options: dict[str, Any] = {
        "binds": [f"/{EVIL}:/mnt"],
        "env": {"VALUE": EVIL},
        "contain": True,
        "args": ["--cwd", EVIL],
    }
    made = job(
        queue, options, f"/images/{EVIL}.sif", local_directory=f"/local/{EVIL}", lifetime="9m",
        worker_extra_args=["--preload", EVIL, "--resources GPU=1"],
    )  # fmt: skip
    words, environ = run(queue, made.job_script(), said)
    at = words.index("--")
    assert words[at + 1 : at + 6] == [f"/images/{EVIL}.sif", "python3", "-m", "distributed.cli.dask_worker", SCHEDULER]
    assert words[:2] == ["exec", "--job-env"] and "--contain" in words[:at]
    assert words[words.index("--bind") + 1] == f"/{EVIL}:/mnt"
    assert words[at - 2 : at] == ["--cwd", EVIL]
    worker = words[at + 6 :]
    assert worker[:4] == ["--name", "w-0", "--nthreads", "1"]
    assert worker[worker.index("--local-directory") + 1] == f"/local/{EVIL}"
    assert worker[-6:] == ["--preload", EVIL, "--resources", "GPU=1", "--lifetime", "9m"]
    assert environ["HPCCENV_VALUE"] == EVIL


def test_a_local_directory_is_there_in_a_contained_worker(said: Path) -> None:
    """But not one that a variable of the job names, which --job-env binds."""
    words, _ = run("slurm", job("slurm", {"compat": True}, local_directory="/local/a:b").job_script(), said)
    assert words[:5] == ["exec", "--job-env", "--compat", "--bind", "/local/a\\:b:/local/a\\:b"]
    words, _ = run("slurm", job("slurm", {"compat": True}, local_directory="$SCRATCH/a $b").job_script(), said)
    assert "--bind" not in words and words[words.index("--local-directory") + 1] == "/scratch/job 7/a $b"


@pytest.mark.parametrize(
    ("path", "word"),
    [("/a/b", "/a/b"), ("~/a b", "~/'a b'"), ("$HOME", '"$HOME"'), ("${A}/", '"${A}"/'), ("$(id)", "'$(id)'"),
     ("a/$B", "'a/$B'"), ("$A$B", "'$A$B'"), ("~root", "'~root'")],
)  # fmt: skip
def test_what_a_shell_expands(path: str, word: str) -> None:
    assert shell_word(path) == word


def test_certificates_of_tls(said: Path) -> None:
    files = {"tls_ca_file": "/tls/a b,c.pem", "tls_worker_cert": "/tls/c'.pem", "tls_worker_key": "$SCRATCH/k.pem"}
    security = Security(require_encryption=True, **files)
    words, _ = run("pbs", job("pbs", {"contain": True}, security=security, protocol="tls://").job_script(), said)
    pairs = {words[i]: words[i + 1] for i in range(len(words) - 1)}
    assert (pairs["--tls-ca-file"], pairs["--tls-cert"]) == ("/tls/a b,c.pem", "/tls/c'.pem")
    assert pairs["--tls-key"] == "/scratch/job 7/k.pem" and pairs["--protocol"] == "tls://"
    binds = [words[i + 1] for i in range(len(words)) if words[i] == "--bind"]
    assert binds == ["/tls/a b\\,c.pem:/tls/a b\\,c.pem:ro", "/tls/c'.pem:/tls/c'.pem:ro"]
    assert security.tls_ca_file == "/tls/a b,c.pem"  # the caller's is as it was


def test_a_script_is_the_job_itself(said: Path) -> None:
    """The worker takes the shell's place, behind the prologue."""
    script = job("slurm", job_script_prologue=["export FIRST=1", "trap : EXIT"]).job_script()
    lines = script.splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and lines[-3:-1] == ["export FIRST=1", "trap : EXIT"]
    assert lines[-1].startswith("exec ")
    _, environ = run("slurm", script, said)
    assert environ["FIRST"] == "1"


def test_others_cannot_read_a_script() -> None:
    old = os.umask(0)
    try:
        with job("slurm", {"env": {"TOKEN": "secret"}}).job_file() as path:
            assert "secret" in Path(path).read_text() and os.stat(path).st_mode & 0o077 == 0
    finally:
        os.umask(old)
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("kwargs", "options", "message"),
    [
        ({"job_name": "a b"}, {}, "job_name='a b'"),
        ({"log_directory": "/a b"}, {}, "log_directory='/a b'"),
        ({}, {"env": {"A": "1\n2"}}, "A has more than one line"),
        ({"worker_extra_args": "--a"}, {}, "a list of strings"),
        ({"walltime": "soon"}, {}, "walltime='soon' is not understood"),
    ],
)
def test_what_no_script_can_have(kwargs: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        job("slurm", options, **kwargs)
    assert raised.value.hint == "".join(getattr(raised.value, "__notes__", ()))  # shown below it in Python
    assert not os.path.exists("/a b")


@pytest.mark.parametrize(
    ("walltime", "forms", "expected"),
    [
        ("1-02:03:04", "mm", 93784), ("2-01", "mm", 176400), ("01:30:00", "mm", 5400), ("05:30", "mm", 330),
        ("90", "mm", 5400), ("01:30", "mh", 5400), ("90", "mh", 5400), ("90", "sm", 90), ("2", "hh", 7200),
        ("infinite", "mm", None), ("UNLIMITED", "mm", None),
    ],
)  # fmt: skip
def test_walltimes(walltime: str, forms: str, expected: int | None) -> None:
    assert seconds(walltime, forms) == expected


def test_a_lifetime_below_the_walltime(said: Path) -> None:
    assert lifetime_words(3600) == ["--lifetime", "3300s", "--lifetime-stagger", "150s"]
    assert lifetime_words(60) == ["--lifetime", "45s", "--lifetime-stagger", "7s"]
    assert lifetime_words(29) == []
    for queue in set(QUEUES) - {"htcondor"}:  # which has no walltime
        assert "--lifetime 45s" in job(queue, walltime="00:01:00").job_script(), queue
    assert "--lifetime 3300s" in job("lsf", walltime="01:00").job_script()
    assert "--lifetime" not in job("slurm", walltime="01:00:00", lifetime=False).job_script()
    assert "--lifetime" not in job("slurm", walltime="UNLIMITED").job_script()
    own = job("slurm", walltime="01:00:00", worker_extra_args=["--lifetime", "5m"]).job_script()
    assert own.count("--lifetime") == 1 and "--lifetime 5m" in own


@pytest.mark.parametrize("module", ["jobqueue", "runner", "job_scripts"])
def test_ctrl_c_is_what_it_was(module: str) -> None:
    """dask-jobqueue alone has it end the interpreter, whatever imports it."""
    program = f"import signal, hpcc_dask.{module}; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
