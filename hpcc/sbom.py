"""What packages are in an image, as SPDX 2.3 in JSON: read from its files, without running anything of it.

dpkg   /var/lib/dpkg/status, and status.d/ of distroless images          pip    …/*.dist-info/METADATA
apk    /lib/apk/db/installed, /usr/lib/apk/db/installed                  conda  …/conda-meta/*.json

The same image gives the same document: no clock is asked, and packages are sorted. An image is hostile: of each file so
many bytes are read, and so many packages are taken. Databases of rpm are not read: `Found.unread` names them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from hpcc.errors import InvalidImage
from hpcc.records import NamedTuple
from hpcc.version import __version__

MAX_DATABASE = 64 << 20  # bytes; Debian's largest installations have 10 MB
MAX_METADATA = 1 << 20
MOST = 200_000
_DATABASES = {
    b"var/lib/dpkg/status": "deb", b"lib/apk/db/installed": "apk", b"usr/lib/apk/db/installed": "apk",
}  # fmt: skip
_DISTROLESS = b"var/lib/dpkg/status.d/"
_RPM = (b"lib/rpm/rpmdb.sqlite", b"lib/rpm/Packages.db", b"lib/rpm/Packages", b"sysimage/rpm/rpmdb.sqlite")


class Package(NamedTuple):
    """kind: as in a package URL (github.com/package-url/purl-spec): deb, apk, pypi, conda."""

    kind: str
    name: str
    version: str
    arch: str = ""


class Found(NamedTuple):
    """Sorted, each once; and the databases that were seen and not read."""

    packages: tuple[Package, ...]
    unread: tuple[str, ...]


def find_packages(files: Iterable[tuple[bytes, Callable[[int], bytes]]]) -> Found:
    """files: (path without a leading slash, a function that reads so many bytes of it) of the image's regular files.

    InvalidImage for more packages than an image has.
    """
    found: set[Package] = set()
    unread = []
    for path, read in files:
        if path.endswith(_RPM):
            unread.append(f"/{path.decode('utf-8', 'replace')}")
            continue
        found.update(_of_file(path, read))
        if len(found) > MOST:
            raise InvalidImage(f"the image says that it has more than {MOST} packages")
    return Found(tuple(sorted(found)), tuple(unread))


def document(found: Found, name: str, created: int) -> bytes:
    """The SPDX document of an image of this name; created: seconds since 1970, of the image."""
    packages = [_spdx(number, each) for number, each in enumerate(found.packages, 1)]
    root = {"name": name, "SPDXID": "SPDXRef-Image", "downloadLocation": "NOASSERTION", "filesAnalyzed": False}
    digest = hashlib.sha256(json.dumps([name, packages], sort_keys=True).encode()).hexdigest()
    describes = ("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")
    contains = (("SPDXRef-Image", "CONTAINS", str(each["SPDXID"])) for each in packages)
    spdx: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/hpcc-{digest}",
        "creationInfo": {
            "created": f"{datetime.fromtimestamp(created, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "creators": [f"Tool: hpcc-{__version__}"],
        },
        "packages": [root, *packages],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in (describes, *contains)
        ],
    }
    if found.unread:
        spdx["comment"] = f"Not read, so that their packages are missing here: {', '.join(found.unread)}"
    return json.dumps(spdx, indent=1).encode() + b"\n"


def _spdx(number: int, each: Package) -> dict[str, Any]:
    purl = f"pkg:{each.kind}/{quote(each.name, safe='')}@{quote(each.version, safe='')}"
    return {
        "name": each.name,
        "SPDXID": f"SPDXRef-Package-{number}",
        "versionInfo": each.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl + (f"?arch={quote(each.arch, safe='')}" if each.arch else ""),
            }
        ],
    }


def _of_file(path: bytes, read: Callable[[int], bytes]) -> Iterator[Package]:
    if (kind := _DATABASES.get(path)) == "apk":
        yield from _apk(_text(read(MAX_DATABASE)))
    elif kind == "deb" or (path.startswith(_DISTROLESS) and not path.endswith(b".md5sums")):
        yield from _dpkg(_text(read(MAX_DATABASE)))
    elif path.endswith(b".dist-info/METADATA"):
        fields = _fields(_text(read(MAX_METADATA)).partition("\n\n")[0])
        if fields.get("Name") and fields.get("Version"):
            yield Package("pypi", fields["Name"].lower().replace("_", "-"), fields["Version"])
    elif b"conda-meta/" in path and path.endswith(b".json"):
        yield from _conda(read(MAX_METADATA * 8))


def _dpkg(text: str) -> Iterator[Package]:
    for paragraph in text.split("\n\n"):
        fields = _fields(paragraph)
        installed = fields.get("Status", "install ok installed").endswith(" installed")
        if installed and fields.get("Package") and fields.get("Version"):
            yield Package("deb", fields["Package"], fields["Version"], fields.get("Architecture", ""))


def _apk(text: str) -> Iterator[Package]:
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(":", 1) for line in paragraph.splitlines() if line[1:2] == ":")
        if fields.get("P") and fields.get("V"):
            yield Package("apk", fields["P"], fields["V"], fields.get("A", ""))


def _conda(data: bytes) -> Iterator[Package]:
    try:
        record: Any = json.loads(data)
        if isinstance(record["name"], str) and isinstance(record["version"], str):
            yield Package("conda", record["name"], record["version"], str(record.get("subdir") or ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # history and the like lie beside the records


def _fields(paragraph: str) -> dict[str, str]:
    """The first value of each field; lines that go on are left out."""
    found: dict[str, str] = {}
    for line in paragraph.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            found.setdefault(name, value.strip())
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
