"""Platforms: one normal form, and the choice among an index's manifests."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc.errors import UnsupportedImage, UsageError
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor
from hpcc.oci.platform import Platform, candidates, match_order, select


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", ("linux", "amd64", "")),
        ("amd64", ("linux", "amd64", "")),
        ("x86_64", ("linux", "amd64", "")),
        ("linux/x86_64", ("linux", "amd64", "")),
        ("amd64/v1", ("linux", "amd64", "")),
        ("linux/amd64/v3", ("linux", "amd64", "v3")),
        ("linux/arm64/v8", ("linux", "arm64", "")),
        ("aarch64", ("linux", "arm64", "")),
        ("arm64v8", ("linux", "arm64", "")),
        ("arm", ("linux", "arm", "v7")),
        ("arm/6", ("linux", "arm", "v6")),
        ("arm32v6", ("linux", "arm", "v6")),
        ("armhf", ("linux", "arm", "v7")),
        ("i686", ("linux", "386", "")),
        ("ppc64el", ("linux", "ppc64le", "")),
        ("Linux/S390X", ("linux", "s390x", "")),
        ("windows/amd64", ("windows", "amd64", "")),
    ],
)
def test_parse(text: str, platform: tuple[str, str, str]) -> None:
    assert Platform.parse(text) == platform
    assert Platform.parse(str(Platform.parse(text))) == platform


@pytest.mark.parametrize(
    "text", ["", "/", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd64/v1/x", "am d64", "ämd64"]
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        Platform.parse(text)


@pytest.mark.parametrize("machine", [("x86_64", "amd64"), ("aarch64", "arm64"), ("ppc64le", "ppc64le")])
def test_host(monkeypatch: pytest.MonkeyPatch, machine: tuple[str, str]) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "node", "6.1", "#1", machine[0])))
    assert Platform.host() == ("linux", machine[1], "")


def test_match_order() -> None:
    def order(text: str) -> list[str]:
        return [str(platform) for platform in match_order(Platform.parse(text))]

    assert order("arm/v8") == ["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
    assert order("arm/v6") == ["linux/arm/v6", "linux/arm/v5"]
    assert order("arm64") == ["linux/arm64"]
    assert order("arm64/v9") == ["linux/arm64/v9", "linux/arm64"]
    assert order("amd64/v3") == ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"]
    assert order("amd64") == ["linux/amd64"]
    assert order("ppc64le") == ["linux/ppc64le"]
    assert order("riscv64/v99999999999") == ["linux/riscv64/v99999999999"]


def entry(text: str | None, **fields: object) -> Descriptor:
    platform = None if text is None else Platform.of(*text.split("/"))
    return Descriptor("", Digest.of(repr((text, fields)).encode()), 1, platform, **fields)  # type: ignore[arg-type]


INDEX = [
    entry("unknown/unknown"),
    entry("linux/amd64", annotations=(("vnd.docker.reference.type", "attestation-manifest"),)),
    entry("windows/amd64"),
    entry("linux/arm/v6"),
    entry("linux/arm/v7"),
    entry("linux/arm64/v8"),
    entry("linux/amd64"),
    entry("linux/amd64/v3"),
]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("amd64", 6), ("amd64/v4", 7), ("arm64", 5), ("arm64/v9", 5), ("arm", 4), ("arm/v8", 4), ("arm/v6", 3)],
)
def test_select(wanted: str, found: int) -> None:
    assert select(INDEX, Platform.parse(wanted)) == INDEX[found]


def test_first_of_equals_wins_and_no_platform_comes_last() -> None:
    index = [entry(None), entry("linux/arm64/v8"), entry("linux/arm64")]
    assert select(index, Platform.parse("arm64")) == index[1]
    assert candidates(index, Platform.parse("arm64")) == (index[1], index[2], index[0])
    assert select(index, Platform.parse("s390x")) == index[0]


def test_nothing_fits() -> None:
    with pytest.raises(UnsupportedImage) as caught:
        select(INDEX, Platform.parse("s390x"))
    assert "nothing for linux/s390x" in caught.value.message
    assert "linux/amd64, linux/amd64/v3, linux/arm/v6" in caught.value.message
    assert "unknown" not in caught.value.message
    with pytest.raises(UnsupportedImage, match="no platform at all"):
        select([], Platform.parse("amd64"))


@settings(deadline=None)  # other work on the machine must not count
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=6))
def test_normal_form_is_stable(os_name: str, architecture: str, variant: str) -> None:
    platform = Platform.of(os_name, architecture, variant)
    assert platform in match_order(platform)
    assert match_order(platform)[0] == Platform.of(*platform)
