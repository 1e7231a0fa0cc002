"""`import hpcc` from Python: pull, run, exec, and what subprocess.run knows."""

import subprocess
import textwrap
from collections.abc import Iterator

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.e2e.test_pull import CONFIG, LAYERS, NAME
from tests.support.installation import Installation
from tests.support.people import Person


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        yield registry


class Script:
    """Python code that has `hpcc`, `uri` and `image`, by the interpreter that hpcc is installed for."""

    def __init__(self, person: Person, installed: Installation, registry: FakeRegistry) -> None:
        self.person, self.installed, self.registry = person, installed, registry

    def __call__(self, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
        head = f"import hpcc\nuri = 'docker://{self.registry.host}/{NAME}:1.4'\nimage = hpcc.pull(uri)\n"
        argv = [self.installed.python, "-c", head + textwrap.dedent(code)]
        return self.person.run(argv, env={"HPCC_INSECURE": self.registry.host, **env})


@pytest.fixture
def script(runs_as: Person, installed: Installation, registry: FakeRegistry) -> Script:
    return Script(runs_as, installed, registry)


def test_run_and_exec(script: Script) -> None:
    done = script("""
        done = image.run(capture_output=True, text=True)
        print(repr((done.returncode, done.stdout, done.stderr)))
        done = image.run(["a b", "$HOME"], capture_output=True)
        print(repr((done.returncode, done.stdout)))
        done = image.exec(["sh", "-c", "cat; exit 7"], input=b"through", stdout=-1)
        print(repr((done.returncode, done.stdout)))
        print(type(done).__name__)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "(0, 'says hi\\n', '')",
        "(0, b'says a b $HOME\\n')",
        "(7, b'through')",
        "CompletedProcess",
    ]


def test_options_of_the_command_line(script: Script) -> None:
    (script.person.home / "data").mkdir()
    (script.person.home / "data/file").write_text("of the host\n")
    done = script(f"""
        data = {str(script.person.home / "data")!r}
        sh = lambda code, **options: print(
            image.exec(["sh", "-c", code], capture_output=True, text=True, **options).stdout, end="")
        sh("echo x > /new; cat /new", compat=True)
        sh("cat /mnt/file; cat /also", bind=[data + ":/mnt:ro", data + "/file:/also"])
        sh('echo "$A|$B"', env={{"A": "1 2", "B": 'q"$HOME,C=3'}}, cleanenv=True)
        sh("echo ${{MINE-unset}}", cleanenv=True)
        sh("echo ${{MINE-unset}}", cleanenv=False, pwd=None)
        sh("echo $PWD", pwd="/etc")
    """, MINE="mine")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["x", "of the host", "of the host", '1 2|q"$HOME,C=3', "unset", "mine", "/etc"]


def test_check_cwd_and_timeout_are_subprocess_runs(script: Script) -> None:
    done = script("""
        import subprocess
        try:
            image.exec(["sh", "-c", "exit 3"], check=True)
        except subprocess.CalledProcessError as error:
            print("ended with", error.returncode)
        try:
            image.exec(["sleep", "60"], timeout=1.5)
        except subprocess.TimeoutExpired:
            print("took too long")
        print(image.exec(["sh", "-c", "pwd"], cwd="/tmp", capture_output=True, text=True).stdout)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ended", "with", "3", "took", "too", "long", "/tmp"]


def test_errors(script: Script) -> None:
    done = script("""
        for bad in ("docker://UPPER", "no-such.sif", "oras://x/y", uri + "-not-there"):
            try:
                hpcc.pull(bad)
            except hpcc.HpccError as error:
                print(type(error).__name__, bool(error.message), error.exit_code)
        try:
            image.run("a string")
        except ValueError as error:
            print(type(error).__name__)
        print(image.exec(["no-such"], stderr=-3).returncode)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "InvalidReference True 255",
        "ImageNotFound True 255",
        "UsageError True 255",
        "ImageNotFound True 255",
        "UsageError",
        "255",
    ]


def test_what_an_image_says(script: Script) -> None:
    done = script("""
        print(image.name == uri, image.path.endswith(".sif"), "@sha256:" in image.reference, repr(image))
        again = hpcc.open_image(image.path, hpcc.Settings.from_environ())
        print(again.reference == image.reference, again.run(capture_output=True).stdout)
        asked = hpcc.pull(uri)
        print(asked.path == image.path)
    """)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("True True True <hpcc.Image ") and lines[1:] == ["True b'says hi\\n'", "True"]


def test_import_costs_nothing(plain_user: Person, installed: Installation) -> None:
    code = "import sys; before = set(sys.modules); import hpcc; after = set(sys.modules); print(*after - before)"
    done = plain_user.run([installed.python, "-c", code])
    assert set(done.stdout.split()) <= {"hpcc", "hpcc.records", "hpcc.version", "__future__", "_operator", "operator"}
