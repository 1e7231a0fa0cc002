"""JupyterLab on loopback, with a token, and Debian's Chromium that opens its notebooks."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.real import need

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_UP = 90.0  # seconds until the server must answer


@contextmanager
def running_lab(directory: Path, env: dict[str, str]) -> Iterator[str]:
    """The server's address with its token in it; its kernels end with it."""
    token = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ServerApp.ip=127.0.0.1"]
    words += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={directory}"]
    settings = directory / ".settings"
    quiet = settings / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    words += ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    words += [f"--LabApp.user_settings_dir={settings}"]
    log = directory / ".server.log"
    with open(log, "wb") as out:
        server = subprocess.Popen(
            words, env={**env, "JUPYTER_TOKEN": token}, cwd=directory, stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
        try:
            _wait(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + _UP
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(address, timeout=5):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-4000:]}") from None
            time.sleep(0.2)


@contextmanager
def running_browser(profile: Path) -> Iterator[Any]:
    """A page of Chromium, with an empty profile of its own."""
    from playwright.sync_api import sync_playwright

    chromium = need("chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=str(chromium), headless=True, args=list(FLAGS),
            viewport={"width": 1000, "height": 640},
        )  # fmt: skip
        try:
            page = context.new_page()
            page.set_default_timeout(20_000)
            yield page
        finally:
            context.close()


def write_notebook(path: Path, kernel: str, cells: list[str]) -> None:
    """A notebook of code cells that have not been run."""
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "cells": [
            {"cell_type": "code", "id": f"c{number}", "metadata": {}, "source": text, "outputs": [],
             "execution_count": None}
            for number, text in enumerate(cells)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document))


def picture(page: Any, name: str) -> None:
    """A screenshot for the documentation, only where HPCC_TEST_PICTURES names the directory for it."""
    if where := os.environ.get("HPCC_TEST_PICTURES"):
        page.screenshot(path=os.path.join(where, name))
