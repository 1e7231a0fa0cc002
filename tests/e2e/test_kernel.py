"""`hpcc kernel`: kernels in images, started by jupyter_client as a notebook server does, by root and a plain user."""

import json
import secrets
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support import images, installation
from tests.support.installation import Installation
from tests.support.kernels import layers_of, sif_of
from tests.support.people import Person

SESSION = Path(__file__).resolve().parents[1] / "support/kernel_session.py"


@pytest.fixture(scope="session")
def jupyter() -> Installation:
    """`pip install hpcc[jupyter]`."""
    return installation.install(("jupyter",))


class Desk:
    """A person with hpcc[jupyter], and a mark in the environment of all that they start."""

    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self.installed = person, installed
        self.mark = f"desk-{secrets.token_hex(8)}"
        self.env = {"DESK": self.mark, "HPCCENV_DESK": self.mark, "HPCC_HOLD_IDLE": "1"}

    def hpcc(self, *argv: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
        return self.person.run([self.installed.hpcc, *argv], env={**self.env, **env})

    def install(self, *argv: str | Path) -> dict:
        """kernel.json of the kernel `k`."""
        done = self.hpcc("kernel", "install", "--name", "k", *argv)
        assert done.returncode == 0, done.stderr
        return json.loads((self.person.home / ".local/share/jupyter/kernels/k/kernel.json").read_text())

    def python(self, code: str, **env: str) -> list[str]:
        """What code that has `Session` prints, by lines."""
        program = SESSION.read_text() + textwrap.dedent(code)
        done = self.person.run([self.installed.python, "-c", program], env={**self.env, **env}, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    def left(self) -> dict[int, str]:
        return images.marked(self.mark)

    def nothing_left(self) -> bool:
        return _until(lambda: not self.left(), 10)


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture
def desk(runs_as: Person, jupyter: Installation) -> Iterator[Desk]:
    yield Desk(runs_as, jupyter)


LIFE = """
with Session("k", cwd=os.environ.get("WORK") or None) as session:
    print(session.run("import sys, os; print(sys.version_info[:2], os.path.exists('/etc/debian_version'))"))
    print(session.run("import ipykernel; print(ipykernel.__file__)"))
    print(session.run("print(os.environ['PYTHONNOUSERSITE'], os.environ.get('PYTHONPATH'), 6 * 7)"))
    message = session.send("import time; print('asleep', flush=True); time.sleep(120)")
    time.sleep(1.5)
    began = time.monotonic()
    session.manager.interrupt_kernel()
    status, text, _ = session.result(message)
    print(status, "KeyboardInterrupt" in text, time.monotonic() - began < 5)
    print(session.run("x = 5; print(x)"))
    session.manager.restart_kernel(now=False)
    session.ready()
    print(session.run("print('x' in globals())"))
    session.manager.restart_kernel(now=True)
    session.ready()
    print(session.run("import time; time.sleep(2.5); print('alive')"))
    began = time.monotonic()
print(time.monotonic() - began < 8)
"""


@pytest.mark.parametrize("options", [(), ("--contain",), ("--compat",)], ids=["default", "contain", "compat"])
def test_life_of_a_kernel(desk: Desk, options: tuple[str, ...]) -> None:
    """Cells, a stop button, both restarts, an end; and nothing is left. PYTHONPATH of the host stays out."""
    spec = desk.install(*options, sif_of("ipykernel"))
    assert spec["interrupt_mode"] == "message" and spec["argv"].count("{connection_file}") == 1
    lines = desk.python(LIFE, PYTHONPATH="/nonexistent")
    assert lines[0] == "(3, 11) True"
    assert lines[1] == "/usr/lib/python3/dist-packages/ipykernel/__init__.py"
    assert lines[2:] == ["1 None 42", "error True True", "5", "False", "alive", "True"]
    assert desk.nothing_left(), desk.left()


@pytest.mark.parametrize("options", [(), ("--compat", "--no-home")], ids=["default", "compat"])
def test_an_image_without_ipykernel(desk: Desk, options: tuple[str, ...]) -> None:
    """It is brought along, read-only, behind the image's own packages."""
    spec = desk.install(*options, sif_of("python"))
    lines = desk.python(LIFE)
    assert lines[0] == "(3, 11) True"
    assert lines[1] == "/opt/hpcc-ipykernel/ipykernel/__init__.py"
    assert lines[2:] == ["1 None 42", "error True True", "5", "False", "alive", "True"]
    (bind,) = (word for word in spec["argv"] if word.endswith(":/opt/hpcc-ipykernel:ro"))
    brought = Path(bind.removesuffix(":/opt/hpcc-ipykernel:ro"))
    assert brought.is_relative_to(desk.person.home / ".local/share/hpcc/ipykernel")
    code = """
    with Session("k") as session:
        print(session.run("import sys; print(sys.path[-2:])"))
        print(session.run("open('/opt/hpcc-ipykernel/new', 'w')"))
        print(session.run("import os; print(os.path.isdir(get_ipython().ipython_dir), get_ipython().ipython_dir)"))
    """
    path, refused, directory = desk.python(code)
    assert "/opt/hpcc-ipykernel" in path and "Read-only file system" in refused
    assert directory.startswith("True ") and ("hpcc-kernel" in directory) == ("--no-home" in options)
    assert desk.nothing_left(), desk.left()


def test_what_a_kernel_cannot_be_made_of(plain_user: Person, jupyter: Installation, open_dir: Path) -> None:
    """Each error says what is missing; no kernel is left behind."""
    desk = Desk(plain_user.at(open_dir), jupyter)
    for image, said in (
        (sif_of("bare"), "libstdc++.so.6"),  # of pyzmq
        (images.images().main, "no kernelspec, no R with IRkernel, no python3"),
        (images.images().distroless, "no kernelspec, no R with IRkernel, no python3"),
        (Path("/nonexistent.sif"), "No such file"),
    ):
        done = desk.hpcc("kernel", "install", "--name", "k", image)
        assert done.returncode == 255 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "HINT" in done.stderr or image.name == "nonexistent.sif"
    for words, said in (
        (["--python", "python4"], "has no python4"),
        (["--kernel", "julia"], "It has python3."),
        (["--name", "a/b"], "letters, digits"),
        (["--user", "--sys-prefix"], "exclude each other"),
        (["--bind", ":"], "--bind"),
    ):
        done = desk.hpcc("kernel", "install", *words, sif_of("ipykernel"))
        assert done.returncode == 255 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (desk.person.home / ".local/share/jupyter").exists()


def test_list_and_remove(desk: Desk) -> None:
    """Only hpcc's kernels are listed and removed; a name that is another's is refused."""
    home = desk.person.home
    assert "No kernel" in desk.hpcc("kernel", "list").stdout
    foreign = home / ".local/share/jupyter/kernels/mine"
    assert desk.person.run(["mkdir", "-p", foreign]).returncode == 0
    (foreign / "kernel.json").write_text('{"argv": ["true"], "display_name": "Mine", "language": "none"}')
    image = sif_of("ipykernel")
    assert desk.hpcc("kernel", "install", image).returncode == 0
    assert desk.hpcc("kernel", "install", "--prefix", home / "else", "--display-name", "Other", image).returncode == 0
    found = json.loads(desk.hpcc("kernel", "list", "--json").stdout)
    assert [each["name"] for each in found] == ["ipykernel"] and found[0]["image"] == str(image)
    assert found[0]["digest"].startswith("sha256:")
    (other,) = json.loads(desk.hpcc("kernel", "list", "--json", "--prefix", home / "else").stdout)
    assert other["display_name"] == "Other"
    refused = desk.hpcc("kernel", "install", "--name", "mine", image)
    assert refused.returncode == 255 and "no kernel of hpcc's" in refused.stderr
    refused = desk.hpcc("kernel", "remove", "ipykernel", "mine")
    assert refused.returncode == 255 and "not made by hpcc" in refused.stderr
    assert (home / ".local/share/jupyter/kernels/ipykernel").exists(), "all or none"
    assert desk.hpcc("kernel", "remove", "IPYKERNEL").returncode == 0
    assert [each.name for each in (home / ".local/share/jupyter/kernels").iterdir()] == ["mine"]


def test_check(desk: Desk) -> None:
    desk.install("--compat", sif_of("ipykernel"))
    done = desk.hpcc("kernel", "check", "k")
    assert done.returncode == 0, done.stderr
    assert "a cell is run: 42" in done.stdout and "a cell is interrupted" in done.stdout and "k is well" in done.stdout
    path = desk.person.home / ".local/share/jupyter/kernels/k/kernel.json"
    path.write_text(path.read_text().replace("ipykernel_launcher", "no_such_module"))
    done = desk.hpcc("kernel", "check", "k")
    assert done.returncode == 255 and "No module named no_such_module" in done.stderr, done.stderr
    assert desk.nothing_left(), desk.left()


def test_the_provisioner_pulls_first(plain_user: Person, jupyter: Installation, open_dir: Path) -> None:
    """A pinned image that the cache has lost is pulled before the kernel starts, and the log says so; or why not."""
    desk = Desk(plain_user.at(open_dir), jupyter)
    layers, config = layers_of("ipykernel")
    with FakeRegistry() as registry:
        registry.add_image("lab/python", "3", layers, config)
        desk.env["HPCC_INSECURE"] = registry.host
        spec = desk.install("--compat", "--provisioner", f"docker://{registry.host}/lab/python:3")
        assert "@sha256:" in spec["metadata"]["hpcc"]["image"]
        assert desk.hpcc("cache", "clean", "--force").returncode == 0
        code = """
        import logging
        lines = []
        class Kept(logging.Handler):
            def emit(self, record):
                lines.append(record.getMessage())
        log = logging.getLogger("lab")
        log.setLevel(logging.INFO)
        log.addHandler(Kept())
        with Session("k", log=log) as session:
            print(session.run("print(6 * 7)"))
            print(any("ayer" in line for line in lines), lines)
        """
        said = desk.python(code)
        assert said[0] == "42" and said[1].startswith("True"), said
    assert desk.hpcc("cache", "clean", "--force").returncode == 0
    code = """
    manager = KernelManager(kernel_name="k")
    try:
        manager.start_kernel()
    except RuntimeError as error:
        print(str(error).replace(chr(10), " "))
    """
    (said_why,) = desk.python(code)
    assert "FATAL" in said_why and registry.host in said_why
    assert desk.nothing_left(), desk.left()
