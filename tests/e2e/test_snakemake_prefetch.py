"""`hpcc snakemake prefetch`, with the real Snakemake: found, fetched, locked, packed and unpacked."""

import hashlib
import io
import json
import signal
import subprocess
import tarfile
from pathlib import Path

from hpcc.oci.digest import Digest
from hpcc.registry.fake import Faults
from tests.support.daemons import wait_until
from tests.support.workflow import TOOLS, Workflow, add

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


def test_prefetch_does_not_wait_when_it_is_interrupted(of_user: Workflow) -> None:
    of_user.write("rule all:\n    output: 'x'\n    container: 'docker://REGISTRY/lab/a:1'\n    shell: 'touch x'\n")
    of_user.registry.faults = Faults(delay=30)
    words = [of_user.installed.hpcc, "snakemake", "prefetch"]
    process = of_user.person.popen(words, env=of_user.env, cwd=of_user.directory, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_until(lambda: of_user.registry.requests, 30, [process])
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in said


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
