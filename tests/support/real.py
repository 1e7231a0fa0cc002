"""Real programs that a test needs: a skip where one is missing, a failure where nothing may be skipped."""

import os
import shutil

import pytest


def need(program: str) -> str:
    """The path of `program`; without it the test is skipped, or fails when HPCC_NO_SKIP is set (tests/conftest.py)."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path:
        return path
    message = f"no {program} on this machine; as root tests/support/install.sh brings it"
    if os.environ.get("HPCC_NO_SKIP", "") not in ("", "0"):
        pytest.fail(message)
    pytest.skip(message)
