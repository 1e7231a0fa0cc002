"""Capabilities by name, as --add-caps and --drop-caps have them: capabilities(7). Pure."""

from hpcc.errors import UsageError

NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""In the order of their numbers, without CAP_."""

ALL = (1 << len(NAMES)) - 1


def parse_capabilities(text: str, option: str) -> int:
    """`CAP_NET_RAW,sys_admin`, or `all`, as a mask. UsageError, which names the option, for one that there is not."""
    mask = 0
    for word in text.split(","):
        name = word.strip().lower().removeprefix("cap_")
        if name == "all":
            mask = ALL
        elif name in NAMES:
            mask |= 1 << NAMES.index(name)
        elif name:
            raise UsageError(f"{option} {word.strip()}: there is no such capability", hint="See capabilities(7).")
    return mask
