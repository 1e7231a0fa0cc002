"""hpcc kernel check: start a kernel as a notebook server does, and run a cell in it."""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import time
from typing import Any

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import HpccError, UsageError
from hpcc.sitepath import load_site_packages
from hpcc_jupyter.listing import find_own
from hpcc_jupyter.places import Kernel

COMMAND = Command(
    "kernel check [OPTIONS] NAME",
    "Start a kernel as Jupyter does, run a cell in it, interrupt another one, and end it. Needs jupyter-client: "
    "pip install 'hpcc[jupyter]'.",
    (
        Option(("--prefix",), "below PREFIX/share/jupyter, beside where Jupyter looks", "PREFIX"),
        Option(("--timeout",), "seconds for the start; default 120", "SECONDS"),
    ),
    "hpcc kernel check python-3.12",
)
_CELLS = {"python": ("print(6 * 7)", "import time; time.sleep(60)"), "r": ("cat(6 * 7)", "Sys.sleep(60)"),
          "julia": ("print(6 * 7)", "sleep(60)")}  # fmt: skip
"""Language -> a cell that says 42, and one that lasts."""
_PATIENCE = 30.0  # seconds for a cell
_BEFORE = 1.0  # seconds that the long one runs before it is interrupted


def main(argv: list[str]) -> int:
    load_site_packages()
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "kernel check needs the name of a kernel")
    try:
        patience = float(arguments.timeout or 120)
    except ValueError:
        raise UsageError(f"--timeout {arguments.timeout!r} is no number of seconds") from None
    kernel = find_own(arguments.positional[0], arguments.prefix)
    try:
        from jupyter_client.manager import KernelManager
    except ModuleNotFoundError as error:
        raise HpccError(
            f"hpcc kernel check needs the Python package {error.name}, which is not installed",
            hint="pip install 'hpcc[jupyter]', into the same environment as hpcc.",
        ) from None
    manager = KernelManager(kernel_name=kernel.name)
    manager.kernel_spec_manager.kernel_dirs.insert(0, os.path.dirname(kernel.directory))
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        manager.start_kernel(stdout=said, stderr=said)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=patience)
            print(f"{kernel.name} starts: {time.monotonic() - began:.1f} s")
            _run_cells(kernel, manager, client)
        except (RuntimeError, TimeoutError, queue.Empty) as error:
            said.seek(0)
            sys.stderr.write(said.read()[-4000:].decode("utf-8", "replace"))
            what = str(error) or f"no answer within {_PATIENCE:.0f} s"
            raise HpccError(f"kernel {kernel.name}: {what}", hint="What it said itself stands above.") from None
        finally:
            client.stop_channels()
            manager.shutdown_kernel()
    print(f"{kernel.name} is well")
    return 0


def _run_cells(kernel: Kernel, manager: Any, client: Any) -> None:
    """RuntimeError where a cell does not give what it should."""
    cells = _CELLS.get(str(kernel.spec.get("language", "")).lower())
    if cells is None:
        print("No cell is run, since hpcc does not know the language")
        return
    text = _finish(client, client.execute(cells[0]))
    if text.strip() != "42":
        raise RuntimeError(f"6 * 7 gave {text.strip()!r}")
    print("a cell is run: 42")
    message = client.execute(cells[1])
    time.sleep(_BEFORE)
    began = time.monotonic()
    manager.interrupt_kernel()
    _finish(client, message)
    print(f"a cell is interrupted: {time.monotonic() - began:.1f} s")


def _finish(client: Any, message: str) -> str:
    """What a cell has written, once it has ended. queue.Empty where that takes too long."""
    text = ""
    end = time.monotonic() + _PATIENCE
    while True:
        answer = client.get_iopub_msg(timeout=max(0.01, end - time.monotonic()))
        if answer["parent_header"].get("msg_id") != message:
            continue
        if answer["msg_type"] == "stream" and answer["content"]["name"] == "stdout":
            text += answer["content"]["text"]
        elif answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
            return text
