"""Dask's SSHCluster with workers in an image: what its remote_python= is to be. Text alone, but for the pull."""

from __future__ import annotations

import shlex
from typing import Any

from hpcc.errors import UsageError
from hpcc_dask.command import python_words, variables
from hpcc_dask.images import explained
from hpcc_dask.preparing import Request


def remote_python(image: str | None = None, **options: Any) -> str:
    """SSHCluster(hosts, remote_python=remote_python("docker://…")): the image's Python, as words for a remote shell.

    It is pulled and pinned here, once; the hosts need its path, and this installation, on a shared filesystem. Options
    are those of HPCCCluster's containers. Not env: it would stand in the hosts' lists of processes, for all to read.
    """
    request = Request("remote_python", {"image": image, **options})
    if request.container.env:
        raise explained(
            UsageError(
                "remote_python takes no env: it would stand on the remote hosts' command lines",
                hint="`export HPCCENV_NAME=…` where ssh starts a shell there, or a file that is bound.",
            )
        )
    words = python_words(request.container, request.prepare().path)
    settings = [f"{name}={shlex.quote(value)}" for name, value in variables(request.container).items()]
    return " ".join([*settings, shlex.join(words)])
