"""hpcc inside the real Apptainer: what works outside works there as well."""

import pytest

from tests.e2e.test_run_nested import CASES
from tests.e2e.test_run_signals import left_over
from tests.interop import test_side_by_side as side_by_side
from tests.interop.conftest import Pulled
from tests.support.installation import Installation
from tests.support.peers import apptainer
from tests.support.people import Person

MODES = {**side_by_side.MODES, "fakeroot": ("--fakeroot",)}
SYSTEM = "/usr,/lib,/lib64,/bin,/var/tmp"  # of the Debian root with Apptainer, where the image's own would be


@pytest.mark.parametrize("mode", MODES)
def test_in_apptainer(pulled: Pulled, installed: Installation, runs_as: Person, mode: str) -> None:
    (main,) = installed.venv.glob("lib/python3*/site-packages/hpcc/__main__.py")
    image = pulled.ours / "plain.sif"
    mark = f"mark-{mode}-{runs_as.uid}-{runs_as.home.parent.name}"
    own = {name: value for name, value in runs_as.environ().items() if name.startswith("HPCC_")}
    own |= {"HPCC_MARK": mark, "HPCC_HOLD_IDLE": "0"}
    env = own | {f"APPTAINERENV_{name}": value for name, value in own.items()}
    for name, case in CASES.items():
        inner = ["python3", "-I", "-S", "-B", main, "exec", *case.flags, image, "sh", "-c", case.script]
        done = apptainer(["exec", *MODES[mode], "--bind", SYSTEM, image, *inner], runs_as, env=env)
        if mode == "fakeroot" and runs_as.uid == 0:
            assert "no mapping entry found in /etc/subuid for root" in done.stderr  # Apptainer's own condition
            return
        wanted = case.prints.format(uid=0 if mode == "fakeroot" else runs_as.uid)
        assert (done.returncode, done.stdout) == (0, wanted), (name, done)
        assert "FATAL" not in done.stderr and "WARNING" not in done.stderr, done.stderr
    assert left_over(mark, 6.0) == {}
