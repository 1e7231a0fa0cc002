"""OCI seccomp profiles as programs: run here by an interpreter of classic BPF, with libseccomp as judge."""

import ctypes
import errno
import json
import os
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import UsageError
from hpcc.runtime.capabilities import ALL, parse_capabilities
from hpcc.runtime.seccomp import compile_profile
from hpcc.runtime.syscalls import MACHINES, syscall_numbers

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, KILL_PROCESS, TRAP, LOG = 0x7FFF0000, 0, 0x80000000, 0x30000, 0x7FFC0000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
X32 = 0x40000000


def run(program: bytes, number: int, arguments: tuple[int, ...] = (), machine: str = "x86_64") -> int:
    """What the program answers to a system call: linux/filter.h, the part of it that seccomp has."""
    data = struct.pack("<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), ARCHITECTURES[machine], 0,
                       *(*arguments, *(0,) * 6)[:6])  # fmt: skip
    at = accumulator = 0
    while True:
        code, true, false, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            at += value
        elif code in (0x15, 0x25, 0x35):
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[code]
            at += true if holds else false
        elif code == 0x06:
            return int(value)
        else:
            raise AssertionError(f"instruction {code:#x}")


def compiled(profile: dict[str, Any], machine: str = "x86_64", kept: int = 0, kernel: tuple[int, ...] = ()) -> bytes:
    return compile_profile(profile, "profile", machine, kept, kernel)


def rule(names: str, action: str, *args: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    keys = ("index", "op", "value", "valueTwo")
    found = [dict(zip(keys, (each[0], f"SCMP_CMP_{each[1]}", *each[2:]), strict=False)) for each in args]
    return {"names": names.split(), "action": f"SCMP_ACT_{action}", "args": found, **more}


# -- the tables --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("no libseccomp.so.2; as root tests/support/install.sh brings it")


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers(judge: ctypes.CDLL, machine: str) -> None:
    numbers = syscall_numbers(machine)
    theirs = {name: judge.seccomp_syscall_resolve_name_arch(ARCHITECTURES[machine], name.encode()) for name in numbers}
    known = {name: number for name, number in theirs.items() if number != -1}  # it may be older than our table
    assert len(known) > 300 and {name: numbers[name] for name in known} == known
    assert len(set(numbers.values())) == len(numbers)


def test_numbers_of_this_machine() -> None:
    numbers = syscall_numbers(os.uname().machine)
    libc = ctypes.CDLL(None)
    assert libc.syscall(numbers["getpid"]) == os.getpid() and libc.syscall(numbers["getuid"]) == os.getuid()


# -- what a program answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
def test_actions(machine: str) -> None:
    numbers = syscall_numbers(machine)
    rows = [
        rule("read write", "ALLOW"), rule("openat", "ERRNO"), rule("mkdirat", "ERRNO", errnoRet=5),
        rule("close", "TRAP"), rule("execve", "KILL_PROCESS"), rule("dup", "LOG"), rule("ptrace", "KILL"),
        rule("getpid", "TRACE", errnoRet=7), rule("clone3", "ERRNO", errno="ENOSYS"), rule("no_such_call", "KILL"),
    ]  # fmt: skip
    program = compiled({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": rows}, machine)
    wanted = {
        "read": ALLOW, "write": ALLOW, "openat": EPERM, "mkdirat": 0x50005, "close": TRAP, "execve": KILL_PROCESS,
        "dup": LOG, "ptrace": KILL, "getpid": 0x7FF00007, "clone3": ENOSYS, "exit": ENOSYS, "socket": ENOSYS,
    }  # fmt: skip
    assert {name: run(program, numbers[name], machine=machine) for name in wanted} == wanted
    assert run(program, 100000, machine=machine) == ENOSYS


def test_other_abis_are_killed() -> None:
    program = compiled({"defaultAction": "SCMP_ACT_ALLOW"})
    assert run(program, 1) == ALLOW and run(program, X32 + 1) == KILL_PROCESS and run(program, 0xFFFFFFFF) == ALLOW
    assert run(program, 1, machine="aarch64") == KILL_PROCESS


VALUES = (0, 1, 5, 40, 0xFFFFFFFF, 1 << 32, (1 << 32) + 5, (5 << 32) + 40, (1 << 64) - 1, 1 << 63)
OPERATORS = {
    "EQ": lambda a, v: a == v, "NE": lambda a, v: a != v, "GT": lambda a, v: a > v, "GE": lambda a, v: a >= v,
    "LT": lambda a, v: a < v, "LE": lambda a, v: a <= v,
}  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("index", [0, 5])
def test_comparisons_of_64_bits(operator: str, index: int) -> None:
    for value in VALUES:
        program = compiled(
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", (index, operator, value))]}
        )
        for argument in VALUES:
            arguments = (*(77,) * index, argument)
            assert (run(program, 0, arguments) == EPERM) == OPERATORS[operator](argument, value), (argument, value)
            assert run(program, 1, arguments) == ALLOW


def test_masks() -> None:
    program = compiled(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [rule("clone", "ALLOW", (0, "MASKED_EQ", (1 << 40) | 0xF0, 0x20))],
        }
    )
    for argument, allowed in (
        (0x20, True),
        (0x2F, True),
        (0x21 | 1 << 41, True),
        (0x30, False),
        (0x20 | 1 << 40, False),
    ):
        assert (run(program, 56, (argument,)) == ALLOW) == allowed, hex(argument)


def test_conditions_hold_together_and_rules_in_their_order() -> None:
    rows = [
        rule("socket", "ALLOW", (0, "EQ", 2), (1, "EQ", 1)), rule("socket", "ERRNO", (0, "EQ", 2), errnoRet=97),
        rule("socket", "KILL", (0, "LE", 2)), rule("bind", "KILL", (0, "EQ", 1)), rule("bind", "ALLOW"),
        rule("bind", "ERRNO"),
    ]  # fmt: skip
    program = compiled({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rows})
    answers = [run(program, 41, arguments) for arguments in ((2, 1), (2, 2), (1, 1), (3, 1))]
    assert answers == [ALLOW, 0x50061, KILL, EPERM]
    assert run(program, 49, (1,)) == ALLOW  # one without conditions decides alone, and the first of them


def test_rules_for_some() -> None:
    rows = [
        rule("mount", "ALLOW", includes={"caps": ["CAP_SYS_ADMIN"]}),
        rule("umount2", "ALLOW", excludes={"caps": ["CAP_SYS_ADMIN"]}),
        rule("arch_prctl", "ALLOW", includes={"arches": ["amd64", "x32"]}),
        rule("reboot", "ALLOW", excludes={"arches": ["amd64"]}),
        rule("ptrace", "ALLOW", includes={"minKernel": "4.8"}),
        {"name": "read", "action": "SCMP_ACT_ALLOW"},
        rule("", "KILL"),
    ]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rows}
    numbers = syscall_numbers("x86_64")

    def allowed(program: bytes) -> set[str]:
        names = ("mount", "umount2", "arch_prctl", "reboot", "ptrace", "read", "write")
        return {name for name in names if run(program, numbers[name]) == ALLOW}

    assert allowed(compiled(profile, kernel=(6, 1))) == {"umount2", "arch_prctl", "ptrace", "read"}
    assert allowed(compiled(profile, kernel=(4, 4))) == {"umount2", "arch_prctl", "read"}
    assert allowed(compiled(profile, kept=ALL)) == {"mount", "arch_prctl", "ptrace", "read"}
    kept = parse_capabilities("CAP_NET_RAW", "--add-caps")
    assert "umount2" in allowed(compiled(profile, kept=kept))


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({}, "defaultAction"), ({"defaultAction": "SCMP_ACT_NOPE"}, "SCMP_ACT_NOPE"), ({"defaultAction": 1}, ""),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"]}]}, "action"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_KILL"}]}, "name"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["read"]}, ""),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": 5}, ""),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "KILL", (6, "EQ", 1))]}, "0 to 5"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "KILL", (0, "LIKE", 1))]}, "LIKE"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "KILL", (0, "EQ", 1 << 64))]}, "64"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "KILL", (0, "EQ", "x"))]}, ""),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", errno="ENOPE")]}, ""),
    ],
)  # fmt: skip
def test_profiles_that_are_none(profile: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match="profile: ") as caught:
        compiled(profile)
    assert said in str(caught.value)


