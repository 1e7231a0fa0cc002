"""`hpcc snakemake run` and `image()`, with the real Snakemake."""

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpcc.registry.fake import Faults
from tests.support import installation
from tests.support.daemons import wait_until
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.workflow import Workflow, add

# -- run ---------------------------------------------------------------------------------------------------------

RUN = """
rule all:
    input: "out/a.txt", "out/b.txt", "out/shadow.txt"
rule a:
    output: "out/a.txt"
    container: "docker://REGISTRY/lab/a:1"
    shell: "cat /version > {output}; mktemp >> {output}; echo $TMPDIR $OMP_NUM_THREADS >> {output}"
rule b:
    output: "out/b.txt"
    container: "docker://REGISTRY/lab/b:1"
    script: "b.py"
rule shadow:
    output: "out/shadow.txt"
    shadow: "minimal"
    container: "docker://REGISTRY/lab/a:1"
    shell: "pwd > {output}; cat /version >> {output}"
"""


def test_run(workflow: Workflow) -> None:
    """Nothing but this: no stand-in is enabled, none is on PATH."""
    _run(workflow)


@pytest.mark.parametrize("own", ["--compat", "--contain"])
def test_run_shut_off(of_user: Workflow, own: str) -> None:
    _run(of_user, own)


def _run(workflow: Workflow, *own: str) -> None:
    """$TMPDIR and shadow directories lie elsewhere."""
    workflow.write(RUN.replace('script: "b.py"', 'shell: "cat /version > {output}"'))
    scratch = workflow.person.home / "scratch"
    for name in ("tmp", "shadow"):
        (scratch / name).mkdir(parents=True)
        workflow.person.at(scratch / name)
    done = workflow.run("--shadow-prefix", str(scratch / "shadow"), own=own, TMPDIR=str(scratch / "tmp"))
    assert done.returncode == 0, done.stdout + done.stderr
    said = workflow.text("out/a.txt").splitlines()
    assert said[0] == "a 1" and said[1].startswith(f"{scratch}/tmp/") and said[2] == f"{scratch}/tmp 1"
    assert workflow.text("out/b.txt") == "b 1\n"
    where, version = workflow.text("out/shadow.txt").splitlines()
    assert where.startswith(f"{scratch}/shadow/") and version == "a 1"
    assert workflow.registry.counts["manifest_get"] == 4  # an index and a manifest each
    links = list((workflow.directory / ".snakemake/singularity").iterdir())
    assert len(links) == 2 and all(os.readlink(link).endswith(".sif") for link in links)


