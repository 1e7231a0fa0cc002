"""`hpcc demo` as somebody finds it who has just installed the wheel."""

import re
import time
from pathlib import Path

from tests.support.installation import Installation
from tests.support.people import Person


def test_demo_of_the_wheel(runs_as: Person, installed: Installation) -> None:
    """Without the extra there is no Snakemake: it says so, does the rest, and leaves nothing of its own."""
    (runs_as.home / "precious").write_text("x")
    before = set(runs_as.home.rglob("*")) | set(Path("/var/tmp").glob("hpcc-demo-*"))
    done = runs_as.run([installed.hpcc, "demo"])
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    rows = table(done.stdout)
    assert re.fullmatch(r"[12] of 5; [34] pulls left", rows["requests that the registry counted"])
    assert re.fullmatch(r"\d+ HEAD, 4 blobs", rows["requests that cost nothing"])
    for row in ("pull, and convert meanwhile", "exec --compat, 8 at once", "exec --compat, once more"):
        assert re.fullmatch(r"\d+\.\d\d s", rows[row]), rows
    assert re.fullmatch(r"\d+\.\d\d s, \d+\.\d MB", rows["assemble the SIF"])
    assert "pip install 'hpcc[snakemake]'" in rows["Snakemake workflow"]
    after = set(runs_as.home.rglob("*")) | set(Path("/var/tmp").glob("hpcc-demo-*"))
    assert after == before
    assert (runs_as.home / "precious").exists()


def test_demo_keeps_its_directory_on_request(plain_user: Person, installed: Installation) -> None:
    done = plain_user.run([installed.hpcc, "demo", "--keep"])
    assert done.returncode == 0, done.stderr
    kept = Path(done.stdout.rstrip().rpartition(" ")[2])
    assert kept.name.startswith("hpcc-demo-") and len(list((kept / "cache/sif-v1").iterdir())) == 1
    plain_user.run(["chmod", "-R", "u+w", kept])
    assert plain_user.run(["rm", "-rf", kept]).returncode == 0


def test_it_needs_no_network_and_no_home(runs_as: Person, installed: Installation) -> None:
    """A proxy that is not there would be asked by anything that leaves loopback."""
    nowhere = "http://127.0.0.1:1"
    env = {"HTTP_PROXY": nowhere, "http_proxy": nowhere, "HTTPS_PROXY": nowhere, "https_proxy": nowhere}
    begun = time.monotonic()
    done = runs_as.run([installed.hpcc, "demo"], env={**env, "HOME": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 120


def table(text: str) -> dict[str, str]:
    """The closing table: what stands on the left -> what on the right."""
    return dict(re.findall(r"^  (\S.*?)  +(\S.*)$", text.rpartition("\n\n")[2], re.M))
