"""What a container may use, as options and as Apptainer's TOML file say it: which text goes into which file. Pure.

The files are those of cgroups version 2 (Documentation/admin-guide/cgroup-v2.rst of Linux). The numbers of Docker and
of the OCI runtime specification are version 1's; they become what runc makes of them.
"""

from __future__ import annotations

from hpcc.errors import UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PERIOD = 100_000  # microseconds
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_ENDLESS = 1 << 62  # what files that were written for version 1 say instead of no limit
_RATES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


class Setting(NamedTuple):
    """A file of a cgroup and what to write to it; `instead`: another file and text, where there is no such file."""

    file: str
    text: str
    instead: tuple[str, str] = ("", "")


class Limits(NamedTuple):
    """The options as they were given; `devices` are (major, minor, weight) of --blkio-weight-device."""

    memory: str | None = None
    memory_reservation: str | None = None
    memory_swap: str | None = None
    cpus: str | None = None
    cpu_shares: str | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids_limit: str | None = None
    blkio_weight: str | None = None
    devices: tuple[tuple[int, int, str], ...] = ()


def parse_limits(limits: Limits, processors: int) -> tuple[Setting, ...]:
    """The settings; what means no limit needs none. UsageError, which names the option, for bad values.

    processors: as many as there are.
    """
    memory = _bytes(limits.memory, "--memory")
    shares = _number(limits.cpu_shares, "--cpu-shares", least=-1)
    weight = _number(limits.blkio_weight, "--blkio-weight", least=0)
    pids = _number(limits.pids_limit, "--pids-limit", least=-1)
    wanted = [
        *_memory(memory, _bytes(limits.memory_reservation, "--memory-reservation"),
                 _bytes(limits.memory_swap, "--memory-swap"), "--memory-swap"),
        *_processors(limits.cpus, processors),
        *(_shares(shares, "--cpu-shares") if shares and shares > 0 else ()),
        *_cpuset(limits.cpuset_cpus, "cpuset.cpus", "--cpuset-cpus"),
        *_cpuset(limits.cpuset_mems, "cpuset.mems", "--cpuset-mems"),
        *([Setting("pids.max", str(pids))] if pids and pids > 0 else ()),
        *([_weight(weight, "--blkio-weight")] if weight else ()),
        *(_weight(_number(text, "--blkio-weight-device", least=0) or 0, "--blkio-weight-device", f"{major}:{minor}")
          for major, minor, text in limits.devices),
    ]  # fmt: skip
    return tuple(wanted)


def parse_document(document: Mapping[str, Any], origin: str) -> tuple[Setting, ...]:
    """The same of a TOML file of Apptainer's; `origin` names it. UsageError also for what version 2 cannot do."""
    table = _Table(document, origin, "")
    wanted: list[Setting] = []
    for each in table.tables("devices"):
        if not (each.flag("allow") and each.text("type") in ("", "a")):
            raise table.refused("devices", "version 2 limits devices only by programs in the kernel")
        each.done("major", "minor", "access")
    for name, parse in (("memory", _memory_table), ("cpu", _cpu_table), ("pids", _pids_table), ("blockIO", _io_table)):
        part = table.table(name)
        wanted += parse(part)
        part.done()
    for each in table.tables("hugepageLimits"):
        limit, size = each.number("limit"), each.text("pageSize")
        if limit is not None and limit < _ENDLESS:
            wanted.append(Setting(f"hugetlb.{_plain(size, each.name('pageSize'))}.max", str(limit)))
        each.done()
    for file, text in table.table("unified").texts():
        if file.startswith("cgroup.") or "." not in file:
            raise table.refused(f"unified.{file}", "that is no limit")
        wanted.append(Setting(_plain(file, f"{origin}: unified"), text))
    table.done()
    return tuple(wanted)


def _memory_table(table: _Table) -> list[Setting]:
    if table.flag("disableOOMKiller"):
        raise table.refused("disableOOMKiller", "version 2 always kills")
    limit, reservation, swap = (table.number(name) for name in ("limit", "reservation", "swap"))
    return _memory(limit, reservation, swap, table.name("swap"))


