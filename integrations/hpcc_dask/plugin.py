"""HPCCPlugin: a copy of an image on the node of each worker, before a task wants it.

For workers that have hpcc, on the host or by overlay_env, and whose tasks run containers (tasks.py) or whose node runs
further workers: a shared filesystem is read once for each node, however many workers there are on it.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

from hpcc.image import open_image
from hpcc.settings import Settings
from hpcc.staging import staged
from hpcc_dask.images import Pinned, pin


class HPCCPlugin(WorkerPlugin):
    """client.register_plugin(HPCCPlugin("docker://python:3.12"))

    The image is pulled and pinned where this is called, once; raises HpccError. A worker that cannot have a copy does
    not start work: its node's disk is full, say.
    """

    idempotent = True

    def __init__(self, image: str, *, pull: str | None = None, settings: Settings | None = None) -> None:
        self.image: Pinned = pin(image, pull=pull, settings=settings)
        self.name = f"hpcc-{self.image.digest or self.image.path}"

    async def setup(self, worker: Any) -> None:
        """On each worker, also on those that come later. HpccError where there is no place for the copy."""
        path = await asyncio.to_thread(stage, self.image.path)
        worker.log_event("hpcc", {"image": self.image.uri, "staged": path, "node": os.uname().nodename})


def stage(sif: str) -> str:
    """The path of this node's own copy, made where it is missing, once for all processes here. HpccError."""
    settings = Settings.from_environ().replace(offline=True, stage="node")
    image = staged(open_image(sif, settings), settings)
    if image.rootfs.fd >= 0:
        os.close(image.rootfs.fd)
    return image.path
