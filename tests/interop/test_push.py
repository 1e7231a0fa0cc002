"""What hpcc pushes, `apptainer pull oras://` gets, bit for bit, and runs."""

from pathlib import Path

from tests.interop.conftest import Pulled, Tool
from tests.support.peers import apptainer
from tests.support.people import Person


def test_apptainer_pulls_what_hpcc_pushed(pulled: Pulled, hpcc: Tool, plain_user: Person, open_dir: Path) -> None:
    (open_dir / "home").mkdir(mode=0o700)
    person = plain_user.at(open_dir / "home")
    image, uri = pulled.ours / "words.sif", f"oras://{pulled.registry.host}/tests/pushed:1"
    done = hpcc(["push", "--no-https", image, uri], person)
    assert done.returncode == 0, done.stderr
    theirs = apptainer(["pull", "--no-https", "got.sif", uri], person)
    assert theirs.returncode == 0, theirs.stderr
    assert (person.home / "got.sif").read_bytes() == image.read_bytes()
    again = apptainer(["push", "--no-https", image, f"{uri}2"], person)
    assert again.returncode == 0, again.stderr
    done = hpcc(["push", "--no-https", image, f"{uri}3"], person)
    assert "which had it" in done.stderr  # what Apptainer has sent is not sent again
    digests = {line.split()[-1] for line in done.stderr.splitlines() if "Its digest" in line}
    kind = "application/vnd.oci.image.manifest.v1+json"
    answer = pulled.registry._send("GET", "/v2/tests/pushed/manifests/12", accept=kind)
    assert {answer.headers["Docker-Content-Digest"]} == digests  # both write the same manifest
