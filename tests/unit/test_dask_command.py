"""The command line of Dask's programs in an image: words, and no value of a variable among them."""

import pytest

from hpcc.errors import UsageError
from hpcc.invoke import program
from hpcc_dask.command import SPEC, Container, container, exec_words, python_words, variables, worker_words


def test_words_of_nothing_asked() -> None:
    assert worker_words(container(), "/c/x.sif", SPEC, ["tcp://h:1", "--spec-file", "/dev/stdin"]) == [
        *program(), "exec", "--job-env", "--", "/c/x.sif", "python3", "-m", "distributed.cli.dask_spec", "tcp://h:1",
        "--spec-file", "/dev/stdin",
    ]  # fmt: skip


def test_all_options_stand_before_the_image() -> None:
    options = container(
        binds=["/data:/mnt:ro"], nv=True, rocm=False, contain=True, compat=True, writable=["/tmp/a,b"],
        libraries=["/v:1/lib"], args=["--pwd", "/"], python="/opt/python",
    )  # fmt: skip
    words = python_words(options, "-x.sif")
    assert words[words.index("exec") :] == [
        "exec", "--job-env", "--nv", "--contain", "--compat", "--bind", "/v\\:1/lib:/v\\:1/lib:ro", "--bind",
        "/data:/mnt:ro", "--bind", "/tmp/a\\,b:/tmp/a\\,b", "--pwd", "/", "--", "-x.sif", "/opt/python",
    ]  # fmt: skip


def test_values_of_variables_are_for_the_environment_alone() -> None:
    options = container(env={"TOKEN": "s3cret,with comma", "PYTHONPATH": "/mine"}, libraries=["/a", "/b"])
    assert not any("s3cret" in word for word in exec_words(options, "x.sif", ["true"]))
    assert variables(options) == {"HPCCENV_TOKEN": "s3cret,with comma", "HPCCENV_PYTHONPATH": "/a:/b:/mine"}
    assert variables(Container()) == {}


@pytest.mark.parametrize("wrong", [{"binds": "/data"}, {"args": "--pwd /"}, {"env": {"A B": "1"}}, {"cleanenv": True}])
def test_what_is_none_of_its_kind_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        container(**wrong)  # type: ignore[arg-type]
