"""Options that stand beside an image: written, read, and by whom they are believed."""

import os
from pathlib import Path

import pytest

from hpcc.beside import path_beside, read_options, write_options
from hpcc.cli.run import main
from hpcc.errors import ImageNotFound, InvalidImage, PolicyError

WORDS = ("--compat", "--bind", "/a b:/c:ro", "--env", "X=ä")


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(tmp_path / "debian_12-0123.hpcc.sif")


def test_written_and_read(image: str) -> None:
    umask = os.umask(0o002)
    try:
        for _ in range(2):
            write_options(image, WORDS)
    finally:
        os.umask(umask)
    assert os.listdir(os.path.dirname(image)) == ["debian_12-0123.hpcc.json"]
    assert path_beside(image).endswith("/debian_12-0123.hpcc.json") and read_options(image) == WORDS


def test_what_is_not_believed(image: str, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound):
        read_options(image)
    beside = Path(path_beside(image))
    (tmp_path / "elsewhere").write_text('{"version": 1, "options": []}')
    beside.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyError, match="it is a link"):
        read_options(image)
    beside.unlink()
    for mode in (0o664, 0o646):
        write_options(image, WORDS)
        beside.chmod(mode)
        with pytest.raises(PolicyError, match="others can write"):
            read_options(image)
    if os.geteuid() == 0:
        write_options(image, WORDS)
        os.chown(beside, 4321, 4321)
        with pytest.raises(PolicyError, match="user 4321"):
            read_options(image)


WRONG = (
    "", "[]", "{}", '{"version": 1}', '{"version": 1, "options": "--compat"}', '{"version": 1, "options": [1]}',
    '{"version": 2, "options": []}', '{"version": 1, "options": ["--"]}', " " * (1 << 17), "[" * 10000,
)  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_parse(image: str, text: str) -> None:
    write_options(image, ())
    Path(path_beside(image)).write_text(text)
    with pytest.raises(InvalidImage):
        read_options(image)


def test_a_word_that_is_no_option_cannot_become_the_image(image: str) -> None:
    write_options(image, ("--compat", "/other.sif"))
    with pytest.raises(InvalidImage, match="no options"):
        main("exec", [image, "true"])