def test_other_machines_and_long_profiles() -> None:
    with pytest.raises(UsageError, match="ppc64le"):
        compiled({"defaultAction": "SCMP_ACT_ALLOW"}, "ppc64le")
    rows = [rule("read", "KILL", (0, "EQ", value)) for value in range(1000)]
    with pytest.raises(UsageError, match="instructions"):
        compiled({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rows})
    program = compiled({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rows[:700]})  # longer than a jump of 8 bits
    assert run(program, 0, (699,)) == KILL and run(program, 0, (700,)) == ALLOW and run(program, 1) == ALLOW


# -- libseccomp as judge -----------------------------------------------------------------------------------------------


class Comparison(ctypes.Structure):
    _fields_ = (("index", ctypes.c_uint), ("operator", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


NUMBERS_OF_OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}


def by_libseccomp(judge: ctypes.CDLL, profile: dict[str, Any]) -> bytes:
    """The program that libseccomp makes of rules without `includes` and `excludes`, on x86_64."""
    actions = {"SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_ERRNO": EPERM, "SCMP_ACT_KILL": KILL, "SCMP_ACT_TRAP": TRAP}
    judge.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(judge.seccomp_init(ctypes.c_uint32(actions[profile["defaultAction"]])))
    for row in profile["syscalls"]:
        for name in row["names"]:
            number = syscall_numbers("x86_64").get(name)
            if number is None or row["action"] == profile["defaultAction"]:
                continue
            rows = row.get("args") or []
            compared = (Comparison * len(rows))(
                *(
                    Comparison(
                        each["index"], NUMBERS_OF_OPERATORS[each["op"].removeprefix("SCMP_CMP_")], each["value"],
                        each.get("valueTwo", 0),
                    )
                    for each in rows
                )
            )  # fmt: skip
            done = judge.seccomp_rule_add_array(
                context, ctypes.c_uint32(actions[row["action"]]), number, len(rows), compared
            )
            assert done in (0, -errno.EEXIST), done
    with tempfile.TemporaryFile() as file:
        assert judge.seccomp_export_bpf(context, file.fileno()) == 0
        file.seek(0)
        program = file.read()
    judge.seccomp_release(context)
    return program


def without_conditions(profile: dict[str, Any]) -> dict[str, Any]:
    rows = [row for row in profile["syscalls"] if not row.get("includes") and not row.get("excludes")]
    return {"defaultAction": profile["defaultAction"], "syscalls": [{**row, "errnoRet": None} for row in rows]}


def agree(judge: ctypes.CDLL, profile: dict[str, Any], seed: int) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("libseccomp makes programs for its own machine")
    ours, theirs = compiled(profile), by_libseccomp(judge, profile)
    mentioned = {
        each[key]
        for row in profile["syscalls"]
        for each in row.get("args") or ()
        for key in ("value", "valueTwo")
        if each.get(key)
    }
    source = random.Random(seed)
    some = [
        0,
        1,
        (1 << 64) - 1,
        *mentioned,
        *(value + 1 for value in mentioned),
        *(value ^ 1 << 33 for value in mentioned),
    ]
    for number in range(480):
        for _ in range(12):
            arguments = tuple(source.choice(some) % (1 << 64) for _ in range(6))
            answer = run(theirs, number, arguments)
            assert run(ours, number, arguments) == answer, (number, arguments)


DOCKERS = [
    {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        rule("read write close openat socket", "ALLOW"), rule("personality", "ALLOW", (0, "EQ", 0)),
        rule("personality", "ALLOW", (0, "EQ", 8)), rule("personality", "ALLOW", (0, "EQ", 0x20008)),
        rule("clone", "ALLOW", (0, "MASKED_EQ", 0x7E020000, 0)), rule("socket", "ALLOW", (0, "NE", 40)),
    ]},
    {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        rule("mount umount2", "KILL"), rule("ioctl", "ERRNO", (1, "EQ", 0x5412)), rule("dup2", "KILL", (0, "LT", 3)),
        rule("mmap", "TRAP", (0, "NE", 0), (2, "GT", 3)), rule("lseek", "ERRNO", (1, "GE", 1 << 40)),
        rule("dup3", "KILL", (0, "LE", 2)),
    ]},
]  # fmt: skip


