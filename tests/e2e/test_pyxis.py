"""hpcc pyxis-importer, called as pyxis calls it; unsquashfs stands for `enroot create`, which runs it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_pull import Puller, hpcc, registry  # noqa: F401
from tests.support.real import need

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "PYXIS_RUNTIME_PATH": "/run/pyxis", "PYXIS_VERSION": "0.21.0"}


@pytest.fixture
def importer(hpcc: Puller) -> Path:  # noqa: F811
    """The file that plugstack.conf names."""
    done = hpcc("pyxis-importer", "--print")
    assert done.returncode == 0, done.stderr
    path = hpcc.path("importer")
    path.write_text(done.stdout)
    path.chmod(0o755)
    return path


def call(hpcc: Puller, importer: Path, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":  # noqa: F811
    return hpcc.person.run([importer, *words], env={**hpcc.env, **STEP, **env})


def uri(hpcc: Puller) -> str:  # noqa: F811
    return f"docker://{hpcc.registry.host}#lab/tools:1.4"


def test_get_and_release(hpcc: Puller, importer: Path) -> None:  # noqa: F811
    done = call(hpcc, importer, "get", uri(hpcc))
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.removesuffix("\n"))
    assert "\n" not in str(path) and path.parent == hpcc.person.home / "node/enroot-steps"
    argv = [need("unsquashfs"), "-no-progress", "-user-xattrs", "-d", hpcc.path("rootfs"), path]
    unpacked = hpcc.person.run(argv)
    assert unpacked.returncode == 0, unpacked.stderr
    assert hpcc.path("rootfs/etc/greeting").read_text() == "hello from the image\n"
    assert hpcc.path("rootfs/etc/environment").read_text() == "PATH=/bin\n"
    assert "exec /bin/echo says" in hpcc.path("rootfs/etc/rc").read_text()
    # Again, from another step: nothing is asked for, nothing made.
    asked, made = len(hpcc.registry.requests), path.stat().st_ino
    other = call(hpcc, importer, "get", uri(hpcc), SLURM_STEP_ID="1").stdout.strip()
    assert other != str(path) and os.stat(other).st_ino == made
    assert call(hpcc, importer, "get", uri(hpcc)).stdout.strip() == str(path)  # idempotent
    assert len(hpcc.registry.requests) == asked
    for _ in range(2):
        done = call(hpcc, importer, "release")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not path.exists() and Path(other).exists()
    assert call(hpcc, importer, "release", SLURM_STEP_ID="99").returncode == 0


def test_it_stays_until_release_whatever_the_store_does(hpcc: Puller, importer: Path) -> None:  # noqa: F811
    path = Path(call(hpcc, importer, "get", uri(hpcc)).stdout.strip())
    store = hpcc.person.home / "node/enroot-v1"
    (made,) = [each for each in store.iterdir() if each.suffix not in (".lock", ".making")]
    made.unlink()
    assert path.read_bytes()[:4] == b"hsqs"
    os.utime(path.parent)
    by_hand = call(hpcc, importer, "get", uri(hpcc), SLURM_JOB_ID="").stdout.strip()
    assert by_hand == str(made)


def test_many_steps_at_once_make_it_once(hpcc: Puller, importer: Path) -> None:  # noqa: F811
    running = [
        hpcc.person.popen(
            [importer, "get", uri(hpcc)],
            env={**hpcc.env, **STEP, "SLURM_STEP_ID": str(n)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(6)
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 6, said
    assert len({os.stat(out.strip()).st_ino for out, _ in said}) == 1 and len({out for out, _ in said}) == 6
    assert sum(each[0] == "GET" and "/blobs/" in each[1] for each in hpcc.registry.requests) == 3


def test_failures_say_why_and_print_no_path(hpcc: Puller, importer: Path) -> None:  # noqa: F811
    for words in (["get", "dockerd://x"], ["get", f"docker://{hpcc.registry.host}#lab/none"], ["get"], ["other"]):
        done = call(hpcc, importer, *words)
        assert done.returncode == 255 and done.stdout == "" and "Traceback" not in done.stderr, done.stderr
        assert "FATAL" in done.stderr and "HINT" in done.stderr


def test_a_job_without_home(hpcc: Puller, importer: Path) -> None:  # noqa: F811
    done = call(hpcc, importer, "get", uri(hpcc), HOME="")
    assert done.returncode == 0 and Path(done.stdout.strip()).exists(), done.stderr
