"""Mount a part of a file through a loop device (loop(4)); real root only.

struct loop_config, LOOP_CONFIGURE (Linux 5.8):
  u32 fd, u32 block size, struct loop_info64 (232 bytes), u64 reserved[8]
struct loop_info64: u64 device, inode, rdevice, offset, sizelimit; u32 number, encrypt type, encrypt key size, flags; …
"""

import errno
import fcntl
import os
import struct

from hpcc.runtime import _kernel as kernel

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
_INFO = struct.Struct("<QQQQQIIII")
_INFO_SIZE = 232
_TRIES = 64  # somebody else may take the device that was free


def mount_loop(fd: int, offset: int, size: int, target: str) -> None:
    """Mount the squashfs at `offset` of the open file read-only at `target`. The device goes with the mount."""
    size += -size % 512
    device = _attach(fd, offset, size)
    try:
        path = f"/proc/self/fd/{device}"
        kernel.mount(os.readlink(path), target, "squashfs", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
    finally:
        os.close(device)


def _attach(fd: int, offset: int, size: int) -> int:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            if not os.path.exists(path):
                os.mknod(path, 0o600 | 0o060000, os.makedev(7, number))
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            info = _INFO.pack(0, 0, 0, offset, size, 0, 0, 0, _READ_ONLY | _AUTOCLEAR).ljust(_INFO_SIZE, b"\0")
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, struct.pack("<II", fd, 0) + info + bytes(64))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
                continue
            return device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device is free")