def _cpu_table(table: _Table) -> list[Setting]:
    shares, quota, period = (table.number(name) for name in ("shares", "quota", "period"))
    return [
        *(_shares(shares, table.name("shares")) if shares else ()),
        *([Setting("cpu.max", f"{quota} {period or PERIOD}")] if quota is not None and quota > 0 else ()),
        *_cpuset(table.text("cpus"), "cpuset.cpus", table.name("cpus")),
        *_cpuset(table.text("mems"), "cpuset.mems", table.name("mems")),
    ]


def _pids_table(table: _Table) -> list[Setting]:
    limit = table.number("limit")
    return [Setting("pids.max", str(limit))] if limit is not None and limit > 0 else []


def _io_table(table: _Table) -> list[Setting]:
    weight = table.number("weight")
    wanted = [_weight(weight, table.name("weight"))] if weight else []
    for each in table.tables("weightDevice"):
        if weight := each.number("weight"):
            wanted.append(_weight(weight, each.name("weight"), each.device()))
        each.done()
    for name, key in _RATES.items():
        for each in table.tables(name):
            wanted.append(Setting("io.max", f"{each.device()} {key}={each.number('rate') or 'max'}"))
            each.done()
    return wanted


class _Table(NamedTuple):
    """A table of the file, of which each key must be asked for."""

    values: Mapping[str, Any]
    origin: str
    path: str

    def name(self, key: str) -> str:
        return f"{self.origin}: {self.path}{key}"

    def refused(self, key: str, why: str) -> UsageError:
        return UsageError(f"{self.name(key)}: {why}", hint="hpcc limits by cgroups of version 2. Leave it out.")

    def wrong(self, key: str, kind: str) -> UsageError:
        return UsageError(f"{self.name(key)}: {str(self.values[key])[:40]!r} is not {kind}")

    def number(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is not None and (type(value) is not int or value < -1):
            raise self.wrong(key, "a number")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key, "")
        if type(value) is not str:
            raise self.wrong(key, "a text")
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def texts(self) -> list[tuple[str, str]]:
        return [(key, self.text(key)) for key in self.values]

    def table(self, key: str) -> _Table:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "a table")
        return _Table(value, self.origin, f"{self.path}{key}.")

    def tables(self, key: str) -> list[_Table]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.wrong(key, "a list of tables")
        return [_Table(each, self.origin, f"{self.path}{key}.") for each in value]

    def device(self) -> str:
        major, minor = self.number("major"), self.number("minor")
        if major is None or minor is None:
            raise UsageError(f"{self.name('major')} and minor are needed")
        return f"{major}:{minor}"

    def done(self, *ignored: str) -> None:
        """UsageError for a key that is not known, or that only version 1 has."""
        known = {*_KEYS.get(self.path, ()), *ignored}
        for key in self.values:
            if key not in known:
                raise self.refused(key, "version 2 has nothing like it, or hpcc does not know it")


_KEYS = {
    "": ("devices", "memory", "cpu", "pids", "blockIO", "hugepageLimits", "unified"),
    "devices.": ("allow", "type"),
    "memory.": ("limit", "reservation", "swap", "disableOOMKiller"),
    "cpu.": ("shares", "quota", "period", "cpus", "mems"),
    "pids.": ("limit",),
    "blockIO.": ("weight", "weightDevice", *_RATES),
    "blockIO.weightDevice.": ("major", "minor", "weight"),
    **{f"blockIO.{name}.": ("major", "minor", "rate") for name in _RATES},
    "hugepageLimits.": ("pageSize", "limit"),
}


def controllers(settings: tuple[Setting, ...]) -> frozenset[str]:
    """The kernel's controllers whose files they are: memory, cpu, cpuset, pids, io, hugetlb."""
    return frozenset(setting.file.partition(".")[0] for setting in settings)


