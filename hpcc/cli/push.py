"""hpcc push: a SIF to a registry, as it is (oras://) or as an OCI image (docker://), or to a library (library://)."""

import hashlib
import json
import os
import tempfile

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.sif.opening import opened, pread
from hpcc.cli.terminal import terminal
from hpcc.errors import CacheError, SettingsError, Unknown, UsageError
from hpcc.progress import Progress
from hpcc.records import TYPE_CHECKING
from hpcc.settings import Settings
from hpcc.sif.load import load
from hpcc.sitepath import load_site_packages

if TYPE_CHECKING:
    from hpcc.oci.digest import Digest
    from hpcc.registry.upload import Upload

COMMAND = Command(
    "push [OPTIONS] SIF URI",
    "Put a SIF into a registry: to oras://HOST/NAME[:TAG] as a file, as `apptainer push` does; with --oci to "
    "docker://HOST/NAME[:TAG] as an OCI image of one layer, which Docker and podman run; or to "
    "library://ENTITY/COLLECTION/NAME[:TAG[,TAG…]], a library, which wants it signed. What is there already is not "
    "sent again.",
    (
        Option(("--oci",), "as an OCI image"),
        Option(("-U", "--allow-unsigned"), "to a library without a signature; oras:// takes all SIFs anyway"),
        Option(("-D", "--description"), "what a library says of the image", "TEXT"),
        Option(("--library",), "the library, instead of the setting library_url", "URL"),
        Option(("--docker-login",), "ask for a registry account, for this command alone"),
        Option(("--no-https", "--nohttps"), "talk plain http to the registry, or to the host in library://HOST/…"),
    ),
    "hpcc push image.sif oras://ghcr.io/lab/image:1.0\n"
    "hpcc push --oci image.sif docker://ghcr.io/lab/image:1.0\n"
    "hpcc push image.sif library://lab/group/image:1.0,latest",
)
CONFIG = "application/vnd.sylabs.sif.config.v1+json"
LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
TITLE = "org.opencontainers.image.title"
_CHUNK = 4 << 20


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 2:
        raise usage_error(COMMAND, "push needs a SIF and where it goes")
    path, uri = arguments.positional
    if path.startswith("library://"):
        raise usage_error(COMMAND, f"the SIF comes before the URI: {uri} {path}")
    if uri.startswith("library://"):
        load_site_packages()
        from hpcc.cli.library import push

        return push(path, uri, arguments)
    scheme = "docker://" if arguments.oci else "oras://"
    if not uri.startswith(scheme):
        if path.startswith(scheme):
            raise usage_error(COMMAND, f"the SIF comes before the URI: {uri} {path}")
        if uri.startswith(("docker://", "oras://")):
            other = "docker:// takes an OCI image" if uri.startswith("docker") else "oras:// takes the SIF as it is"
            way = "Give --oci" if uri.startswith("docker") else "Leave --oci away"
            raise UsageError(f"{uri}: {other}", hint=f"{way}, or push to {scheme}HOST/NAME[:TAG].")
        raise Unknown(
            f"{uri}: hpcc push does not know this place",
            hint="It pushes to oras://HOST/NAME[:TAG], library://ENTITY/COLLECTION/NAME[:TAG], and with --oci to "
            "docker://HOST/NAME[:TAG].",
        )
    load_site_packages()
    from hpcc.oci.manifest import OCI_MANIFEST
    from hpcc.oci.reference import Reference
    from hpcc.registry.upload import Upload
    from hpcc.sources.docker import connect_itself

    reference = Reference.parse(f"docker://{uri.removeprefix(scheme)}")
    if reference.digest is not None:
        raise UsageError(f"{uri}: an image is pushed to a tag, and its digest follows from it", hint="Give NAME:TAG.")
    settings = Settings.from_environ()
    if arguments.no_https:
        settings = settings.replace(nohttps=True)
    if settings.offline:
        raise SettingsError(
            f"hpcc is offline ({settings.origins['offline']}), and pushes nothing", hint="HPCC_OFFLINE=false."
        )
    if arguments.docker_login:
        from hpcc.cli.prompts import ask_login

        login = ask_login(reference.registry)
        settings = settings.with_login(login.username, login.password)
    progress = terminal(arguments)
    with opened(path, load) as (fd, _), connect_itself(reference, settings) as registry:
        upload = Upload(registry, reference.repository)
        try:
            if arguments.oci:
                sent, manifest = _send_image(path, upload, progress)
            else:
                sent, manifest = _send_file(fd, os.path.basename(path), upload, progress)
            made = upload.manifest(str(reference.tag), manifest, OCI_MANIFEST)
        finally:
            progress.close()
    inform(arguments, f"Pushed {path} to {scheme}{reference.name}:{reference.tag}{'' if sent else ', which had it'}")
    inform(arguments, f"Its digest is {made}")
    return 0


def _send_file(fd: int, title: str, upload: "Upload", progress: Progress) -> tuple[bool, bytes]:
    size = os.fstat(fd).st_size
    digest = digest_of(fd, size, progress)
    progress.stage("Pushing", size)
    part = progress.part(f"{digest.hex[:12]}", size)
    sent = upload.blob(digest, size, lambda at, length: pread(fd, length, at), part)
    upload.small_blob(b"{}")
    return sent, _manifest(str(digest), size, title)


def _send_image(path: str, upload: "Upload", progress: Progress) -> tuple[bool, bytes]:
    from hpcc.flatten import flatten
    from hpcc.local import open_local

    image = open_local(path)
    with tempfile.TemporaryFile(prefix="hpcc-push-") as file:
        progress.stage("Making the layer")
        try:
            flat = flatten(image, file, progress.part("", 0))
            file.flush()
        except OSError as error:
            raise CacheError(f"cannot write the layer: {error.strerror}", hint="TMPDIR names another place.") from None
        progress.stage("Pushing", flat.size)
        part = progress.part(flat.layer.hex[:12], flat.size)
        sent = upload.blob(flat.layer, flat.size, lambda at, length: os.pread(file.fileno(), length, at), part)
    upload.small_blob(flat.config)
    return sent, flat.manifest


def digest_of(fd: int, size: int, progress: Progress) -> "Digest":
    """The SHA-256 of the file; the progress tells how far it is."""
    from hpcc.oci.digest import Digest

    progress.stage("Reading", size)
    part, found, at = progress.part("", size), hashlib.sha256(), 0
    while data := pread(fd, _CHUNK, at):
        found.update(data)
        at += len(data)
        part.advance(len(data))
    part.finish()
    return Digest("sha256", found.hexdigest())


def _manifest(digest: str, size: int, title: str) -> bytes:
    """As Apptainer's; the same SIF under the same name is the same manifest."""
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": CONFIG, "size": 2, "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}"},
        "layers": [{"mediaType": LAYER, "size": size, "digest": digest, "annotations": {TITLE: title}}],
    }
    return json.dumps(document, separators=(",", ":")).encode()
