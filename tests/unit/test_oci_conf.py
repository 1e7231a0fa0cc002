"""oci.conf by Slurm's version, and what the runner makes of what Slurm says."""

from pathlib import Path

import pytest

from hpcc.errors import InvalidImage, UsageError
from hpcc_slurm.oci_conf import oci_conf, parse_version
from hpcc_slurm.oci_run import from_bundle, from_words, read_environment

RUNNER = ["/opt/hpcc/bin/hpcc", "slurm", "oci-run"]
NEW = """\
# made by `hpcc slurm oci-conf`; the same on all nodes
# --container takes a SIF, a squashfs file or a directory
IgnoreFileConfigJson=true
CreateEnvFile=null
EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeEnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeRun="exec /opt/hpcc/bin/hpcc slurm oci-run --with=--nv --env-file '%e' -- '%r' %@"
RunTimeKill="kill -s SIGTERM %p"
RunTimeDelete="kill -s SIGKILL %p"
"""
OLD = """\
# made by `hpcc slurm oci-conf`; the same on all nodes
# --container takes the directory that `hpcc slurm bundle IMAGE DIR` makes
RunTimeRun="exec /opt/hpcc/bin/hpcc slurm oci-run --bundle '%b'"
RunTimeQuery="echo {}"
RunTimeKill="true"
RunTimeDelete="true"
"""


def test_by_version() -> None:
    assert oci_conf((22, 5), RUNNER) == OLD
    assert oci_conf((23, 2), RUNNER, ["--nv"]) == oci_conf((25, 5), RUNNER, ["--nv"]) == NEW
    assert [parse_version(text) for text in ("slurm-wlm 22.05.8", "slurm 23.11.4-rc1", "24.05")] == [
        (22, 5), (23, 11), (24, 5),
    ]  # fmt: skip
    for text in ("", "slurm", "x.y"):
        with pytest.raises(UsageError, match="version of Slurm"):
            parse_version(text)


@pytest.mark.parametrize("option", ["--bind=/a b", '--env=A="x"', "--env=A=%p", "--env=A=#"])
def test_what_no_conf_can_hold(option: str) -> None:
    with pytest.raises(UsageError, match="can hold"):
        oci_conf((23, 2), RUNNER, [option])
    with pytest.raises(UsageError):
        oci_conf((23, 2), ["/opt/my tools/hpcc"])


def test_words() -> None:
    assert from_words(["/x.sif", "echo", "a b"], {"A": "1"}) == ("/x.sif", ("echo", "a b"), (), {"A": "1"})
    script = "/spool/n1:2/job7/slurm_script"
    task = from_words(["/x.sif", script], {})
    assert task.options == ("--bind=/spool/n1\\:2/job7/slurm_script:/spool/n1\\:2/job7/slurm_script:ro",)


def config(**more: object) -> dict[str, object]:
    return {
        "process": {"args": ["true"], "env": ["A=b=c", "broken", "=x"], "cwd": "/"},
        "root": {"path": "/b/rootfs"},
        **more,
    }


def mount(source: str, target: str, *options: str) -> dict[str, object]:
    return {"source": source, "destination": target, "options": list(options), "type": "none"}


def test_a_bundle() -> None:
    assert from_bundle(config(), "/b") == ("/b/rootfs", ("true",), (), {"A": "b=c"})
    assert from_bundle(config(root={"path": "other"}), "/b").image == "/b/other"
    mounts = [
        mount("/data", "/mnt", "rbind", "ro"),
        mount("proc", "/proc", "nosuid"),
        mount("/o", "/tmp/slurm/stdout", "bind"),
        "x",
    ]
    assert from_bundle(config(mounts=mounts), "/b").options == ("--bind=/data:/mnt:ro",)
    process = {"args": ["/tmp/slurm/startup", "x"], "env": [], "cwd": "/work"}
    batch = from_bundle(
        config(process=process, mounts=[mount("/spool/slurm_script", "/tmp/slurm/startup", "bind", "ro")]), "/b"
    )
    assert batch.words == ("/spool/slurm_script", "x")
    assert batch.options == ("--bind=/spool/slurm_script:/spool/slurm_script:ro", "--pwd=/work")


@pytest.mark.parametrize(
    "wrong",
    [
        {"process": None}, {"process": {"args": []}}, {"process": {"args": [1]}}, {"process": {"args": ["a\0b"]}},
        {"process": {"args": ["x"], "env": "A=1"}}, {"root": {}}, {"root": {"path": ""}}, {"root": []},
    ],
)  # fmt: skip
def test_what_is_no_bundle(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidImage, match="neither what to run"):
        from_bundle(config(**wrong), "/b")


def test_environment_files(tmp_path: Path) -> None:
    (tmp_path / "environment").write_bytes(b"A=1\0B=two\nlines = x\0C=\0=odd\0D\0\xff=\xfe\0")
    found = read_environment(str(tmp_path / "environment"))
    assert found == {"A": "1", "B": "two\nlines = x", "C": "", "\udcff": "\udcfe"}
    assert read_environment(str(tmp_path / "none")) == {}
