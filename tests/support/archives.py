"""Archives of images: as Docker saved them in its different years, written here, and what skopeo writes."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.real import need


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar_of(files: Mapping[str, bytes | tarfile.TarInfo], more: Iterable[tuple[tarfile.TarInfo, bytes]] = ()) -> bytes:
    """A tar of these files, in this order; a TarInfo stands for itself, without data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            content = b"" if isinstance(data, tarfile.TarInfo) else data
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info, content in more:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def old_save(layers: Sequence[bytes], config: Mapping[str, Any], tags: Sequence[str]) -> dict[str, Any]:
    """The files of `docker save` until version 24; the layers come gzip-compressed, and stand there plain."""
    data = json.dumps(config).encode()
    files: dict[str, Any] = {}
    paths: list[str] = []
    seen: dict[str, str] = {}
    for number, layer in enumerate(layers):
        plain = gzip.decompress(layer)
        name = digest_of(plain + bytes([number]))
        files[f"{name}/VERSION"] = b"1.0"
        files[f"{name}/json"] = json.dumps({"id": name}).encode()
        files[f"{name}/layer.tar"] = link(f"../{seen[digest_of(plain)]}") if digest_of(plain) in seen else plain
        seen.setdefault(digest_of(plain), f"{name}/layer.tar")
        paths.append(f"{name}/layer.tar")
    files[f"{digest_of(data)}.json"] = data
    entry = {"Config": f"{digest_of(data)}.json", "RepoTags": list(tags) or None, "Layers": paths}
    files["manifest.json"] = json.dumps([entry]).encode()
    files["repositories"] = json.dumps({}).encode()
    return files


def new_save(
    layers: Sequence[bytes], config: Mapping[str, Any], tags: Sequence[str], *, plain: bool = True
) -> dict[str, Any]:
    """The files of `docker save` since version 25: an OCI layout, and manifest.json beside it. Without `plain` the
    layers stay compressed, as a containerd store has them.
    """
    data = json.dumps(config).encode()
    blobs = [gzip.decompress(layer) if plain else layer for layer in layers]
    paths = [f"blobs/sha256/{digest_of(blob)}" for blob in blobs]
    media = "application/vnd.oci.image.layer.v1.tar" + ("" if plain else "+gzip")
    manifest = {
        "schemaVersion": 2,
        "config": descriptor(data, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(blob, media) for blob in blobs],
    }
    body = json.dumps(manifest).encode()
    index = {"schemaVersion": 2, "manifests": [descriptor(body, "application/vnd.oci.image.manifest.v1+json")]}
    entry = {"Config": f"blobs/sha256/{digest_of(data)}", "RepoTags": list(tags) or None, "Layers": paths}
    return {
        **dict(zip(paths, blobs, strict=True)),
        f"blobs/sha256/{digest_of(data)}": data,
        f"blobs/sha256/{digest_of(body)}": body,
        "index.json": json.dumps(index).encode(),
        "manifest.json": json.dumps([entry]).encode(),
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
    }


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest_of(data)}", "size": len(data)}


def skopeo_copy(source: str, target: str, cwd: Path) -> None:
    """Copy an image by skopeo, over http."""
    argv = [need("skopeo"), "copy", "-q", "--src-tls-verify=false", source, target]
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
