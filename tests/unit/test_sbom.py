"""Packages of an image: by this host's own databases, with dpkg-query and importlib.metadata as judges, and by hand."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc import sbom
from hpcc.errors import InvalidImage
from hpcc.sbom import Found, Package, document, find_packages
from tests.support.real import need

APK = "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nP:busybox\nV:1.36\nA:x86_64\nF:bin\n\n"


def found(files: dict[str, bytes]) -> Found:
    return find_packages((path.encode(), _reader(data)) for path, data in files.items())


def _reader(data: bytes) -> Callable[[int], bytes]:
    return lambda most: data[:most]


def test_dpkg() -> None:
    query = [need("dpkg-query"), "-W", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    expected = {Package("deb", *line.split()[1:]) for line in lines if line.startswith("installed ")}
    ours = found({"var/lib/dpkg/status": Path("/var/lib/dpkg/status").read_bytes()})
    assert set(ours.packages) == expected and len(expected) > 50 and ours.unread == ()


def test_pip() -> None:
    top = Path(sys.prefix)
    files = {str(path.relative_to(top)): path.read_bytes() for path in top.glob("lib/python3*/**/*.dist-info/METADATA")}
    expected = {
        (str(each.metadata["Name"]).lower().replace("_", "-"), each.version)
        for each in importlib.metadata.distributions(path=[str(next(top.glob("lib/python3*/site-packages")))])
    }
    assert {(each.name, each.version) for each in found(files).packages} >= expected and expected


def test_the_others() -> None:
    record = {"name": "numpy", "version": "2.1", "subdir": "linux-64", "build": "x"}
    got = found(
        {
            "lib/apk/db/installed": APK.encode(),
            "var/lib/dpkg/status.d/base": b"Package: base-files\nVersion: 12\nArchitecture: all\n",
            "var/lib/dpkg/status.d/base.md5sums": b"Package: no\nVersion: 1\n",
            "opt/conda/conda-meta/numpy-2.1.json": json.dumps(record).encode(),
            "opt/conda/conda-meta/broken.json": b"[" * 99999,
            "opt/conda/conda-meta/list.json": b"[]",
            "usr/lib/rpm/rpmdb.sqlite": b"SQLite",
            "var/lib/rpm/rpmdb.sqlite": b"SQLite",
        }
    )
    assert got.packages == (
        Package("apk", "busybox", "1.36", "x86_64"), Package("apk", "musl", "1.2.5-r0", "x86_64"),
        Package("conda", "numpy", "2.1", "linux-64"), Package("deb", "base-files", "12", "all"),
    )  # fmt: skip
    assert got.unread == ("/usr/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite")


def test_what_is_removed_is_not_there() -> None:
    gone = "Package: a\nStatus: deinstall ok config-files\nVersion: 1\n"
    text = f"{gone}\nPackage: b\nStatus: install ok installed\nVersion: 2"
    assert found({"var/lib/dpkg/status": text.encode()}).packages == (Package("deb", "b", "2"),)


def test_the_document() -> None:
    some = Found((Package("deb", "g++", "1:4.0~x", "amd64"), Package("pypi", "hpcc", "1")), ("/x/Packages",))
    data = document(some, "registry/name@sha256:0", 1700000000)
    assert data == document(some, "registry/name@sha256:0", 1700000000)
    said = json.loads(data)
    assert said["spdxVersion"] == "SPDX-2.3" and said["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert "/x/Packages" in said["comment"]
    ids = {each["SPDXID"] for each in said["packages"]}
    assert len(ids) == 3
    assert {each["relatedSpdxElement"] for each in said["relationships"]} == ids
    assert said["packages"][1]["externalRefs"][0]["referenceLocator"] == "pkg:deb/g%2B%2B@1%3A4.0~x?arch=amd64"
    other = json.loads(document(some._replace(packages=some.packages[:1]), "registry/name@sha256:0", 1700000000))
    assert other["documentNamespace"] != said["documentNamespace"]


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read(most: int) -> bytes:
        asked.append(most)
        return b""

    paths = (b"var/lib/dpkg/status", b"a.dist-info/METADATA", b"conda-meta/a.json", b"lib/apk/db/installed", b"other")
    find_packages((path, read) for path in paths)
    assert asked == [sbom.MAX_DATABASE, sbom.MAX_METADATA, sbom.MAX_METADATA * 8, sbom.MAX_DATABASE]
    monkeypatch.setattr(sbom, "MOST", 10)
    with pytest.raises(InvalidImage, match="more than 10 packages"):
        found({"lib/apk/db/installed": b"".join(b"P:a%d\nV:1\n\n" % number for number in range(20))})


@given(
    st.binary(max_size=300), st.sampled_from(["var/lib/dpkg/status", "lib/apk/db/installed", "a.dist-info/METADATA"])
)
def test_anything_else_is_no_package_or_one(data: bytes, path: str) -> None:
    got = found({path: b"Package: x\nP:x\nV:1\nName: x\nVersion: 1\n" + data})
    json.loads(document(got, "x", 0))
