"""What GNU tar writes, in each of its formats, is read as it was."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from hpcc.oci import tar
from tests.support.layers import read_tar
from tests.support.real import need

FORMS = [
    ["--format=v7"], ["--format=oldgnu"], ["--format=gnu"], ["--format=ustar"], ["--format=posix"],
    ["--format=gnu", "--sparse"], ["--format=oldgnu", "--sparse"],
    *(["--format=posix", "--sparse", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0")),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_gnu_tar(form: list[str], tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "dir").mkdir(parents=True)
    source = random.Random(4)
    data = {"few": [(0, 5000), (200_000, 10)], "many": [(index * 10_240, 700) for index in range(120)], "hole": []}
    content = {}
    for name, pieces in data.items():
        body = bytearray(2_000_000)
        for at, length in pieces:
            body[at : at + length] = source.randbytes(length)
        content[f"dir/{name}"] = bytes(body)
    content["dir/plain"] = source.randbytes(1234)
    content["empty"] = b""
    long = "--format=v7" not in form
    if long and "--format=ustar" not in form:
        content["l" * 200] = b"long"
        os.symlink("t" * 300, top / "link")
    elif long:
        (top / ("p" * 90)).mkdir()
        content["p" * 90 + "/" + "n" * 90] = b"long"
    for name, body in content.items():
        with open(top / name, "wb") as file:
            for at in range(0, len(body), 4096):  # with real holes, else GNU tar does not look for any
                if any(body[at : at + 4096]):
                    file.seek(at)
                    file.write(body[at : at + 4096])
            file.truncate(len(body))
        os.utime(top / name, ns=(0, 1_700_000_000_999_999_999))
    os.link(top / "dir" / "plain", top / "dir" / "twin")
    out = tmp_path / "out.tar"
    raw = ["--hole-detection=raw"] if "--sparse" in form else []  # not every filesystem tells where its holes are
    command = [need("tar"), *form, *raw, "--sort=name", "-C", top, "-cf", out, "."]
    subprocess.run(command, check=True)
    found = {member.name.removeprefix(b"./").decode(): (member, body) for member, body in read_tar(out.read_bytes())}
    assert {name: body for name, (member, body) in found.items() if member.type == tar.REGULAR} == content
    assert (found["dir/twin"][0].type, found["dir/twin"][0].target) == (tar.HARDLINK, b"./dir/plain")
    assert all(found[name][0].mtime == 1_700_000_000 for name in content)
    assert found["dir/"][0].type == tar.DIRECTORY
    if "link" in found:
        assert found["link"][0].target == b"t" * 300
    if "--sparse" in form:
        assert out.stat().st_size < 400_000
