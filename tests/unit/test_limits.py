"""Options and Apptainer's TOML file as files of a cgroup."""

import tomllib
from typing import Any

import pytest

from hpcc.errors import UsageError
from hpcc.runtime.limits import Limits, Setting, controllers, parse_document, parse_limits


def files(processors: int = 8, **options: Any) -> dict[str, str]:
    return {setting.file: setting.text for setting in parse_limits(Limits(**options), processors)}


def of_toml(text: str) -> dict[str, str]:
    return {setting.file: setting.text for setting in parse_document(tomllib.loads(text), "limits.toml")}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20), ("512M", 512 << 20), ("512m", 512 << 20), ("2G", 2 << 30), ("1g", 1 << 30),
        ("1.5g", 3 << 29), ("64KiB", 64 << 10), ("64 kb", 64 << 10), ("100b", 100), ("1T", 1 << 40), ("0.5k", 512),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert files(memory=text) == {"memory.max": str(size)}


@pytest.mark.parametrize("option", ["memory", "memory_swap", "memory_reservation"])
@pytest.mark.parametrize("text", ["abc", "-5", "1.2.3", "M", "1X", "1e3", "0x10", "٣", "1_000", "9" * 30, " ", "nan"])
def test_sizes_that_are_none(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} "):
        files(**{"memory": "1G", option: text})


def test_memory() -> None:
    assert files(memory="1G", memory_swap="1G") == {"memory.max": str(1 << 30), "memory.swap.max": "0"}
    assert files(memory="1G", memory_swap="3G")["memory.swap.max"] == str(2 << 30)  # Docker's is the sum of both
    assert files(memory="1G", memory_swap="-1") == {"memory.max": str(1 << 30)}
    assert files(memory_reservation="64M") == {"memory.low": str(64 << 20)}
    for options in ({"memory": "1G", "memory_swap": "512M"}, {"memory_swap": "1G"}):
        with pytest.raises(UsageError, match="--memory-swap"):
            files(**options)


def test_what_means_no_limit_needs_no_cgroup() -> None:
    assert files(memory="-1", pids_limit="-1", cpu_shares="-1", blkio_weight="0", memory_swap="-1") == {}
    assert files(memory="0", pids_limit="0") == {} == files()


@pytest.mark.parametrize(
    ("text", "quota"), [("1", 100000), ("1.5", 150000), ("0.01", 1000), ("8", 800000), (".5", 50000)]
)
def test_cpus(text: str, quota: int) -> None:
    assert files(cpus=text) == {"cpu.max": f"{quota} 100000"}


@pytest.mark.parametrize("text", ["0", "0.001", "8.1", "-1", "x", "nan", "inf", "1e400"])
def test_cpus_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match=r"--cpus .* 0\.01 to 8"):
        files(cpus=text)


def test_shares_and_weights_keep_their_usual_values() -> None:
    assert [files(cpu_shares=text)["cpu.weight"] for text in ("2", "1024", "262144")] == ["1", "100", "10000"]
    (setting,) = parse_limits(Limits(blkio_weight="500"), 8)
    assert setting == Setting("io.weight", "default 4950", ("io.bfq.weight", "default 500"))
    assert files(blkio_weight="10")["io.weight"] == "default 1" and files(blkio_weight="1000")["io.weight"].endswith(
        " 10000"
    )
    (setting,) = parse_limits(Limits(devices=((8, 16, "100"),)), 8)
    assert setting == Setting("io.weight", "8:16 910", ("io.bfq.weight", "8:16 100"))


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("cpu_shares", "1"), ("cpu_shares", "x"), ("cpu_shares", "-2"), ("blkio_weight", "5"), ("blkio_weight", "1001"),
        ("pids_limit", "-2"), ("pids_limit", "1.5"), ("pids_limit", "-"), ("cpuset_cpus", "zz"), ("cpuset_cpus", "3-1"),
        ("cpuset_cpus", "1,"), ("cpuset_cpus", "٣"), ("cpuset_mems", "0-"),
    ],
)  # fmt: skip
def test_bad_values_name_their_option(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}"):
        files(**{option: text})
    with pytest.raises(UsageError, match="--blkio-weight-device"):
        files(devices=((8, 0, "5"),))


