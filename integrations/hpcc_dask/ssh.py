"""Dask's SSHCluster with workers in an image: what its remote_python= is to be. Text alone, but for the pull."""

from __future__ import annotations

import shlex
from typing import Any

from hpcc.errors import UsageError
from hpcc_dask.command import container, python_words, variables
from hpcc_dask.config import chosen
from hpcc_dask.images import pin


def remote_python(image: str | None = None, **options: Any) -> str:
    """SSHCluster(hosts, remote_python=remote_python("docker://…")): the image's Python, as words for a remote shell.

    It is pulled and pinned here, once; the hosts need its path, and this installation, on a shared filesystem. Options
    are those of HPCCCluster's containers. Not env: it would stand in the hosts' lists of processes, for all to read.
    """
    found = chosen({"image": image, **options})
    uri, pins = found.pop("image"), {name: found.pop(name) for name in ("pull", "arch")}
    if not uri:
        raise UsageError("remote_python needs an image", hint='("docker://…"), or hpcc.image in hpcc.yaml.')
    if found["env"]:
        raise UsageError(
            "remote_python takes no env: it would stand on the remote hosts' command lines",
            hint="`export HPCCENV_NAME=…` where ssh starts a shell there, or a file that is bound.",
        )
    found.pop("overlay_env")
    made = container(**found)
    sif = pin(uri, **pins).path
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables(made).items()),
                     shlex.join(python_words(made, sif))])  # fmt: skip
