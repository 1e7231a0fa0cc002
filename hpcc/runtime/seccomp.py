"""A seccomp profile of the OCI runtime specification, or of Docker's or Podman's kind, as a kernel's program. Pure.

    arch is ours, else kill      then a binary search over ranges of numbers that have one outcome
    outcome                      return an action; or rules in their order, each with its conditions, then an action

The program is classic BPF over struct seccomp_data: seccomp(2), linux/filter.h. What rules mean is what libseccomp
makes of them: one without conditions decides alone, else the first whose conditions all hold; unknown names are passed
over. Unlike under Apptainer, `errnoRet` counts: programs fall back from clone3 to clone at ENOSYS, and at nothing else.
32-bit programs are killed.
"""

from __future__ import annotations

import errno
import struct

from hpcc.errors import UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.capabilities import NAMES
from hpcc.runtime.syscalls import MACHINES, syscall_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_ARCHITECTURES = {"x86_64": (0xC000003E, "amd64"), "aarch64": (0xC00000B7, "arm64")}  # linux/audit.h; Go's name
_KILL_PROCESS, _ERRNO, _TRACE = 0x80000000, 0x00050000, 0x7FF00000
_ACTIONS = {
    "KILL": 0, "KILL_THREAD": 0, "KILL_PROCESS": _KILL_PROCESS, "TRAP": 0x00030000, "ERRNO": _ERRNO, "TRACE": _TRACE,
    "LOG": 0x7FFC0000, "ALLOW": 0x7FFF0000,
}  # fmt: skip
_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_EQUAL, _GREATER, _AT_LEAST = 0x15, 0x25, 0x35
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000  # numbers of another ABI, from here on
_OPERATORS = frozenset(("EQ", "NE", "GT", "GE", "LT", "LE", "MASKED_EQ"))
MOST = 4096  # instructions, of the kernel


class _Condition(NamedTuple):
    argument: int
    operator: str
    value: int
    second: int


class _Rule(NamedTuple):
    action: int
    conditions: tuple[_Condition, ...]


class _Outcome(NamedTuple):
    """Of a system call: the first rule that holds, else `action`."""

    action: int
    rules: tuple[_Rule, ...] = ()


class _Code(NamedTuple):
    """An instruction of struct sock_filter."""

    code: int
    value: int
    true: int = 0
    false: int = 0


def compile_profile(
    profile: Mapping[str, Any], origin: str, machine: str, kept: int = 0, kernel: tuple[int, ...] = ()
) -> bytes:
    """The program. UsageError, which begins with `origin`, for a profile that is none, or on another machine.

    kept: a mask of capabilities, and `kernel` a version: what rules that name them go by.
    """
    if machine not in MACHINES:
        raise UsageError(f"{origin}: hpcc knows the system calls of {' and '.join(MACHINES)} only, not of {machine}")
    try:
        default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"), profile.get("defaultErrno"))
        outcomes = _outcomes(profile.get("syscalls") or (), default, machine, kept, kernel)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{origin}: it is no seccomp profile: {what}") from None
    starts = _ranges(outcomes, _Outcome(default), _X32 if machine == "x86_64" else 1 << 32)
    codes = [
        _Code(_LOAD, _ARCH), _Code(_EQUAL, _ARCHITECTURES[machine][0], 1), _Code(_RETURN, _KILL_PROCESS),
        _Code(_LOAD, _NR), *_search(starts),
    ]  # fmt: skip
    if len(codes) > MOST:
        raise UsageError(f"{origin}: it makes {len(codes)} instructions, and the kernel takes {MOST}")
    return b"".join(struct.pack("=HBBI", code.code, code.true, code.false, code.value) for code in codes)


def _action(name: str, number: int | None, error: str | None = None) -> int:
    """SECCOMP_RET_…, with the errno in its lower half."""
    action = _ACTIONS.get(name.removeprefix("SCMP_ACT_"))
    if action is None:
        raise ValueError(f"there is no action {name}, or hpcc cannot do it")
    if action not in (_ERRNO, _TRACE):
        return action
    if number is None:
        number = getattr(errno, error) if error else errno.EPERM
    return action | number & 0xFFFF


def _outcomes(
    rows: Sequence[Mapping[str, Any]], default: int, machine: str, kept: int, kernel: tuple[int, ...]
) -> dict[int, _Outcome]:
    """Number -> outcome."""
    numbers = syscall_numbers(machine)
    decided: dict[int, int] = {}
    rules: dict[int, list[_Rule]] = {}
    for row in rows:
        if not _applies(row, machine, kept, kernel):
            continue
        rule = _Rule(
            _action(row["action"], row.get("errnoRet"), row.get("errno")),
            tuple(_condition(each) for each in row.get("args") or ()),
        )
        for name in row["names"] if "names" in row else [row["name"]]:
            number = numbers.get(name)
            if number is None:
                continue
            if rule.conditions:
                rules.setdefault(number, []).append(rule)
            else:
                decided.setdefault(number, rule.action)
    found = {number: _Outcome(default, tuple(each)) for number, each in rules.items()}
    return found | {number: _Outcome(action) for number, action in decided.items()}


