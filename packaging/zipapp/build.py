"""hpcc in one file, without pip and for start storms: a thousand starts read one file of a shared filesystem each.

    python packaging/zipapp/build.py [TARGET]     default: dist/hpcc-VERSION-cp3XX-MACHINE.pyz

    #!/bin/sh …            finds a Python of the version that the bytecode is for; as `run-singularity` it is `hpcc run`
    zip, stored:
      __main__.pyc         main.py beside this
      modules              marshalled: name of each module of hpcc and its integrations -> (is package, its bytecode)
      packages.zip         the dependencies, which a node unpacks when it first needs them

It is for the Python and the kind of machine that built it. The same tree, Python and dependencies give the same bytes.
"""

import hashlib
import importlib.util
import io
import marshal
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
EPOCH = (1980, 1, 1, 0, 0, 0)
LEFT = ("RECORD", "REQUESTED", "direct_url.json", "INSTALLER")  # what pip notes of an installation
HEAD = f"""\
#!/bin/sh
# hpcc in one file; what follows is a zip for Python {VERSION}
case ${{0##*/}} in run-singularity) set -- run "$@" ;; esac
python=$(command -v python{VERSION}) && exec "$python" -I -S "$0" "$@"
python=$(command -v python3) && case $("$python" -I -S -V) in
    "Python {VERSION}."*) exec "$python" -I -S "$0" "$@" ;;
esac
echo "FATAL:   $0 needs Python {VERSION}, which is not in PATH" >&2
echo "HINT:    Build it with the Python that you have: make zipapp PYTHON=python3.X" >&2
exit 255
"""


def main() -> None:
    target = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "dist" / f"hpcc-{_version()}-{_platform()}.pyz"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hpcc-pyz-") as directory:
        packages = _packages(Path(directory))
    start = (Path(__file__).parent / "main.py").read_text().replace("@DIGEST@", hashlib.sha256(packages).hexdigest())
    members = {
        "__main__.pyc": _compiled(start.encode(), "__main__.py"),
        "modules": _modules(),
        "packages.zip": packages,
    }
    partial = target.with_name(f"{target.name}.partial")
    partial.write_bytes(HEAD.encode() + _zip(members, zipfile.ZIP_STORED))
    partial.chmod(0o755)
    os.replace(partial, target)
    sys.stdout.write(f"{target}\n")


def _version() -> str:
    return (ROOT / "hpcc/version.py").read_text().partition('__version__ = "')[2].partition('"')[0]


def _platform() -> str:
    return f"cp{VERSION.replace('.', '')}-{platform.machine()}"


def _packages(directory: Path) -> bytes:
    """What `pip install hpcc` brings beside hpcc, and the record of hpcc's entry points, as a zip."""
    pip = (sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile")
    constraints = ("-c", str(ROOT / "constraints.txt"), "--build-constraint", str(ROOT / "constraints.txt"))
    subprocess.run([*pip, *constraints, "--target", str(directory), str(ROOT)], check=True)
    own = {"bin", *_tops()}
    members = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in LEFT):
        name = path.relative_to(directory).as_posix()
        if name.partition("/")[0] not in own:
            members[name] = path.read_bytes()
            if path.suffix == ".py":
                members[importlib.util.cache_from_source(name)] = _compiled(members[name], name)
    return _zip(members, zipfile.ZIP_DEFLATED)


def _tops() -> dict[str, Path]:
    """hpcc's own import packages, by name."""
    tops = [ROOT / "hpcc", *sorted(path.parent for path in (ROOT / "integrations").glob("*/__init__.py"))]
    return {path.name: path for path in tops}


def _modules() -> bytes:
    modules = {}
    for top in _tops().values():
        for path in sorted(top.rglob("*.py")):
            place = path.relative_to(top.parent).as_posix()
            parts = place.removesuffix(".py").split("/")
            is_package = parts[-1] == "__init__"
            code = compile(path.read_bytes(), place, "exec", dont_inherit=True)
            modules[".".join(parts[:-1] if is_package else parts)] = (is_package, marshal.dumps(code))
    return marshal.dumps(modules)


def _compiled(source: bytes, name: str) -> bytes:
    """A .pyc that is compared with no source (PEP 552: flags 1, then a hash that nobody reads)."""
    code = compile(source, name, "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def _zip(members: dict[str, bytes], method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, method)
    return out.getvalue()


if __name__ == "__main__":
    main()