def test_its_status_and_streams_are_snakemakes(of_user: Workflow) -> None:
    of_user.write("rule all:\n    output: 'x'\n    container: 'docker://REGISTRY/lab/a:1'\n"
                  "    shell: 'touch started; sleep 60; exit 3'\n")  # fmt: skip
    words = [of_user.installed.hpcc, "snakemake", "run", "--", "--cores", "1"]
    process = of_user.person.popen(
        words, env=of_user.env, cwd=of_user.directory, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert wait_until((of_user.directory / "started").exists, 30, [process])
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert any(word.endswith(b"/snakemake") for word in command)  # it became that
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate(timeout=30)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1 and "Terminating processes on user request" in said
    assert of_user.run("no-such-target").returncode == 1
    assert of_user.run("--no-such-option").returncode == 2


def test_spaces_quotes_and_utf8(workflow: Workflow) -> None:
    """Snakemake does not quote the image's path, so the prefix gets another name."""
    person, registry = workflow.person, workflow.registry
    work = Workflow(person, workflow.installed, registry, person.home / "it's my größtes (work)")
    data = person.home / "a, b"
    data.mkdir()
    (data / "x").write_text("found\n")
    work.write(RUN + "    # ä\n")
    work.write('open(snakemake.output[0], "w").write(open("/version").read())\n', "b.py")
    bind = str(data).replace(",", "\\,") + ":/mnt/da ta"
    add(registry, "b", python=True)
    done = work.run(own=("--bind", bind))
    assert done.returncode == 0, done.stdout + done.stderr
    assert work.text("out/a.txt").startswith("a 1\n") and work.text("out/b.txt") == "b 1\n"
    assert all(link.is_symlink() for link in (work.directory / ".snakemake/singularity").iterdir())
    work.write("rule all:\n    output: 'y'\n    container: 'docker://REGISTRY/lab/a:1'\n"
               "    shell: \"cat '/mnt/da ta/x' > {output}\"\n")  # fmt: skip
    done = work.run("y", own=("--bind", bind))
    assert done.returncode == 0 and work.text("y") == "found\n", done.stderr


def test_a_tag_cannot_change_in_mid_workflow(of_user: Workflow) -> None:
    """Not even for what jobs themselves look up, with a tag that is believed for no second."""
    of_user.write("""
rule all:
    output: "x"
    container: None
    shell: "apptainer exec docker://REGISTRY/lab/a:1 cat /version > {output}; touch asked; "
           "while [ ! -e moved ]; do sleep 0.05; done; "
           "apptainer exec docker://REGISTRY/lab/a:1 cat /version >> {output}"
""")

    def move() -> None:
        deadline = time.monotonic() + 60
        while not (of_user.directory / "asked").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        add(of_user.registry, "a", "2")
        (of_user.directory / "moved").touch()

    thread = threading.Thread(target=move)
    thread.start()
    done = of_user.run(HPCC_TTL="0")
    thread.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert of_user.text("x") == "a 1\na 1\n"
    assert of_user.run("--forceall", HPCC_TTL="0").returncode == 0 and of_user.text("x") == "a 2\na 2\n"


def test_a_failed_pull_says_why_on_snakemakes_terminal(of_user: Workflow) -> None:
    of_user.write("rule all:\n    output: 'x'\n    container: 'docker://REGISTRY/lab/typo:1'\n    shell: 'touch x'\n")
    done = of_user.run()
    assert done.returncode == 1 and "lab/typo" in done.stderr and "spelled right" in done.stderr, done.stderr
    of_user.registry.quota = 0
    of_user.write("rule all:\n    output: 'x'\n    container: 'docker://REGISTRY/lab/a:1'\n    shell: 'touch x'\n")
    done = of_user.run()
    assert done.returncode == 1 and "429" in done.stderr and "hpcc registry login" in done.stderr, done.stderr


def test_one_prefix_for_two_workflows_at_once_and_a_library(of_user: Workflow) -> None:
    """One pull; and a workflow whose cache is empty has it from a read-only library, offline."""
    works = []
    for name in ("first", "second", "third"):
        works.append(Workflow(of_user.person, of_user.installed, of_user.registry, of_user.person.home / name))
        works[-1].write(
            "rule all:\n    output: 'x'\n    container: 'docker://REGISTRY/lab/a:1'\n    shell: 'cat /version > x'\n"
        )
    prefix = ("--apptainer-prefix", str(of_user.person.home / "prefix"))
    of_user.registry.faults = Faults(delay=0.2)
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda work: work.run(*prefix), works[:2]):
            assert done.returncode == 0, done.stderr
    assert [work.text("x") for work in works[:2]] == ["a 1\n"] * 2 and of_user.registry.counts["manifest_get"] == 2
    asked = list(of_user.registry.requests)
    library = of_user.person.home / "library"
    (of_user.person.home / "cache").rename(library)
    of_user.person.run(["chmod", "-R", "a-w", library])
    done = works[2].run(own=("--offline",), HPCC_LIBRARY_PATH=str(library))
    of_user.person.run(["chmod", "-R", "u+w", library])
    assert done.returncode == 0 and works[2].text("x") == "a 1\n", done.stderr
    (link,) = (works[2].directory / ".snakemake/singularity").iterdir()
    assert os.readlink(link).startswith(f"{library}/") and of_user.registry.requests == asked


def test_a_pull_killed_half_way(of_user: Workflow) -> None:
    """All of it, by SIGKILL, while a layer comes; the next run finds no half image and no lock that holds it back."""
    of_user.write(
        "rule all:\n    output: 'x'\n    container: 'docker://REGISTRY/lab/a:1'\n    shell: 'cat /version > x'\n"
    )
    of_user.registry.faults = Faults(trickle=0.01, only="blobs")
    words = [of_user.installed.hpcc, "snakemake", "run", "--", "--cores", "1"]
    process = of_user.person.popen(words, env=of_user.env, cwd=of_user.directory, stderr=-1, start_new_session=True)
    try:
        assert wait_until(lambda: of_user.registry.counts["blob_get"] > 0, 30, [process])
        time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    of_user.registry.faults = Faults()
    done = of_user.run("--nolock")
    assert done.returncode == 0 and of_user.text("x") == "a 1\n", done.stderr
    (link,) = (of_user.directory / ".snakemake/singularity").iterdir()
    assert link.is_symlink() and link.exists()