def _applies(row: Mapping[str, Any], machine: str, kept: int, kernel: tuple[int, ...]) -> bool:
    """By `includes` and `excludes`, which Docker's and Podman's profiles have."""
    architecture = _ARCHITECTURES[machine][1]
    includes, excludes = row.get("includes") or {}, row.get("excludes") or {}
    least = tuple(int(part) for part in str(includes.get("minKernel") or "0").split("."))
    return (
        architecture in (includes.get("arches") or [architecture])
        and architecture not in (excludes.get("arches") or ())
        and all(_has(kept, name) for name in includes.get("caps") or ())
        and not any(_has(kept, name) for name in excludes.get("caps") or ())
        and (not kernel or kernel >= least)
    )


def _has(kept: int, capability: str) -> bool:
    name = capability.lower().removeprefix("cap_")
    return name in NAMES and bool(kept >> NAMES.index(name) & 1)


def _condition(row: Mapping[str, Any]) -> _Condition:
    condition = _Condition(
        row["index"], row["op"].removeprefix("SCMP_CMP_"), row.get("value") or 0, row.get("valueTwo") or 0
    )
    if condition.operator not in _OPERATORS:
        raise ValueError(f"there is no operator {row['op']}")
    if condition.argument not in range(6) or not all(0 <= each < 1 << 64 for each in condition[2:]):
        raise ValueError("an argument has an index from 0 to 5, and is compared with numbers of 64 bits")
    return condition


def _ranges(outcomes: dict[int, _Outcome], default: _Outcome, end: int) -> list[tuple[int, _Outcome]]:
    """(the first number, outcome) of each range; from `end` on it is another ABI, but for -1, a tracer's "skip it"."""
    bounds: dict[int, _Outcome] = {0: default}
    for number, outcome in sorted(outcomes.items()):
        bounds[number] = outcome
        bounds[number + 1] = default
    if end < 1 << 32:
        bounds |= {end: _Outcome(_KILL_PROCESS), (1 << 32) - 1: default}
    found: list[tuple[int, _Outcome]] = []
    for number, outcome in sorted(bounds.items()):
        if not found or found[-1][1] != outcome:
            found.append((number, outcome))
    return found


def _search(ranges: list[tuple[int, _Outcome]]) -> list[_Code]:
    """With the number loaded: find its range, and return."""
    if len(ranges) == 1:
        return _decide(ranges[0][1])
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    if len(below) < 256:
        return [_Code(_AT_LEAST, ranges[middle][0], len(below)), *below, *above]
    return [_Code(_AT_LEAST, ranges[middle][0], 0, 1), _Code(_JUMP, len(below)), *below, *above]


def _decide(outcome: _Outcome) -> list[_Code]:
    codes: list[_Code] = []
    for rule in outcome.rules:
        body: list[_Code] = []
        for condition in rule.conditions:
            body += _compare(condition)
        for at, code in enumerate(body):  # -1 stands for: it does not hold, on to the next rule
            away = len(body) - at
            body[at] = code._replace(
                true=away if code.true < 0 else code.true, false=away if code.false < 0 else code.false
            )
        codes += [*body, _Code(_RETURN, rule.action)]
    return [*codes, _Code(_RETURN, outcome.action)]


def _compare(condition: _Condition) -> list[_Code]:
    """Go on where an argument of 64 bits compares so; a jump by -1 where it does not."""
    place = _ARGS + 8 * condition.argument  # the lower half first, since both machines are little-endian
    low, high = _Code(_LOAD, place), _Code(_LOAD, place + 4)
    operator, value = condition.operator, condition.value
    upper, lower = value >> 32, value & 0xFFFFFFFF
    if operator == "MASKED_EQ":
        second = condition.second & value
        return [
            high, _Code(_AND, upper), _Code(_EQUAL, second >> 32, 0, -1),
            low, _Code(_AND, lower), _Code(_EQUAL, second & 0xFFFFFFFF, 0, -1),
        ]  # fmt: skip
    if operator == "EQ":
        return [high, _Code(_EQUAL, upper, 0, -1), low, _Code(_EQUAL, lower, 0, -1)]
    if operator == "NE":
        return [high, _Code(_EQUAL, upper, 0, 2), low, _Code(_EQUAL, lower, -1, 0)]
    last = _GREATER if operator in ("GT", "LE") else _AT_LEAST
    if operator in ("GT", "GE"):
        return [high, _Code(_GREATER, upper, 3, 0), _Code(_EQUAL, upper, 0, -1), low, _Code(last, lower, 0, -1)]
    return [high, _Code(_GREATER, upper, -1, 0), _Code(_EQUAL, upper, 0, 2), low, _Code(last, lower, -1, 0)]
