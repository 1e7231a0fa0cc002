"""A library that is written to: in the forms of each version of the API, broken off, refused; servers that lie."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.artifacts import token
from hpcc.errors import AccessDenied, HpccError, ImageNotFound, IntegrityError, RegistryError, RegistryUnavailable
from hpcc.oci.digest import Digest
from hpcc.progress import Part
from hpcc.registry import transport
from hpcc.registry.library import SIGNED_UPLOADS, TAGS_BY_ARCH, Library, at_least
from tests.support.pulls import noise, settings_of
from tests.support.webserver import FakeLibrary, WebServer

SIF = noise(3_000_000, 5)
DIGEST = Digest("sha256", hashlib.sha256(SIF).hexdigest())
PATH = "lab/group/tools"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE", 0.01)


@pytest.fixture
def library() -> Iterator[FakeLibrary]:
    with FakeLibrary() as server:
        yield server


class Count(Part):
    def __init__(self) -> None:
        self.done, self.said = 0, ""

    def advance(self, amount: int) -> None:
        self.done += amount

    def finish(self, said: str = "") -> None:
        self.said = said


def client(library: WebServer, token: str = "") -> Library:
    return Library(library.url, user_agent="test", token=token)


def push(
    library: WebServer, part: Part | None = None, *, data: bytes = SIF, token: str = "", tags: Any = ("1.4",)
) -> bool:
    with client(library, token) as into:
        read_at = lambda at, length: data[at : at + length]  # noqa: E731
        return into.push(PATH, tags, "amd64", DIGEST, len(SIF), read_at, part or Count(), "for tests")


def test_a_push_makes_what_is_not_there(library: FakeLibrary) -> None:
    part = Count()
    assert push(library, part, tags=("1.4", "latest")) and part.done == len(SIF)
    assert library.images == {(PATH, "1.4", "amd64"): SIF, (PATH, "latest", "amd64"): SIF}
    asked = [f"{method} {path.partition('?')[0]}" for method, path, _ in library.changes]
    assert asked == [
        "POST /v1/entities", "POST /v1/collections", "POST /v1/containers", "POST /v1/images",
        "POST /v2/imagefile/id-3", "PUT /uploads/id-3", "PUT /v2/imagefile/id-3/_complete",
        "POST /v2/tags/id-2", "POST /v2/tags/id-2",
    ]  # fmt: skip
    image = library.changes[3][2]
    assert image == {"hash": f"sha256.{DIGEST.hex}", "description": "for tests", "container": "id-2"}
    assert library.changes[4][2] == {"filesize": len(SIF), "sha256sum": DIGEST.hex}
    assert library.changes[-1][2] == {"Arch": "amd64", "Tag": "latest", "ImageID": "id-3"}


def test_what_is_there_is_not_sent_again(library: FakeLibrary) -> None:
    assert push(library)
    library.changes.clear()
    part = Count()
    assert not push(library, part, tags=("2.0",)) and (part.done, part.said) == (len(SIF), "is there")
    assert [path for _, path, _ in library.changes] == ["/v2/tags/id-2"]


@pytest.mark.parametrize(
    ("api", "upload", "tag"),
    [
        ("", "v1", "v1"),
        ("1.0.0", "v1", "v1"),
        ("2.0.0-alpha.1", "v2", "v1"),
        ("2.0.0", "v2", "v2"),
        ("new", "v1", "v1"),
    ],
)
def test_older_libraries(library: FakeLibrary, api: str, upload: str, tag: str) -> None:
    library.api = api
    assert push(library)
    paths = [path for _, path, _ in library.changes]
    assert f"/{upload}/imagefile/id-3" in paths and paths[-1] == f"/{tag}/tags/id-2"
    assert library.images == {(PATH, "1.4", "amd64" if tag == "v2" else "any"): SIF}


def test_the_order_of_versions() -> None:
    for version, minimum, expected in (
        ("2.0.0-alpha.2", SIGNED_UPLOADS, True),
        ("2.0.0-alpha.1", TAGS_BY_ARCH, False),
        ("2.0.0-alpha.10", TAGS_BY_ARCH, True),
        ("2.0.0-beta", TAGS_BY_ARCH, True),
        ("2.0.0+5", TAGS_BY_ARCH, True),
        ("10.0.0", TAGS_BY_ARCH, True),
        ("1.9.9", TAGS_BY_ARCH, False),
        ("", TAGS_BY_ARCH, False),
    ):
        assert at_least(version, minimum) is expected, version


@pytest.mark.parametrize("api", ["", "2.0.0"])
def test_an_upload_that_breaks_off_is_sent_again(library: FakeLibrary, api: str) -> None:
    library.api, library.breaks = api, 2
    part = Count()
    assert push(library, part) and part.done == len(SIF)
    assert SIF in library.images.values()


def test_a_push_goes_on_where_an_earlier_one_failed(library: FakeLibrary) -> None:
    library.breaks = 99
    with pytest.raises(RegistryUnavailable):
        push(library)
    assert not library.images and len(library.made) == 4
    library.breaks = 0
    library.changes.clear()
    assert push(library) and SIF in library.images.values()
    assert library.changes[0][1] == "/v2/imagefile/id-3"


def test_the_token_goes_to_the_library_alone(library: FakeLibrary) -> None:
    library.token = "secret-token"
    with FakeLibrary() as store:
        library.store_url = store.url
        with pytest.raises(RegistryError):  # the upload lies in another store, which the fake does not know
            push(library, token="secret-token")
        assert store.authorisations == [""]
    assert set(library.authorisations) == {"Bearer secret-token"}


def test_a_variables_token_is_for_the_library_of_the_setting_alone(tmp_path: Path) -> None:
    """An image's name may lead to any host: library://evil.example/a/b/c."""
    settings = settings_of(tmp_path, HPCC_LIBRARY_TOKEN="secret-token", HPCC_LIBRARY_URL="https://library.example/")
    assert token(settings, "https://library.example") == "secret-token"
    assert token(settings, "https://evil.example") == token(settings, "http://library.example") == ""


