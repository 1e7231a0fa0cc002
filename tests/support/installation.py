"""hpcc as `pip install` leaves it: a wheel of this tree, not editable, in a virtual environment that all users can run.
And other programs that hpcc serves, each in one of its own.

/var/tmp/hpcc-test-<hash>/          one for each state of the tree, made once, used again
    venv/                           bin/hpcc, bin/hpcc-full, bin/run-singularity, lib/…
    complete                        last of all, so that a directory without it is somebody's half work
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_WHERE = Path(os.environ.get("HPCC_TEST_DIR", "/var/tmp"))
_PIP = (sys.executable, "-I", "-m", "pip", "--disable-pip-version-check")
_KEPT_FOR = 6 * 3600  # seconds after the last use


class Installation:
    """An installed hpcc: `.bin` is its directory of programs, `.hpcc` the command, `.python` the interpreter."""

    def __init__(self, venv: Path) -> None:
        self.venv, self.bin = venv, venv / "bin"
        self.hpcc, self.python = self.bin / "hpcc", self.bin / "python"


def install(extras: tuple[str, ...] = (), pins: str | None = None) -> Installation:
    """Build a wheel of the tree and install it, with the versions of constraints.txt; the one that is there, if any.

    pins: what tests/support/pins/PINS.txt lists is installed too, and its versions go before those of constraints.txt.
    Concurrent calls wait for each other. RuntimeError with pip's words where pip fails.
    """
    own = _pins(pins) if pins else None
    return Installation(_made(_tree_hash(extras, own), lambda home: _build(home, extras, own)))


def install_tool(name: str) -> Path:
    """Install what tests/support/pins/NAME.txt lists, from PyPI; the directory of its programs. As `install` else."""
    pins = _pins(name)
    seen = hashlib.sha256(repr((sys.version, sys.base_prefix)).encode())
    for path in (pins, ROOT / "constraints.txt"):
        seen.update(path.read_bytes())
    return _made(f"{name}-{seen.hexdigest()[:16]}", lambda home: _build_tool(home, pins)) / "bin"


def _pins(name: str) -> Path:
    return ROOT / "tests/support/pins" / f"{name}.txt"


def _made(name: str, build: Callable[[Path], None]) -> Path:
    """The virtual environment of this name; `build(home)` makes it where it is not there yet."""
    home = _WHERE / f"hpcc-test-{os.geteuid()}-{name}"
    with open(_WHERE / f"hpcc-test-{os.geteuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(mode=0o755)
            home.chmod(0o755)
            build(home)
            (home / "complete").touch()
        os.utime(home)
        _remove_old(home)
    return home / "venv"


def _tree_hash(extras: tuple[str, ...], pins: Path | None) -> str:
    seen = hashlib.sha256(repr((extras, sys.version, sys.base_prefix)).encode())
    for path in (*_sources(), *([pins] if pins else [])):
        data = path.read_bytes()
        seen.update(f"{path.relative_to(ROOT)} {path.stat().st_mode & 0o111} {len(data)}\n".encode())
        seen.update(data)
    return seen.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    yield from (ROOT / "pyproject.toml", ROOT / "constraints.txt", ROOT / "README.md")
    for name in ("bin", "hpcc", "integrations"):
        yield from sorted(p for p in (ROOT / name).rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _build(home: Path, extras: tuple[str, ...], own: Path | None) -> None:
    wheels, constraints = home / "wheels", _constraints(home, own) if own else ROOT / "constraints.txt"
    python = _make_venv(home)
    pins = ("-c", str(constraints), "--build-constraint", str(constraints))
    _call(*_PIP, "wheel", "--quiet", "--no-deps", *pins, "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("hpcc-*.whl")
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    _call(*_PIP, "--python", python, "install", "--quiet", *pins, wanted, *(["-r", str(own)] if own else []))
    shutil.rmtree(wheels)


def _build_tool(home: Path, pins: Path) -> None:
    constraints = _constraints(home, pins)
    python = _make_venv(home)
    _call(*_PIP, "--python", python, "install", "--quiet", "-c", str(constraints), "-r", str(pins))


def _constraints(home: Path, pins: Path) -> Path:
    """constraints.txt without what the pins have, in a file of its own."""
    own = {_pinned(line) for line in pins.read_text().splitlines()}
    others = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if _pinned(line) not in own]
    path = home / "constraints.txt"
    path.write_text("\n".join(others))
    return path


def _pinned(line: str) -> str:
    """The name in a line NAME==VERSION, as PyPI compares them."""
    return re.sub(r"[-_.]+", "-", line.partition("==")[0].lower())


def _make_venv(home: Path) -> str:
    """Its interpreter."""
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    _call(python, "-I", "-m", "venv", "--without-pip", str(home / "venv"))
    return str(home / "venv/bin/python")


def _call(*argv: str) -> None:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
    umask = os.umask(0o022)
    try:
        done = subprocess.run(argv, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    finally:
        os.umask(umask)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _remove_old(used: Path) -> None:
    for path in _WHERE.glob(f"hpcc-test-{os.geteuid()}-*"):
        try:
            if path != used and path.stat().st_mtime < time.time() - _KEPT_FOR:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            pass