def test_methods_and_profiles(of_user: Workflow) -> None:
    """--sdm apptainer is added unless a method is given, be it by a profile; what is given stays."""
    of_user.write("rule all:\n    output: 'x'\n    shell: 'touch x'\n")

    def command(*argv: str) -> list[str]:
        words = [of_user.installed.hpcc, "snakemake", "run", "--print", "--", *argv]
        done = of_user.person.run(words, env=of_user.env, cwd=of_user.directory)
        assert done.returncode == 0, done.stderr
        return shlex.split(done.stdout.splitlines()[-1])[1:]

    assert command("--cores", "1", "--", "all") == ["--cores", "1", "--sdm", "apptainer", "--", "all"]
    assert command("--sdm", "conda") == ["--sdm", "conda"]
    assert command("--use-singularity", "x") == ["--use-singularity", "x"]
    profile = of_user.directory / "profiles/default"
    profile.mkdir(parents=True)
    (profile / "config.yaml").write_text('software-deployment-method: conda\napptainer-args: "--pid"\n')
    assert command("x") == ["x"]
    assert command("--shadow-prefix", "/s")[-1] == "--apptainer-args=--pid --bind /s"


def test_without_snakemake_it_says_what_to_install(installed: Installation, plain_user: Person) -> None:
    for words in (["run"], ["prefetch", "--list"]):
        done = plain_user.run([installed.hpcc, "snakemake", *words])
        assert done.returncode == 255 and "pip install 'hpcc[snakemake]'" in done.stderr, done.stderr
    done = plain_user.run([installed.hpcc, "--help"])
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Of integrations: ")]
    assert "snakemake" in line
    assert plain_user.run([installed.hpcc, "snakemake", "--help"]).returncode == 0
    done = plain_user.run([installed.hpcc, "snakemak"])
    assert done.returncode == 255 and "unknown command" in done.stderr


# -- image() -------------------------------------------------------------------------------------------------------

IMAGE = """
from hpcc_snakemake import image
rule all:
    input: "plain", "compat", "bound.a", "bound.b"
rule plain:
    output: "plain"
    container: image("docker://REGISTRY/lab/a:1")
    shell: "(cat /version; touch /etc/x && echo writable || echo not; echo ${{FROM_HOST:-}}) > {output} 2>/dev/null"
rule compat:
    output: "compat"
    container: image("docker://REGISTRY/lab/a:1", compat=True, env={"OWN": "x y"})
    shell: "(cat /version; touch /etc/x && echo writable || echo not; echo ${{FROM_HOST:-}}$OWN) > {output} 2>/dev/null"
rule bound:
    output: "bound.{t}"
    container: image("docker://REGISTRY/lab/{t}:1", binds=[config["data"] + ":/mnt/data:ro"], args=["--no-home"])
    shell: "cat /version /mnt/data/x > {output}"
"""


def test_image(workflow: Workflow) -> None:
    workflow.write(IMAGE)
    data = workflow.person.home / "data"
    data.mkdir()
    (data / "x").write_text("found\n")
    argv = ("--config", f"data={data}")
    for words in (["--dry-run"], ["--sdm", "conda", "--touch"]):
        done = workflow.run(*argv, *words)
        assert done.returncode == 0 and not workflow.registry.requests, done.stdout + done.stderr
    assert not list((workflow.directory / ".snakemake/singularity").iterdir())
    done = workflow.run(*argv, FROM_HOST="h")
    assert done.returncode == 0, done.stdout + done.stderr
    assert workflow.text("plain") == "a 1\nnot\nh\n" and workflow.text("compat") == "a 1\nwritable\nx y\n"
    assert workflow.text("bound.a") == "a 1\nfound\n" and workflow.text("bound.b") == "b 1\nfound\n"
    asked = list(workflow.registry.requests)
    done = workflow.run(*argv, "--forceall", HPCC_TTL="0")
    assert done.returncode == 0 and workflow.registry.requests == asked  # what is there is taken, as with any prefix
    listed = workflow.prefetch(*argv, "--list", "--json")
    assert {each["state"] for each in json.loads(listed.stdout)["images"]} == {"ready"}
    for beside in (workflow.directory / ".snakemake/singularity").glob("*.json"):
        beside.chmod(0o666)
    done = workflow.run(*argv, "--forceall")
    assert done.returncode == 1 and "is not believed" in done.stderr, done.stderr


def test_snakemake_8(of_user: Workflow) -> None:
    """It calls nothing that stands in `container:`, so image() goes by the command line."""
    installed = installation.install(("snakemake",), "snakemake-8")
    work = Workflow(of_user.person, installed, of_user.registry, of_user.person.home / "work")
    work.write(IMAGE.replace(', "bound.a", "bound.b"', "").replace("lab/{t}:1", "lab/b:1"))
    argv = ("--config", "data=/none")
    assert work.run(*argv, "--dry-run").returncode == 0 and work.prefetch(*argv, "--check").returncode == 1
    assert not work.registry.requests
    done = work.run(*argv, FROM_HOST="h")
    assert done.returncode == 0, done.stdout + done.stderr
    assert work.text("plain") == "a 1\nnot\nh\n" and work.text("compat") == "a 1\nwritable\nx y\n"
    assert work.prefetch(*argv, "--check").returncode == 0
