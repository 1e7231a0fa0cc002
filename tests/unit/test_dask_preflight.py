"""Whether an image's Python and a client's go together, and what an environment of the client's needs of an image."""

import json
import os
import sys
from pathlib import Path

import pytest

from hpcc.errors import CommandNotFound, HpccError, UnsupportedImage, UsageError
from hpcc_dask import probe
from hpcc_dask.overlay import Overlay, check_libc, demanded, overlay
from hpcc_dask.preflight import Facts, judge, own_facts, parse_facts, run_failed

CLIENT = Facts((3, 11, 2), ("glibc", "2.36"), {"dask": "2026.8.0", "distributed": "2026.8.0", "cloudpickle": "3.1.3"})


def test_what_this_python_says_of_itself() -> None:
    found = parse_facts("a banner of the image\n" + json.dumps(probe.probe()))  # type: ignore[no-untyped-call]
    assert found == own_facts() and found.python == sys.version_info[:3]
    assert found.stdlib == os.path.dirname(os.__file__) and "distributed" in found.modules and not found.missing


@pytest.mark.parametrize(
    "text", ["", "nothing", "[]", '{"python": "3"}', '{"python": [3, 11], "libc": [], "modules": {}}']
)
def test_anything_else_is_no_answer(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse_facts(text)


def test_another_patch_level_and_another_dask_go_together() -> None:
    judge("x.sif", CLIENT._replace(python=(3, 11, 9), modules={**CLIENT.modules, "dask": "2026.1.0"}), CLIENT)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (CLIENT._replace(python=(3, 12, 1)), ("Python 3.12.1", "Python 3.11.2")),
        (CLIENT._replace(python=(2, 7, 18), modules={}), ("Python 2.7.18", "Python 3.11.2")),
        (
            CLIENT._replace(modules={**CLIENT.modules, "cloudpickle": "2.2.1"}),
            ("cloudpickle 2.2.1", "cloudpickle 3.1.3"),
        ),
        (CLIENT._replace(modules={"dask": "2026.8.0"}, missing="ImportError: no msgpack"), ("no Dask", "no msgpack")),
    ],
)
def test_what_does_not_go_together_is_named_on_both_sides(image: Facts, words: tuple[str, str]) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        judge("x.sif", image, CLIENT)
    assert all(word in caught.value.message for word in ("x.sif", *words)) and caught.value.hint


def test_why_a_python_did_not_run() -> None:
    missing = run_failed(
        "x.sif", "python3", 255, 'FATAL:   "python3": executable file not found in the image, …\nHINT: a'
    )
    assert isinstance(missing, CommandNotFound) and "x.sif has no python3" in missing.message
    other = run_failed("x.sif", "python3", 255, "WARNING: b\nFATAL:   no namespaces\nHINT:    ask for them\n")
    assert "no namespaces" in other.message and other.hint == "ask for them"
    assert "it said nothing" in run_failed("x.sif", "python3", 1, "").message


MANYLINUX = "Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_17_x86_64\nTag: cp311-cp311-manylinux2014_x86_64\n"


def test_the_glibc_that_wheels_need() -> None:
    own = (2, 36)
    assert demanded([], own) == demanded(["Tag: py3-none-any\n"], own) == (2, 0)
    assert demanded([MANYLINUX], own) == (2, 17)
    assert demanded([MANYLINUX, "Tag: cp311-cp311-manylinux_2_28_x86_64\n"], own) == (2, 28)
    assert demanded(["Tag: cp311-cp311-manylinux_2_31_x86_64.manylinux1_x86_64\n"], own) == (2, 5)
    assert demanded(["Tag: cp311-cp311-linux_x86_64\n", MANYLINUX], own) == own


def test_an_image_with_an_older_or_another_libc_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a-1.dist-info").mkdir()
    (tmp_path / "a-1.dist-info/WHEEL").write_text("Tag: cp311-cp311-manylinux_2_28_x86_64\n")
    brought = Overlay((), (str(tmp_path),), CLIENT)
    check_libc("x.sif", CLIENT._replace(libc=("glibc", "2.28")), brought)
    with pytest.raises(UnsupportedImage, match=r"glibc 2\.17.*need 2\.28"):
        check_libc("x.sif", CLIENT._replace(libc=("glibc", "2.17")), brought)
    with pytest.raises(UnsupportedImage, match="musl"):
        check_libc("x.sif", CLIENT._replace(libc=("musl", "")), brought)


def test_an_environment_brings_packages_and_no_standard_library() -> None:
    assert overlay(False) is None
    brought = overlay(True)
    assert brought is not None and brought.facts.stdlib not in brought.libraries
    assert any((Path(path) / "distributed").is_dir() for path in brought.libraries)
    assert all(os.path.isdir(path) for path in brought.libraries)


def test_a_directory_that_is_no_environment(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bin/python3"):
        overlay(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    (tmp_path / "bin/python3").chmod(0o755)
    with pytest.raises(HpccError, match="broken"):
        overlay(tmp_path)