@pytest.mark.parametrize(("token", "words"), [("", "hpcc registry login"), ("wrong-token", "still good")])
def test_who_may_not(library: FakeLibrary, token: str, words: str) -> None:
    library.token = "secret-token"
    for act in (
        lambda: push(library, token=token),
        lambda: client(library, token).delete(PATH, "1.4", "amd64"),
        lambda: client(library, token).search("tools", "amd64", signed=False),
        lambda: client(library, token).check_token(),
    ):
        with pytest.raises(AccessDenied, match="Unauthorized") as raised:
            act()
        assert words in raised.value.hint and "wrong-token" not in raised.value.message + raised.value.hint
    assert not library.made


def test_delete(library: FakeLibrary) -> None:
    push(library)
    with client(library) as there:
        there.delete(PATH, "1.4", "amd64")
        assert not library.images
        with pytest.raises(ImageNotFound, match=f"image library://{PATH}:1.4 for amd64"):
            there.delete(PATH, "1.4", "amd64")


def test_a_file_that_changes_under_way(library: FakeLibrary) -> None:
    with pytest.raises(IntegrityError, match="cut short"):
        push(library, data=SIF[:2_000_000])
    with pytest.raises(RegistryError, match="another hash"):
        push(library, data=SIF[:-1] + b"x")
    assert not library.images


def test_libraries_that_lie(library: FakeLibrary) -> None:
    for url in ("file:///etc/passwd", "", "ftp://x/y", "https://"):
        library.store_url = url
        with pytest.raises(RegistryError, match="where hpcc does not go"):
            push(library)
    for known in ({"id": 5}, {"id": ""}, [], "text"):
        library.made["entities/lab"] = known  # type: ignore[assignment]
        with pytest.raises(RegistryError, match="does not answer as a library would"):
            push(library)
    for found in ({"image": "x"}, {"image": [5]}, []):
        library.found = found  # type: ignore[assignment]
        with pytest.raises(RegistryError, match="does not answer as a library would"), client(library) as there:
            there.search("tools", "amd64", signed=True)
    with pytest.raises(HpccError, match="no address of a library"):
        Library("library.example", user_agent="test")