def test_cpuset_and_pids() -> None:
    found = files(cpuset_cpus="0-3,7", cpuset_mems="0", pids_limit="100")
    assert found == {"cpuset.cpus": "0-3,7", "cpuset.mems": "0", "pids.max": "100"}
    assert controllers(parse_limits(Limits(cpuset_cpus="0", memory="1G", blkio_weight="10"), 2)) == {
        "cpuset",
        "memory",
        "io",
    }


def test_document() -> None:
    found = of_toml("""
        [cpu]
        shares = 1024
        quota = 150000
        period = 100000
        cpus = "0-1"
        [memory]
        limit = 1073741824
        reservation = 536870912
        swap = 1073741824
        [pids]
        limit = 1024
        [blockIO]
        weight = 10
        [[blockIO.weightDevice]]
        major = 7
        minor = 0
        weight = 1000
        [[blockIO.throttleReadBpsDevice]]
        major = 7
        minor = 1
        rate = 100
        [[hugepageLimits]]
        pageSize = "2MB"
        limit = 4194304
        [unified]
        "memory.high" = "900M"
    """)
    assert found == {
        "cpu.weight": "100", "cpu.max": "150000 100000", "cpuset.cpus": "0-1", "memory.max": "1073741824",
        "memory.low": "536870912", "memory.swap.max": "0", "pids.max": "1024", "io.weight": "7:0 10000",
        "io.max": "7:1 rbps=100", "hugetlb.2MB.max": "4194304", "memory.high": "900M",
    }  # fmt: skip


def test_the_file_that_apptainer_comes_with() -> None:
    """All devices, and 2^63 bytes of huge pages: what version 1 had to say where there is no limit."""
    found = of_toml("""
        [cpu]
        cpus = "0"
        mems = "0"
        shares = 1024
        [[devices]]
        access = "rwm"
        allow = true
        major = 0
        minor = 0
        type = "a"
        [[hugepageLimits]]
        limit = 9223372036854771712
        pageSize = "2MB"
        [pids]
        limit = 1024
    """)
    assert found == {"cpu.weight": "100", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "1024"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[memory]\nkernel = 1", "memory.kernel"), ("[memory]\nswappiness = 0", "memory.swappiness"),
        ("[memory]\ndisableOOMKiller = true", "disableOOMKiller"), ("[memory]\nlimit = 'x'", "memory.limit"),
        ("[memory]\nlimit = true", "memory.limit"), ("memory = 1", "memory"), ("[cpu]\nrealtimePeriod = 1", "cpu.r"),
        ("[network]\nclassID = 1", "network"), ("[cpu]\nshares = 1", "cpu.shares"), ("[cpu]\ncpus = 'a'", "cpu.cpus"),
        ("[[devices]]\nallow = false\ntype = 'a'", "devices"), ("[[devices]]\nallow = true\ntype = 'c'", "devices"),
        ("[[hugepageLimits]]\npageSize = '../x'\nlimit = 1", "pageSize"), ("hugepageLimits = 1", "hugepageLimits"),
        ("[unified]\n'cgroup.procs' = '1'", "cgroup.procs"), ("[unified]\n'a/b.c' = '1'", "a/b.c"),
        ("[unified]\n'memory' = '1'", "memory"), ("[unified]\n'memory..max' = '1'", "unified"),
        ("[blockIO]\nleafWeight = 10", "leafWeight"), ("[[blockIO.weightDevice]]\nmajor = 1\nweight = 10", "minor"),
        ("[blockIO]\nweight = 5000", "blockIO.weight"), ("[typo]\nx = 1", "typo"),
    ],
)  # fmt: skip
def test_documents_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        of_toml(text)
    assert "limits.toml" in str(caught.value) and said in str(caught.value)
