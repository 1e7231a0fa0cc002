"""An image for workers that others start: pinned here, and its Python found to fit, before there is any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcc.errors import HpccError, UsageError
from hpcc.progress import SILENT, Progress
from hpcc.settings import Settings
from hpcc_dask.command import Container, container
from hpcc_dask.config import chosen
from hpcc_dask.images import Pinned, explained, pin
from hpcc_dask.overlay import Overlay, check_libc, overlay
from hpcc_dask.preflight import check


class Request:
    """What a user wants: options of every cluster (config.NAMES), the configured ones where they are None.

    UsageError at once for what is wrong with them; `prepare` does what takes time.
    """

    def __init__(self, who: str, given: Mapping[str, Any], *, settings: Settings | None = None) -> None:
        found = chosen(given)
        if not found["image"]:
            raise explained(UsageError(f"{who} needs an image", hint='("docker://…"), or hpcc.image in hpcc.yaml.'))
        self.uri: str = found.pop("image")
        self._settings = settings
        self._pull, self._arch, self._preflight = (found.pop(name) for name in ("pull", "arch", "preflight"))
        try:
            self._overlay: Overlay | None = overlay(found.pop("overlay_env"))
            container(**found)  # so that what is wrong is said of what was given
            if self._overlay is not None:
                found |= {"binds": [*self._overlay.binds, *found["binds"]], "libraries": self._overlay.libraries}
            self.container: Container = container(**found)
        except HpccError as error:
            raise explained(error) from None

    def prepare(self, progress: Progress = SILENT) -> Pinned:
        """Pull where it must be, once. Blocks. HpccError where workers could not run from it, hint as a note."""
        settings = self._settings or Settings.from_environ()
        image = pin(self.uri, pull=self._pull, arch=self._arch, settings=settings, progress=progress)
        if self._preflight:
            try:
                facts = check(image, self.container, settings)
                if self._overlay is not None:
                    check_libc(image.uri, facts, self._overlay)
            except HpccError as error:
                raise explained(error) from None
        return image
