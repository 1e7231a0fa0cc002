"""Strings of modulefiles, read by the languages themselves: an image's labels are anybody's text."""

import subprocess

import pytest

from hpcc_slurm.modulefiles import Module, lua, lua_string, tcl, tcl_string, wrapper
from tests.support.real import need

HOSTILE = [
    "plain",
    'a "b" \\ c',
    "$HOME [exec id] {x} ; `id`",
    "]]..os.execute('id')..[[",
    "}\nputs evil\n{",
    "back\\",
    "tab\there ü€",
    '"); os.exit(7) --',
    "\\[exec id] \\$x",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_lua(text: str) -> None:
    script = f"io.write({lua_string(text)})"
    done = subprocess.run([need("lua5.3"), "-"], input=script.encode(), capture_output=True)
    assert done.stdout.decode() == text and done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", HOSTILE)
def test_tcl(text: str) -> None:
    word = tcl_string(text)
    script = (
        f"fconfigure stdout -encoding utf-8\nproc f {{ }} {{\n  puts -nonewline {word}\n}}\nf\nputs -nonewline {word}"
    )
    done = subprocess.run([need("tclsh8.6")], input=script.encode(), capture_output=True, env={"LANG": "C.UTF-8"})
    assert done.stdout.decode() == text * 2 and done.stderr == b"", done.stderr


@pytest.mark.parametrize("text", HOSTILE)
def test_a_wrapper(text: str) -> None:
    script = wrapper(["printf", "[%s]"], ["--bind=/a b"], f"docker://{text}", text)
    done = subprocess.run(["sh", "-c", script, "name", "x y", ""], capture_output=True, text=True)
    assert done.stdout == "".join(
        f"[{each}]" for each in ("exec", "--bind=/a b", "--", f"docker://{text}", text, "x y", "")
    )


def test_a_module_of_hostile_words() -> None:
    module = Module("n", "1", "docker://x@sha256:0", "/opt/m/n/.1/bin", ("a",), (("Description", HOSTILE[4]),))
    for line in lua(module).splitlines():
        assert line.startswith(("--", "help(", "whatis(", "prepend_path(")), line
    for line in tcl(module).splitlines():
        assert line.startswith(("#", "proc ", "    puts stderr ", "}", "module-whatis ", "prepend-path ")), line
