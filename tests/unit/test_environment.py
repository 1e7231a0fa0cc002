"""The environment of a payload: who wins, and what never passes."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.runtime.environment import DEFAULT_PATH, RunConfig, container_environment, script

IMAGE = RunConfig(("PATH=/image/bin", "A=image", 'Q=a "b" $C', "EMPTY=", "broken", "=x"))


def environment(
    host: dict[str, str],
    *options: tuple[str, str],
    config: RunConfig = IMAGE,
    clean: bool = False,
    compat: bool = False,
) -> dict[str, str]:
    found, override = container_environment(
        "docker://i.org/i:1",
        "/dir/i.sif",
        config,
        host,
        options,
        "exec",
        clean=clean,
        compat=compat,
        home="/home/a",
        binds=("/x",),
    )
    assert list(found) == sorted(found)
    everything = dict(found)
    assert all(everything[name] == value for name, value in override)
    return everything


def test_default() -> None:
    host = {
        "A": "host",
        "B": "host",
        "PATH": "/host",
        "HOME": "/host",
        "LD_LIBRARY_PATH": "/host",
        "PS1": "x",
        "OLDPWD": "/",
    }
    found = environment(host)
    assert (found["A"], found["B"], found["PATH"], found["HOME"]) == ("host", "host", "/image/bin", "/home/a")
    assert found["Q"] == 'a "b" $C' and found["EMPTY"] == ""
    assert found["LD_LIBRARY_PATH"] == "/.singularity.d/libs" and "OLDPWD" not in found
    assert found["APPTAINER_CONTAINER"] == "/dir/i.sif" and found["SINGULARITY_NAME"] == "i:1"
    assert found["APPTAINER_BIND"] == "/x" and "APPTAINER_NO_EVAL" not in found
    assert "broken" not in found and "" not in found


def test_path_and_libraries() -> None:
    assert environment({"PATH": "/host"}, config=RunConfig())["PATH"] == DEFAULT_PATH
    image = RunConfig(("LD_LIBRARY_PATH=/image/lib",))
    assert (
        environment({"LD_LIBRARY_PATH": "/host"}, config=image)["LD_LIBRARY_PATH"] == "/image/lib:/.singularity.d/libs"
    )
    host = {"APPTAINERENV_PREPEND_PATH": "/p", "HPCCENV_APPEND_PATH": "/q"}
    assert environment(host)["PATH"] == "/p:/image/bin:/q"
    assert environment({**host, "APPTAINERENV_PATH": "/mine"})["PATH"] == "/p:/mine:/q"
    assert "PREPEND_PATH" not in environment(host)


def test_clean() -> None:
    host = {"A": "host", "B": "host", "TERM": "xterm", "https_proxy": "p", "LANG": "de", "SINGULARITYENV_C": "c"}
    found = environment(host, clean=True)
    assert found["A"] == "image" and "B" not in found and found["LANG"] == "C"
    assert (found["TERM"], found["https_proxy"], found["C"]) == ("xterm", "p", "c")
    assert environment(host, clean=True, config=RunConfig(("LANG=C.UTF-8",)))["LANG"] == "C.UTF-8"


def test_precedence_of_prefixes_and_options() -> None:
    host = {f"{prefix}ENV_{name}": prefix for prefix, names in
            (("SINGULARITY", "ABCD"), ("APPTAINER", "BCD"), ("HPCC", "CD")) for name in names}  # fmt: skip
    found = environment(host, ("D", "option"))
    assert [found[name] for name in "ABCD"] == ["SINGULARITY", "APPTAINER", "HPCC", "option"]
    assert environment({"APPTAINERENV_": "x"}).get("") is None


@pytest.mark.parametrize("name", ["HPCC_X", "APPTAINER_X", "SINGULARITY_X", "HPCCENV_X", "HPCC_SITE_PACKAGES"])
@pytest.mark.parametrize("clean", [True, False])
def test_what_steers_the_runtime_stays_outside(name: str, clean: bool) -> None:
    assert name not in environment({name: "v"}, clean=clean)


def test_compat_says_no_eval() -> None:
    assert environment({}, compat=True)["SINGULARITY_NO_EVAL"] == "1"


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=4))  # fmt: skip
def test_script_sets_each_value_exactly(values: dict[str, str]) -> None:
    values = {
        name: value for name, value in values.items() if name not in ("PATH", "PWD", "_", "IFS", "OPTIND", "PPID")
    }
    text = script(tuple(sorted(values.items())))
    done = subprocess.run(["/bin/sh", "-c", text, "sh", "/usr/bin/env", "-0"], env={}, capture_output=True, check=True)
    found = dict(item.split(b"=", 1) for item in done.stdout.split(b"\0") if item)
    assert {name: found[name.encode()].decode() for name in values} == values


def test_script_leaves_out_what_no_shell_can_set() -> None:
    text = script((("good", "1"), ("1bad", "x"), ("a.b", "x"), ("x;touch /tmp/y", "x"), ("ünï", "x")))
    assert "export good='1'" in text and text.count("\nexport") == 1 and "touch" not in text