def _memory(limit: int | None, reservation: int | None, swap: int | None, name: str) -> list[Setting]:
    """As Docker has it: `swap` is memory and swap together."""
    wanted = []
    if limit is not None and 0 < limit < _ENDLESS:
        wanted.append(Setting("memory.max", str(limit)))
        if swap is not None and 0 < swap < limit:
            raise UsageError(f"{name}: {swap} bytes are less than the memory", hint="It is memory and swap together.")
        if swap is not None and swap > 0:
            wanted.append(Setting("memory.swap.max", str(swap - limit)))
    elif swap is not None and swap > 0:
        raise UsageError(f"{name}: it needs a limit of memory beside it", hint="It is memory and swap together.")
    if reservation is not None and reservation > 0:
        wanted.append(Setting("memory.low", str(reservation)))
    return wanted


def _processors(text: str | None, most: int) -> list[Setting]:
    if not text:
        return []
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.01 <= number <= most:
        raise UsageError(f"--cpus {text}: it must be a number from 0.01 to {most}, as many as there are here")
    return [Setting("cpu.max", f"{int(number * PERIOD + 0.5)} {PERIOD}")]


def _shares(shares: int, name: str) -> list[Setting]:
    """cpu.weight: 2 shares are 1, 1024, the default, are 100, the default, and 262144 are 10000."""
    import math

    if shares < 2 or shares > 1 << 18:
        raise UsageError(f"{name}: {shares} is not in the range from 2 to {1 << 18}")
    power = math.log2(shares)
    return [Setting("cpu.weight", str(math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))))]


def _weight(weight: int, name: str, device: str = "default") -> Setting:
    """io.weight, of which 1 to 10000 are possible, where the kernel has it, else that of the scheduler BFQ."""
    if not 10 <= weight <= 1000:
        raise UsageError(f"{name}: {weight} is not in the range from 10 to 1000")
    scaled = 1 + (weight - 10) * 9999 // 990
    return Setting("io.weight", f"{device} {scaled}", ("io.bfq.weight", f"{device} {weight}"))


def _cpuset(text: str | None, file: str, name: str) -> list[Setting]:
    """`0-3,7`, as in cpuset(7)."""
    if not text:
        return []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (
            part.isascii() and first.isdecimal() and (last.isdecimal() and int(first) <= int(last) if dash else True)
        ):
            raise UsageError(f"{name} {text!r}: it is not a list such as 0-3,7")
    return [Setting(file, text)]


def _bytes(text: str | None, option: str) -> int | None:
    """`1.5g`, `512M`, `64KiB`, `1048576`: units of 1024, as Docker reads them; -1: no limit."""
    if not text:
        return None
    if text == "-1":
        return -1
    number = text.lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    digits = number.removesuffix(unit).strip(" ") if unit else number.strip(" ")
    try:
        if not digits.replace(".", "", 1).isdecimal() or not digits.isascii():
            raise ValueError(text)
        found = int(float(digits) * 1024 ** _UNITS[unit]) if "." in digits else int(digits) * 1024 ** _UNITS[unit]
    except (ValueError, OverflowError):
        raise UsageError(f"{option} {text}: it is not a size", hint="Write bytes, or 512M, 1.5g, 64KiB.") from None
    if found >= 1 << 63:
        raise UsageError(f"{option} {text}: it is more than there can be")
    return found


def _number(text: str | None, option: str, *, least: int) -> int | None:
    if not text:
        return None
    digits = text.removeprefix("-")
    if not (digits.isdecimal() and digits.isascii() and len(digits) < 16) or int(text) < least:
        raise UsageError(f"{option} {text}: it must be a whole number, at least {least}")
    return int(text)


def _plain(text: str, name: str) -> str:
    """`text`, where it can be part of a file's name."""
    if not text or not text.isascii() or not text.replace(".", "").replace("_", "").isalnum() or ".." in text:
        raise UsageError(f"{name}: {text!r} is not a name")
    return text
