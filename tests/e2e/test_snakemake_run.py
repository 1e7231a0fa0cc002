"""`hpcc snakemake run`, `hpcc snakemake prefetch` and `image()`, with the real Snakemake."""

import gzip
import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpcc.cli.demo_image import build_demo_layers
from hpcc.oci.digest import Digest
from hpcc.registry.fake import FakeRegistry, Faults
from tests.support import installation
from tests.support.daemons import wait_until
from tests.support.images import layer
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person
from tests.support.pulls import ARCHITECTURE

TOOLS = ("a", "b", "part", "split")


@pytest.fixture(scope="module")
def with_snakemake() -> Installation:
    return installation.install(("snakemake",))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        for name in TOOLS:
            add(registry, name)
        yield registry


def add(registry: FakeRegistry, name: str, version: str = "1", *, python: bool = False) -> str:
    """An image lab/NAME:1 whose /version tells of it; its digest."""
    info = tarfile.TarInfo("version")
    data = f"{name} {version}\n".encode()
    info.size = len(data)
    layers = [*build_demo_layers().layers[: 2 if python else 1], layer({"version": (info, data)})]
    ids = [f"sha256:{hashlib.sha256(gzip.decompress(each)).hexdigest()}" for each in layers]
    config = {"architecture": ARCHITECTURE, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
    registry.add_image(f"lab/{name}", "1", layers, config, index=True)
    return str(Digest.of(registry.manifests[f"lab/{name}", "1"][1]))


class Workflow:
    """A workflow in a directory of a person's, and hpcc for it."""

    def __init__(self, person: Person, installed: Installation, registry: FakeRegistry, directory: Path) -> None:
        self.person, self.installed, self.registry, self.directory = person, installed, registry, directory
        directory.mkdir(parents=True, exist_ok=True)
        person.at(directory)
        self.env = {"HPCC_INSECURE": registry.host, "PATH": f"{installed.bin}:{SYSTEM_PATH}"}

    def write(self, snakefile: str, name: str = "Snakefile") -> None:
        (self.directory / name).write_text(snakefile.replace("REGISTRY", self.registry.host))

    def run(self, *argv: str, own: tuple[str, ...] = (), **env: str) -> "subprocess.CompletedProcess[str]":
        words = [self.installed.hpcc, "snakemake", "run", *own, "--", "--cores", "2", *argv]
        return self.person.run(words, env={**self.env, **env}, cwd=self.directory, timeout=180)

    def prefetch(self, *argv: str, **env: str) -> "subprocess.CompletedProcess[str]":
        words = [self.installed.hpcc, "snakemake", "prefetch", *argv]
        return self.person.run(words, env={**self.env, **env}, cwd=self.directory)

    def text(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def workflow(runs_as: Person, with_snakemake: Installation, registry: FakeRegistry) -> Workflow:
    return Workflow(runs_as, with_snakemake, registry, runs_as.home / "work")


@pytest.fixture
def of_user(plain_user: Person, with_snakemake: Installation, registry: FakeRegistry, open_dir: Path) -> Workflow:
    (open_dir / "home").mkdir()
    person = plain_user.at(open_dir / "home")
    return Workflow(person, with_snakemake, registry, person.home / "work")


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


def test_spaces_quotes_and_utf8(runs_as: Person, with_snakemake: Installation, registry: FakeRegistry) -> None:
    """Snakemake does not quote the image's path, so the prefix gets another name."""
    work = Workflow(runs_as, with_snakemake, registry, runs_as.home / "it's my größtes (work)")
    data = runs_as.home / "a, b"
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
    assert "Of integrations: snakemake" in done.stdout
    assert plain_user.run([installed.hpcc, "snakemake", "--help"]).returncode == 0
    done = plain_user.run([installed.hpcc, "snakemak"])
    assert done.returncode == 255 and "unknown command" in done.stderr


# -- prefetch ----------------------------------------------------------------------------------------------------

PREFETCH = """
rule all:
    input: "x.a.txt", "c/done"
rule a:
    output: "x.{t}.txt"
    container: lambda wildcards: f"docker://REGISTRY/lab/{wildcards.t}:1"
    shell: "cat /version > {output}"
checkpoint split:
    output: directory("c/parts")
    container: "docker://REGISTRY/lab/split:1"
    shell: "mkdir -p {output}; touch {output}/1 {output}/2"
rule part:
    input: "c/parts/{n}"
    output: "c/out/{n}"
    container: "docker://REGISTRY/lab/part:1"
    shell: "cat /version > {output}"
rule wild:
    input: "c/parts/{n}"
    output: "c/wild/{n}"
    container: "docker://REGISTRY/lab/{n}:1"
    shell: "touch {output}"
rule not_wanted:
    output: "nothing"
    shell: "touch {output}"
def parts(wildcards):
    return expand("c/out/{n}", n=filter(str.isdigit, glob_wildcards(checkpoints.split.get().output[0] + "/{n}").n))
rule gather:
    input: parts
    output: "c/done"
    container: "docker://REGISTRY/lab/b:1"
    shell: "cat {input} /version > {output}"
"""


def test_prefetch(workflow: Workflow) -> None:
    """All of it is there before the workflow runs, which then asks nobody: a function's image, a checkpoint's."""
    workflow.write(PREFETCH)
    host = workflow.registry.host
    done = workflow.prefetch("--check")
    assert done.returncode == 1 and f"missing: docker://{host}/lab/part:1" in done.stdout, done.stderr
    assert "checkpoint" in done.stderr and "part" in done.stderr and "wild" in done.stderr
    assert "0 of 4 image(s)" in done.stderr and not workflow.registry.requests
    done = workflow.prefetch()
    assert done.returncode == 0, done.stderr
    assert workflow.registry.counts["manifest_get"] == 8 and "4 of them new" in done.stderr
    prefix = workflow.directory / ".snakemake/singularity"
    names = {hashlib.md5(f"docker://{host}/lab/{name}:1".encode()).hexdigest() + ".simg" for name in TOOLS}
    assert {path.name for path in prefix.iterdir()} == names
    asked = list(workflow.registry.requests)
    assert workflow.prefetch("--check").returncode == 0
    shown = json.loads(workflow.prefetch("--list", "--json").stdout)
    assert {(each["state"], each["digest"][:7]) for each in shown["images"]} == {("ready", "sha256:")}
    assert shown["behind_checkpoints"] == ["part"] and shown["unknown"] == ["wild"] and shown["prefix"] == str(prefix)
    assert [each["rules"] for each in shown["images"]] == [["a"], ["gather"], ["part"], ["split"]]
    done = workflow.run(own=("--offline",))
    assert done.returncode == 0, done.stdout + done.stderr
    assert workflow.registry.requests == asked
    assert workflow.text("c/done") == "part 1\npart 1\nb 1\n" and workflow.text("x.a.txt") == "a 1\n"
    for name in sorted(names)[:2]:  # a link that leads nowhere, and half a file
        (prefix / name).unlink()
        (prefix / name).symlink_to("/nowhere") if name == min(names) else (prefix / name).write_bytes(b"#!/usr/bin/env")
    listed = workflow.prefetch("--list").stdout
    assert "gone " in listed and "broken " in listed and listed.count("ready ") == 2
    assert workflow.prefetch("--offline").returncode == 0
    assert workflow.prefetch("--check").returncode == 0 and workflow.registry.requests == asked


def test_prefetch_elsewhere_of_some_and_with_what_is_missing(of_user: Workflow) -> None:
    """--directory, --apptainer-prefix, --config and targets are Snakemake's; without its input there is no graph."""
    work = of_user.directory / "elsewhere"
    work.mkdir()
    of_user.person.at(work)
    of_user.write("""
rule two:
    output: "two"
    container: "docker://REGISTRY/lab/b:1"
    shell: "touch two"
""", "more.smk")  # fmt: skip
    of_user.write("""
containerized: "docker://REGISTRY/lab/a:1"
module more:
    snakefile: "more.smk"
rule all:
    input: "one"
    container: None
rule one:
    input: config["data"]
    output: "one"
    shell: "touch one"
use rule * from more as more_*
""")
    common = ("--directory", "elsewhere", "--apptainer-prefix", "../images", "--config", "data=data.txt")
    done = of_user.prefetch("--list", "--json", *common)
    shown = json.loads(done.stdout)
    assert "MissingInputException" in done.stderr and [each["rules"] for each in shown["images"]] == [
        ["one"],
        ["more_two"],
    ]
    assert shown["prefix"] == str(of_user.directory / "images")
    (work / "data.txt").touch()
    shown = json.loads(of_user.prefetch("--list", "--json", *common).stdout)
    assert [each["rules"] for each in shown["images"]] == [["one"]] and shown["problem"] is None
    assert of_user.prefetch(*common, "--", "two").returncode == 0
    assert [path.name for path in (of_user.directory / "images").iterdir()] == [
        hashlib.md5(f"docker://{of_user.registry.host}/lab/b:1".encode()).hexdigest() + ".simg"
    ]
    done = of_user.prefetch("--snakefile", "none")
    assert done.returncode == 255 and "none" in done.stderr
    of_user.write("rule all:\n    output 'x'\n")
    done = of_user.prefetch()
    assert done.returncode == 255 and "Snakefile, line 2" in done.stderr.replace('"', ""), done.stderr


def test_prefetch_says_what_failed(of_user: Workflow) -> None:
    rule = "rule {0}:\n    output: '{0}'\n    container: 'docker://REGISTRY/lab/{0}:1'\n    shell: 'touch {{output}}'\n"
    of_user.write("rule all:\n    input: 'a', 'b', 'none'\n" + "".join(map(rule.format, ("a", "b", "none"))))
    done = of_user.prefetch()
    assert done.returncode == 255 and "1 of 3 image(s) could not be fetched" in done.stderr, done.stderr
    assert "ERROR:" in done.stderr and "lab/none" in done.stderr and "spelled right" in done.stderr
    assert len(list((of_user.directory / ".snakemake/singularity").iterdir())) == 2
    of_user.write("rule all:\n    input: 'part'\n" + rule.format("part"))
    of_user.registry.faults = Faults(busy=-1, retry_after="100000")
    done = of_user.prefetch("--patience", "60")
    assert done.returncode == 75 and "429" in done.stderr, done.stderr


def test_lock_and_update(of_user: Workflow) -> None:
    """The lock of the workflow counts for what Snakemake pulls into a prefix elsewhere."""
    of_user.write(
        "rule all:\n    output: 'x'\n    container: 'docker://REGISTRY/lab/a:1'\n    shell: 'cat /version > x'\n"
    )
    prefix = ("--apptainer-prefix", str(of_user.person.home / "prefix"))
    digest = str(Digest.of(of_user.registry.manifests["lab/a", "1"][1]))
    assert of_user.prefetch("--lock", "--list", *prefix).returncode == 0
    assert f'"{of_user.registry.host}/lab/a:1" = "{digest}"\n' in of_user.text("hpcc.lock")
    moved = add(of_user.registry, "a", "2")
    assert of_user.run(*prefix).returncode == 0 and of_user.text("x") == "a 1\n"
    done = of_user.prefetch("--lock", "--update", *prefix)
    assert done.returncode == 0 and moved in of_user.text("hpcc.lock"), done.stderr
    assert of_user.run(*prefix, "--forceall").returncode == 0 and of_user.text("x") == "a 2\n"


def test_bundle(of_user: Workflow, open_dir: Path) -> None:
    """Packed on a machine that has no data, unpacked on one that has no network."""
    of_user.write(PREFETCH)
    done = of_user.prefetch("--bundle", "images.tar")
    assert done.returncode == 0 and "Wrote images.tar: 4 image(s)" in done.stderr, done.stderr
    assert of_user.prefetch("--bundle", "images.tar").returncode == 255  # it is there
    there = open_dir / "there"
    there.mkdir()
    other = Workflow(of_user.person.at(there), of_user.installed, of_user.registry, there / "work")
    other.env["HPCC_INSECURE"] = of_user.registry.host
    other.write(PREFETCH)
    before = list(of_user.registry.requests)
    bundle = of_user.directory / "images.tar"
    done = other.prefetch("--from-bundle", str(bundle))
    assert done.returncode == 0, done.stderr
    done = other.run(own=("--offline",))
    assert done.returncode == 0 and other.text("c/done") == "part 1\npart 1\nb 1\n", done.stderr
    assert of_user.registry.requests == before


def test_a_hostile_bundle_is_refused(of_user: Workflow) -> None:
    of_user.write("rule all:\n    output: 'x'\n    container: 'docker://REGISTRY/lab/a:1'\n    shell: 'touch x'\n")
    assert of_user.prefetch("--bundle", "good.tar").returncode == 0
    with tarfile.open(of_user.directory / "good.tar") as good:
        members = [(member, good.extractfile(member)) for member in good]
        contents = [(member, file.read() if file else b"") for member, file in members]
    largest = max(contents, key=lambda each: len(each[1]))[0].name
    for name in ("traversal", "altered"):
        with tarfile.open(of_user.directory / f"{name}.tar", "w", format=tarfile.PAX_FORMAT) as bad:
            for member, data in contents:
                if name == "altered" and member.name == largest:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                bad.addfile(member, io.BytesIO(data))
            if name == "traversal":
                info = tarfile.TarInfo("../escaped")
                bad.addfile(info)
        before = sorted(of_user.directory.iterdir())
        env = {"HPCC_CACHE_DIR": str(of_user.person.home / name), "HPCC_PRIVATE_DIR": str(of_user.person.home / "p")}
        done = of_user.prefetch("--from-bundle", f"{name}.tar", **env)
        assert done.returncode == 255 and f"{name}.tar" in done.stderr, done.stderr
        assert sorted(of_user.directory.iterdir()) == before
        assert not list((of_user.directory / ".snakemake/singularity").iterdir())
    assert not (of_user.directory / "../escaped").exists()


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
    for words in (["--dry-run"], ["--dag"], ["--sdm", "conda", "--touch"]):
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


def test_snakemake_8(plain_user: Person, registry: FakeRegistry, open_dir: Path) -> None:
    """It calls nothing that stands in `container:`, so image() goes by the command line."""
    (open_dir / "home").mkdir()
    person = plain_user.at(open_dir / "home")
    work = Workflow(person, installation.install(("snakemake",), "snakemake-8"), registry, person.home / "work")
    work.write(IMAGE.replace(', "bound.a", "bound.b"', "").replace("lab/{t}:1", "lab/b:1"))
    argv = ("--config", "data=/none")
    assert work.run(*argv, "--dry-run").returncode == 0 and work.prefetch(*argv, "--check").returncode == 1
    assert not registry.requests
    done = work.run(*argv, FROM_HOST="h")
    assert done.returncode == 0, done.stdout + done.stderr
    assert work.text("plain") == "a 1\nnot\nh\n" and work.text("compat") == "a 1\nwritable\nx y\n"
    assert work.prefetch(*argv, "--check").returncode == 0
