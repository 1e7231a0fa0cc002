"""kernel.json of kernels in images, the command line that it becomes, and where kernels are."""

import json
import sys
from pathlib import Path
from string import Template

import pytest

from hpcc.errors import HpccError, UsageError
from hpcc_jupyter.bring import bring_ipykernel, pip_words
from hpcc_jupyter.inside import Python
from hpcc_jupyter.kernelspec import Wanted, from_kernelspec, make_kernelspec, with_ipykernel, with_irkernel
from hpcc_jupyter.places import data_directories, find_kernels, remove_kernel, write_kernel
from hpcc_jupyter.run import exec_command

WANTED = Wanted("docker://python:3.12@sha256:" + "0" * 64, "sha256:" + "0" * 64, ("--nv", "--bind", "/data"))


def test_of_python() -> None:
    spec = make_kernelspec(["/opt/hpcc"], WANTED, with_ipykernel("python3", "Python 3.12", major=7), {"HPCC_X": "1"})
    assert spec["argv"] == [
        "/opt/hpcc", "kernel", "run", "{connection_file}", "--nv", "--bind", "/data", "--", WANTED.image, "python3",
        "-m", "ipykernel_launcher", "-f", "{connection-file}",
    ]  # fmt: skip
    assert spec["env"] == {"HPCC_X": "1", "HPCCENV_PYTHONNOUSERSITE": "1"}
    assert spec["interrupt_mode"] == "message" and spec["metadata"]["debugger"] is True
    assert spec["metadata"]["hpcc"]["digest"] == WANTED.digest
    assert "kernel_provisioner" not in spec["metadata"]
    old = make_kernelspec(["hpcc"], WANTED._replace(provisioner=True), with_ipykernel("p", "P", major=5), {})
    assert old["interrupt_mode"] == "signal" and "debugger" not in old["metadata"]
    assert old["metadata"]["kernel_provisioner"] == {"provisioner_name": "hpcc-provisioner"}


def test_of_r_and_of_a_kernelspec() -> None:
    r = make_kernelspec(["hpcc"], WANTED, with_irkernel("R"), {})
    assert r["argv"][-3:] == ["IRkernel::main()", "--args", "{connection-file}"] and r["language"] == "R"
    spec = {"argv": ["k", "--file={connection_file}", "{resource_dir}/x"], "language": "julia", "display_name": "J",
            "env": {"A": "1,B=2", "bad name": "x", "N": 3}, "interrupt_mode": "message"}  # fmt: skip
    kernel = from_kernelspec(spec, "/opt/k")
    assert kernel is not None
    assert kernel.argv == ("k", "--file={connection-file}", "/opt/k/x") and kernel.env == (("A", "1,B=2"),)
    assert make_kernelspec(["hpcc"], WANTED, kernel, {})["env"] == {"HPCCENV_A": "1,B=2"}


def test_no_variable_of_the_server_goes_into_an_image_that_asks_for_it() -> None:
    env = {"A": "${AWS_SECRET_ACCESS_KEY}", "B": "x$HOME", "C": "5 $ a", "D": "$$", "E": "\0"}
    kernel = from_kernelspec({"argv": ["k", "{connection_file}"], "env": env}, "/k")
    assert kernel is not None
    made = make_kernelspec(["hpcc"], WANTED, kernel, {})["env"]
    assert {name: Template(value).safe_substitute(HOME="/host") for name, value in made.items()} == {
        "HPCCENV_C": "5 $ a", "HPCCENV_D": "$$"
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".cpython-312/../x.so", ".pypy310-pp73.so", ".cpython-312\0.so", ""])
def test_ipykernel_is_brought_by_no_other_name_than_of_a_python(suffix: str, tmp_path: Path) -> None:
    python = Python("python3", "3.12", suffix, "/usr", "")
    with pytest.raises(HpccError, match="which is no CPython"):
        bring_ipykernel(python, {"HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [None, [], "text", ["k"], ["k", 1, "{connection_file}"], ["k\0", "{connection_file}"]])
def test_what_is_no_kernel(argv: object) -> None:
    assert from_kernelspec({"argv": argv}, "/k") is None


@pytest.mark.parametrize(
    ("options", "parent"), [((), "77"), (("--contain",), "77"), (("--compat",), "1"), (("-C",), "1")]
)
def test_the_command_line(options: tuple[str, ...], parent: str) -> None:
    environ = {"JPY_PARENT_PID": "77", "PYTHONPATH": "/host", "PATH": "/bin", "JPY_SESSION_NAME": "n.ipynb"}
    words = [*options, "--", "x.sif", "python3", "-f", "{connection-file}"]
    argv, env = exec_command('/run/user/1/jupyter/a,"b.json', words, environ)
    at = argv.index("--")
    assert argv[:2] == ["exec", "--mount"] and argv[3:at] == list(options)
    assert argv[at:] == ["--", "x.sif", "python3", "-f", '/run/user/1/jupyter/a,"b.json']
    assert argv[2] == ('type=bind,"source=/run/user/1/jupyter/a,""b.json","destination=/run/user/1/jupyter/a,""b.json"')
    assert env["HPCCENV_JPY_PARENT_PID"] == parent and env["HPCCENV_JPY_SESSION_NAME"] == "n.ipynb"
    assert "PYTHONPATH" not in env and "HPCCENV_IPYTHONDIR" not in env


def test_without_a_home_there_is_a_place_to_write() -> None:
    for words in (["--no-home"], ["--no-mount", "sys,home"]):
        argv, env = exec_command("/c", [*words, "x.sif", "p"], {})
        assert "--scratch" in argv and env["HPCCENV_IPYTHONDIR"].startswith(argv[argv.index("--scratch") + 1])


def test_places(tmp_path: Path) -> None:
    environ = {"JUPYTER_PATH": f"{tmp_path / 'a'}:{tmp_path / 'b'}", "HOME": "/home/me"}
    assert data_directories(environ)[:3] == (f"{tmp_path}/a", f"{tmp_path}/b", "/home/me/.local/share/jupyter")
    assert f"{sys.prefix}/share/jupyter" in data_directories({})
    spec = {"argv": [], "metadata": {"hpcc": {}}}
    directory = write_kernel(str(tmp_path / "b"), "one", spec, {})
    write_kernel(str(tmp_path / "b"), "one", {**spec, "display_name": "again"}, {})
    assert sorted(path.name for path in Path(directory).iterdir()) == ["kernel.json"]
    (tmp_path / "a/kernels/one").mkdir(parents=True)
    (tmp_path / "a/kernels/one/kernel.json").write_text("{")
    (found,) = find_kernels([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "none")])
    assert found.spec["display_name"] == "again" and found.ours == {}
    (tmp_path / "a/kernels/one/kernel.json").write_text(json.dumps({"argv": []}))
    with pytest.raises(UsageError, match="no kernel of hpcc's"):
        write_kernel(str(tmp_path / "a"), "one", spec, {})
    remove_kernel(found)
    assert find_kernels([str(tmp_path / "b")]) == []


@pytest.mark.parametrize(("suffix", "platform"), [
    (".cpython-312-x86_64-linux-gnu.so", "manylinux_2_28_x86_64"),
    (".cpython-310-aarch64-linux-musl.so", "musllinux_1_2_aarch64"),
])  # fmt: skip
def test_pip_is_asked_for_wheels_alone(suffix: str, platform: str) -> None:
    words = pip_words("/t", Python("python3", "3.12", suffix, "/usr", ""))
    assert f"--platform={platform}" in words and "--only-binary=:all:" in words and "--python-version=3.12" in words
