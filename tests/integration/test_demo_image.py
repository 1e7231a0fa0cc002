"""The demo's image starts: its layers unpacked as a plain tar would, and programs run in a chroot."""

import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from hpcc.cli.demo_image import DemoImage, build_demo_layers
from tests.support.people import Person
from tests.support.real import need


@pytest.fixture(scope="module")
def image() -> DemoImage:
    return build_demo_layers()


def entries(layer: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as tar:
        return {entry.name: entry for entry in tar.getmembers()}


@pytest.fixture(scope="module")
def root(image: DemoImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layers unpacked over each other, the whiteout carried out."""
    root = tmp_path_factory.mktemp("demo")
    for layer in image.layers:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as tar:
            tar.extraction_filter = lambda member, _: member  # Debian's 3.11.2 knows no filter, 3.14 has a strict one
            tar.extractall(root)
    for whiteout in list(root.rglob(".wh.*")):
        whiteout.with_name(whiteout.name.removeprefix(".wh.")).unlink()
        whiteout.unlink()
    return root


def run_inside(root: Path, *argv: str) -> str:
    environment = {"PATH": "/usr/local/bin:/usr/bin", "GREETING": "hi"}
    done = subprocess.run([need("chroot"), root, *argv], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_layers_and_configuration_agree(image: DemoImage) -> None:
    assert len(image.layers) == 3
    diff_ids = [f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}" for layer in image.layers]
    assert image.config["rootfs"] == {"type": "layers", "diff_ids": diff_ids}
    assert 'GREETING=hello world "quoted" $HOME' in image.config["config"]["Env"]
    assert sum(map(len, image.layers)) < 60 << 20


def test_kinds_of_entries(image: DemoImage) -> None:
    base, python, app = map(entries, image.layers)
    assert base["etc/motd"].isreg() and app["etc/.wh.motd"].isreg() and app["etc/.wh.motd"].size == 0
    assert app["usr/local/bin/greet"].islnk() and app["usr/local/bin/greet"].linkname in app
    assert app["opt/app/latest.py"].issym() and python["usr/bin/python3"].issym()
    assert stat.S_IMODE(base["tmp"].mode) == 0o1777
    for layer in (base, python, app):
        assert {(entry.uid, entry.gid) for entry in layer.values()} == {(0, 0)}
        assert all(not name.startswith("/") and ".." not in name.split("/") for name in layer)
    assert not [name for name in python if "site-packages" in name or name.endswith(".pyc")]


def test_two_builds_are_equal(image: DemoImage) -> None:
    assert build_demo_layers() == image


@pytest.mark.root
def test_python_starts_with_its_standard_library(root: Path) -> None:
    code = "import bz2, ctypes, decimal, hashlib, json, lzma, socket, sqlite3, ssl, sys, zlib; print(sys.prefix, 6 * 7)"
    assert run_inside(root, "python3", "-c", code) == "/usr 42\n"


@pytest.mark.root
def test_shell_and_tools_start(root: Path, image: DemoImage) -> None:
    assert {"bin", "etc", "usr", "proc", "tmp"} <= set(run_inside(root, "bash", "-c", "ls /").split())
    assert run_inside(root, "sh", "-c", "echo b a | tr ' ' '\\n' | sort | head -n 1") == "a\n"
    assert "motd" not in run_inside(root, "ls", "/etc")
    tools = [name for name in entries(image.layers[0]) if name.startswith("usr/bin/")]
    assert len(tools) > 40
    for tool in tools:  # 127 or a signal is a library that was not found
        done = subprocess.run(
            [need("chroot"), root, f"/{tool}", "--version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60
        )
        assert 0 <= done.returncode < 126, (tool, done.stderr)
        assert b"shared librar" not in done.stderr, (tool, done.stderr)


@pytest.mark.root
def test_entrypoint_says_hello(root: Path, image: DemoImage) -> None:
    configuration = image.config["config"]
    said = run_inside(root, *configuration["Entrypoint"], *configuration["Cmd"])
    assert said.startswith("hello from Python 3.") and "GREETING is 'hi'" in said


def test_plain_user_builds_it_too(plain_user: Person, image: DemoImage, open_dir: Path) -> None:
    """Without hpcc installed for them: the modules that the builder is made of, copied where they can read."""
    import hpcc.cli.demo_image as module
    from hpcc import errors, records

    package = open_dir / "hpcc"
    (package / "cli").mkdir(parents=True)
    for source, name in ((module, "cli/demo_image.py"), (errors, "errors.py"), (records, "records.py")):
        (package / name).write_bytes(Path(source.__file__).read_bytes())
    code = "from hpcc.cli.demo_image import build_demo_layers as b; i = b(); print(i.config['rootfs']['diff_ids'])"
    python = os.path.realpath("/usr/bin/python3")
    done = plain_user.run([python, "-c", code], env={"PYTHONPATH": str(open_dir)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sha256:") == 3