@pytest.mark.parametrize("profile", DOCKERS)
def test_as_libseccomp(judge: ctypes.CDLL, profile: dict[str, Any]) -> None:
    agree(judge, profile, 1)


def by_chance(source: random.Random, most: int) -> list[dict[str, Any]]:
    """Rules of 40 system calls, with one action and up to `most` rules each."""
    rows = []
    for name in source.sample(list(syscall_numbers("x86_64")), 40):
        action = source.choice(("ALLOW", "KILL", "TRAP"))
        for _ in range(source.randint(1, most)):
            indices = source.sample(range(6), source.randint(0, 2))
            operators = list(NUMBERS_OF_OPERATORS)
            args = [(at, source.choice(operators), source.choice(VALUES), source.choice(VALUES)) for at in indices]
            rows.append(rule(name, action, *args))
    return rows


def test_as_libseccomp_on_profiles_by_chance(judge: ctypes.CDLL) -> None:
    """One rule each: where several compare one argument, libseccomp 2.5 answers wrongly now and then."""
    source = random.Random(7)
    for seed in range(20):
        agree(judge, {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": by_chance(source, 1)}, seed)


def test_several_rules_mean_what_they_say() -> None:
    source = random.Random(8)
    names = {number: name for name, number in syscall_numbers("x86_64").items()}
    for _ in range(20):
        rows = by_chance(source, 4)
        program = compiled({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rows})
        for number, name in names.items():
            mine = [row for row in rows if row["names"] == [name]]
            for _ in range(10 if mine else 1):
                arguments = tuple(source.choice(VALUES) for _ in range(6))
                wanted = next(
                    (row["action"] for row in mine if all(holds(each, arguments) for each in row["args"])), ""
                )
                actions = {"": EPERM, "SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_KILL": KILL, "SCMP_ACT_TRAP": TRAP}
                assert run(program, number, arguments) == actions[wanted], (mine, arguments)


def holds(each: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    argument, operator = arguments[each["index"]], each["op"].removeprefix("SCMP_CMP_")
    if operator == "MASKED_EQ":
        return argument & each["value"] == each["valueTwo"] & each["value"]
    return bool(OPERATORS[operator](argument, each["value"]))


def test_as_libseccomp_on_the_profile_of_podman(judge: ctypes.CDLL) -> None:
    path = Path("/usr/share/containers/seccomp.json")
    if not path.exists():
        pytest.skip("no profile of Podman's here; as root tests/support/install.sh brings it")
    agree(judge, without_conditions(json.loads(path.read_text())), 3)
