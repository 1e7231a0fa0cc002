"""`import hpcc` from Python: pull, run, exec, and what subprocess.run knows."""

import subprocess
import textwrap
from collections.abc import Iterator

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
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
        for bad in ("docker://UPPER", "no-such.sif", "ftp://x/y", uri + "-not-there"):
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
        "Unknown True 255",
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


def test_resolve_and_place(script: Script) -> None:
    """A digest without the image, by one HEAD. A link to the cached image, by a link to it as well, or a copy."""
    before = script.registry.counts["manifest_get"]
    done = script("""
        import os
        named = hpcc.resolve(uri)
        print(named.startswith(uri + "@sha256:"), hpcc.resolve(named) == named)
        hpcc.place(uri, "link.sif")
        hpcc.place(named, "link.sif")
        hpcc.place("link.sif", "again.sif")
        hpcc.place(uri, "copy2.sif", link=False)
        print([os.path.islink(name) for name in ("link.sif", "again.sif", "copy2.sif")])
        settings = hpcc.Settings.from_environ()
        print(os.readlink("link.sif") == image.path, hpcc.open_image("copy2.sif", settings).reference)
        open("other.sif", "w").write("mine")
        for bad in (lambda: hpcc.place(uri, "other.sif"), lambda: hpcc.place(uri, "no/such/dir.sif"),
                    lambda: hpcc.resolve("here.sif"), lambda: hpcc.resolve(uri + "-not-there")):
            try:
                bad()
            except hpcc.HpccError as error:
                print(type(error).__name__)
        print(open("other.sif").read(), os.path.exists("no"))
        hpcc.place(uri, "other.sif", replace=True)
        print(os.path.islink("other.sif"))
    """)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "True True" and lines[1] == "[True, True, False]", done.stdout
    assert lines[2].startswith("True ") and "@sha256:" in lines[2]
    assert lines[3:] == ["UsageError", "CacheError", "UsageError", "ImageNotFound", "mine False", "True"]
    assert script.registry.counts["manifest_get"] - before <= 2


def test_resolve_without_a_registry(script: Script) -> None:
    """What the caches know, however old, with a warning; else the registry's error."""
    code = """
        class Told(hpcc.Progress):
            def warning(self, text):
                print(text)
        told = Told()
        print(hpcc.resolve(uri, progress=told) == named)
        try:
            hpcc.resolve(uri.replace("1.4", "1.5"))
        except hpcc.HpccError as error:
            print(type(error).__name__)
    """
    done = script("print(hpcc.resolve(uri))")
    named = done.stdout.strip()
    assert done.returncode == 0 and "@sha256:" in named, done.stderr
    gone = script.registry.host
    head = f"import hpcc\nnamed = {named!r}\nuri = named.partition('@')[0]\n" + textwrap.dedent(code)
    script.registry.faults = Faults(unavailable=-1)
    try:
        argv = [script.installed.python, "-c", head]
        done = script.person.run(argv, env={"HPCC_INSECURE": gone, "HPCC_TTL": "0"})
    finally:
        script.registry.faults = Faults()
    lines = done.stdout.splitlines()
    assert lines[1:] == ["True", "RegistryUnavailable"] and "Using what the cache knows" in lines[0], done


def test_import_costs_nothing(plain_user: Person, installed: Installation) -> None:
    code = "import sys; before = set(sys.modules); import hpcc; after = set(sys.modules); print(*after - before)"
    done = plain_user.run([installed.python, "-c", code])
    assert set(done.stdout.split()) <= {"hpcc", "hpcc.records", "hpcc.version", "__future__", "_operator", "operator"}
