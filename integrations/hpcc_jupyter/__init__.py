"""hpcc for Jupyter: `hpcc kernel`, notebooks whose kernels run in images; and hpcc in notebooks.

%load_ext hpcc_jupyter
%hpcc pull docker://python:3.12
%%hpcc --out listing docker://debian:12
ls /etc
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcc_jupyter.reports import cache_stats, limits

__all__ = ["cache_stats", "limits", "load_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext hpcc_jupyter`."""
    from hpcc_jupyter.magics import register

    register(shell)


def __getattr__(name: str) -> object:
    """Imported when it is first used: the command line does not need it."""
    if name not in ("cache_stats", "limits"):
        raise AttributeError(f"module 'hpcc_jupyter' has no attribute {name!r}")
    from hpcc_jupyter import reports

    return getattr(reports, name)
