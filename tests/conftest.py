"""What all tests share: who runs them, where they may write, and what a skip means.

HPCC_NO_SKIP=1, or --no-skip, turns each skip into a failure: on a machine where everything must be there, as in CI,
a test that did not run has found nothing out. The exception are tests marked `shared_data`, whose data lies outside of
the repository, and those marked `gpu`: both are counted and named at the end.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
for _path in (str(ROOT / "integrations"), str(ROOT)):
    if _path not in sys.path:
        sys.path.insert(0, _path)  # for `tests.support` and the integrations, whichever way pytest was started

from tests.support import installation, peers, people, sharedfs, slurm  # noqa: E402
from tests.support.docker_registry import DockerRegistry  # noqa: E402
from tests.support.people import Person  # noqa: E402

SHARED_DATA = ROOT.parent / "shared" / "data"
_ELSEWHERE = {"shared_data": "their data in ../shared/data is not here", "gpu": "this machine has no NVIDIA GPU"}
_not_run = pytest.StashKey[dict[str, list[str]]]()


# -- skips ---------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skip", action="store_true", help="a skipped test is a failure (also HPCC_NO_SKIP=1)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_not_run] = {mark: [] for mark in _ELSEWHERE}
    # A shell starts what it puts into the background with these ignored, and everything below would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    config.option.no_skip = config.option.no_skip or os.environ.get("HPCC_NO_SKIP", "") not in ("", "0")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    if item.get_closest_marker("gpu") and not os.path.exists("/dev/nvidia0"):
        pytest.skip("no /dev/nvidia0")
    if item.get_closest_marker("interop") and (reason := peers.missing()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        if marks := [mark for mark in _ELSEWHERE if item.get_closest_marker(mark)]:
            item.config.stash[_not_run][marks[0]].append(item.nodeid)
        elif item.config.option.no_skip:
            _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    if report.skipped and collector.config.option.no_skip:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"skipped where nothing may be skipped (HPCC_NO_SKIP): {reason.removeprefix('Skipped: ')}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for mark, skipped in config.stash[_not_run].items():
        if skipped:
            terminalreporter.section(f"{len(skipped)} tests did not run: {_ELSEWHERE[mark]}")
            for name in skipped:
                terminalreporter.line(name)


# -- people and places ---------------------------------------------------------------------------------------


@pytest.fixture
def hpcc_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point this process, and the commands that it starts, to a new home; no setting, cache or proxy of the caller."""
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(people.FOREIGN) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in people.isolated(home).items():
        monkeypatch.setenv(name, value)
    return home


@pytest.fixture
def cache_dir(hpcc_env: Path) -> Path:
    """The directory that HPCC_CACHE_DIR names in `hpcc_env`; not made yet."""
    return hpcc_env / "cache"


@pytest.fixture(scope="session")
def _open_base() -> Iterator[Path]:
    """A directory that every user can pass through; pytest's own temporary directories are root's alone."""
    base = Path(tempfile.mkdtemp(prefix="hpcc-tests-", dir="/var/tmp"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def open_dir(_open_base: Path) -> Iterator[Path]:
    """A new directory, this process's own, that every user can read and pass through; removed afterwards."""
    path = Path(tempfile.mkdtemp(dir=_open_base))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def plain_user(_open_base: Path) -> Person:
    """The unprivileged user, with a home for the session."""
    home = _open_base / "plain"
    home.mkdir(mode=0o700)
    person = people.unprivileged(home)
    if person is None:
        pytest.skip(f"no user {people.TEST_USER}: run tests/support/install.sh as root")
    return person.at(home)


@pytest.fixture(params=["root", "user"])
def runs_as(request: pytest.FixtureRequest, open_dir: Path) -> Person:
    """Each test twice, as root and as a plain user, with a home of its own; started by a plain user, once."""
    home = open_dir / "home"
    person = people.myself(home) if request.param == "root" else request.getfixturevalue("plain_user")
    home.mkdir(mode=0o700)
    return person.at(home)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """As a plain user there is no root to run as: `runs_as[root]` is no test of that machine, rather than a skip."""
    if os.geteuid() == 0:
        return
    impossible = [i for i in items if getattr(i, "callspec", None) and i.callspec.params.get("runs_as") == "root"]
    if impossible:
        config.hook.pytest_deselected(items=impossible)
        items[:] = [item for item in items if item not in impossible]


# -- hpcc as installed, and registries -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def installed() -> installation.Installation:
    """hpcc from a wheel of this tree, which the plain user can run too."""
    return installation.install(("compress",))


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    """A real docker-registry, empty, of this test alone."""
    from tests.support.real import need

    program = need("docker-registry")
    directory = tmp_path / "docker-registry"
    directory.mkdir()
    with DockerRegistry(directory, str(program or "docker-registry")) as registry:
        yield registry


# -- a cluster ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_fs() -> Iterator[sharedfs.SharedFs]:
    """A distributed filesystem with two nodes; tests make directories with new names in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("no /dev/fuse: run tests/support/install.sh as root")
    with sharedfs.SharedFs() as running:
        yield running


@pytest.fixture(scope="session")
def shim(_open_base: Path) -> Callable[[str], Path]:
    """`shim("flock-noop")` is a library for LD_PRELOAD, which every user can read: see tests.support.sharedfs."""
    return lambda name: sharedfs.compile_shim(name, _open_base)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[slurm.SlurmCluster]:
    """Slurm with the nodes n1 to n3, for the session."""
    if reason := slurm.missing():
        pytest.skip(reason)
    with slurm.SlurmCluster() as running:
        yield running


@pytest.fixture(name="slurm")
def _slurm(slurm_cluster: slurm.SlurmCluster) -> Iterator[slurm.SlurmCluster]:
    """The session's cluster, without jobs of other tests."""
    yield slurm_cluster
    slurm_cluster.cancel_all()
