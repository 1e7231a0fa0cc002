"""A provisioner that has the image before the kernel starts, and says in the server's log how far the pull is.

    kernel.json    "metadata": {"kernel_provisioner": {"provisioner_name": "hpcc-provisioner"}}

Without it a first pull happens while the server already waits for the kernel, a minute by default. The server's own
environment needs hpcc, since it loads this; the kernel is otherwise started as without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

_LAST = 20  # lines of what was said that an error repeats


class HpccProvisioner(LocalProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """As without hpcc; RuntimeError with hpcc's words where the image cannot be had."""
        found: dict[str, Any] = await super().pre_launch(**kwargs)
        await self._fetch(found["cmd"], found.get("env") or os.environ)
        return found

    async def _fetch(self, cmd: Sequence[str], env: Mapping[str, str]) -> None:
        """Pull the image, if no cache has it. The pull ends with this task, whoever cancels it."""
        if "kernel" not in cmd or "run" not in cmd:
            raise RuntimeError(f"hpcc-provisioner starts kernels of `hpcc kernel install`, not {' '.join(cmd)}")
        at = cmd.index("run", cmd.index("kernel")) + 1
        process = await asyncio.create_subprocess_exec(
            *cmd[:at], "--fetch", *cmd[at:], env=dict(env), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        said: list[str] = []
        try:
            assert process.stderr is not None
            async for line in process.stderr:
                said.append(line.decode("utf-8", "replace").rstrip())
                self.log.info("%s", said[-1])
            status = await process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            await process.wait()
            raise
        if status:
            raise RuntimeError("\n".join(said[-_LAST:]) or f"{cmd[0]} ended with {status}")
