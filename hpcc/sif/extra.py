"""What a descriptor's extra says, by the object's type, in the words of Apptainer's `sif info`.

```
partition   fs i32   part i32   architecture 3 bytes       signature       hash i32   entity 256 bytes
SBOM        format i32                                     crypto message  format i32   message i32
OCI blob and root index: the digest, "sha256:…"            other types: nothing
```
"""

import struct

from hpcc.sif import descriptor as d
from hpcc.sif.descriptor import Descriptor

TYPES = {
    d.DEFFILE: "Def.FILE", d.ENVVAR: "Env.Vars", d.LABELS: "JSON.Labels", d.PARTITION: "FS",
    d.SIGNATURE: "Signature", d.GENERIC_JSON: "JSON.Generic", d.GENERIC: "Generic/Raw",
    d.CRYPTO_MESSAGE: "Cryptographic Message", d.SBOM: "SBOM", d.OCI_ROOT_INDEX: "OCI.RootIndex",
    d.OCI_BLOB: "OCI.Blob",
}  # fmt: skip
FILE_SYSTEMS = {
    d.FS_SQUASHFS: "Squashfs", d.FS_EXT3: "Ext3", d.FS_ARCHIVE: "Archive", d.FS_RAW: "Raw",
    d.FS_ENCRYPTED_SQUASHFS: "Encrypted squashfs", d.FS_GOCRYPTFS: "Gocryptfs squashfs",
}  # fmt: skip
PARTS = {
    d.PART_SYSTEM: "System", d.PART_PRIMARY_SYSTEM: "*System", d.PART_DATA: "Data", d.PART_OVERLAY: "Overlay"
}  # fmt: skip
HASHES = dict(enumerate(("SHA-256", "SHA-384", "SHA-512", "BLAKE2s-256", "BLAKE2b-256"), 1))
SBOM_FORMATS = dict(
    enumerate(
        (
            "cyclonedx-json", "cyclonedx-xml", "github-json", "spdx-json",
            "spdx-rdf", "spdx-tag-value", "spdx-yaml", "syft-json",
        ),
        1,
    )
)  # fmt: skip
_FORMATS = {1: "OpenPGP", 2: "PEM"}
_MESSAGES = {0x100: "Clear Signature", 0x200: "RSA-OAEP"}
_ENTITY_SIZE, FINGERPRINT_SIZE = 256, 20


def signature_extra(hash: int, fingerprint: bytes) -> bytes:
    """Of a signature by the key with this fingerprint, 20 bytes, or none."""
    return struct.pack(f"<i{_ENTITY_SIZE}s", hash, fingerprint)


def sbom_extra(format: int) -> bytes:
    return struct.pack("<i", format)


def details(each: Descriptor) -> dict[str, str]:
    """Label -> what it says, "Unknown" for a number that SIF does not define. The text of digests is the file's own."""
    first, second = struct.unpack_from("<ii", each.extra.ljust(8, b"\0"))
    if (partition := each.partition) is not None:
        return {
            "Filesystem Type": FILE_SYSTEMS.get(first, "Unknown"),
            "Partition Type": PARTS.get(second, "Unknown"),
            "Architecture": partition.arch,
        }
    if each.type == d.SIGNATURE:
        fingerprint = each.extra[4 : 4 + FINGERPRINT_SIZE]
        entity = {"Entity": fingerprint.hex().upper()} if any(fingerprint) else {}
        return {"Hash Type": HASHES.get(first, "Unknown"), **entity}
    if each.type == d.CRYPTO_MESSAGE:
        return {"Format Type": _FORMATS.get(first, "Unknown"), "Message Type": _MESSAGES.get(second, "Unknown")}
    if each.type == d.SBOM:
        return {"Format": SBOM_FORMATS.get(first, "unknown")}
    if each.type in (d.OCI_ROOT_INDEX, d.OCI_BLOB):
        return {"Digest": each.extra.rstrip(b"\0").decode("utf-8", "backslashreplace")}
    return {}
