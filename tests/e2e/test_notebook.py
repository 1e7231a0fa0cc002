"""hpcc in notebooks: bars, tables, magics and the stop button, in a real ipykernel on the host."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
from tests.e2e.test_kernel import Desk, jupyter  # noqa: F401  (a fixture)
from tests.support import images
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import config_of, noise, tar_layer

LAYERS = [tar_layer({"a": noise(400_000)}), tar_layer({"b": noise(3_000_000, 1)})]
CONFIG = config_of(LAYERS, config={"Cmd": ["/a", "<script>alert(1)</script>"]})


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=50) as registry:
        registry.add_image("group/tools", "1", LAYERS, CONFIG)
        yield registry


@pytest.fixture
def desk(plain_user: Person, jupyter: Installation, open_dir: Path) -> Iterator[Desk]:  # noqa: F811
    home = open_dir / "home"
    home.mkdir()
    yield Desk(plain_user.at(home), jupyter)


def _notebook(desk: Desk, registry: FakeRegistry, code: str, **env: str) -> list[str]:
    head = f"uri = 'docker://{registry.host}/group/tools:1'\nimport json\n" + 'with Session("python3") as session:\n'
    return desk.python(head + textwrap.indent(textwrap.dedent(code), "    "), HPCC_INSECURE=registry.host, **env)


def test_bars_and_tables(desk: Desk, registry: FakeRegistry) -> None:
    """A first pull draws a bar that ends as a line; a second one draws nothing. Tables are escaped."""
    registry.faults = Faults(delay=0.3)
    lines = _notebook(desk, registry, """
        for code in (f"import hpcc; image = hpcc.pull({uri!r})", f"hpcc.pull({uri!r})",
                     "import hpcc_jupyter; hpcc_jupyter.cache_stats()", "hpcc_jupyter.limits(offline=True)"):
            status, text, seen = session.result(session.send(code))
            print(json.dumps([status, text, [each["data"].get("text/html", "") for each in seen]]))
        print(session.run("print(repr(image))"))
    """)  # fmt: skip
    first, second, stats, limits = (json.loads(line) for line in lines[:4])
    assert first[0] == "ok" and "<progress" in "".join(first[2]), first
    assert "Pulling: 3.4 MB in" in first[2][-1] and "<progress" not in first[2][-1]
    (shown,) = second[2]
    assert "<table" in shown and "sha256:" in shown and "<script>" not in shown and "&lt;script&gt;" in shown
    assert "group/tools:1" in stats[2][0] and "3.4" in stats[2][0] and "Stats(" in stats[1]
    assert "<table" in limits[2][0] and registry.host in limits[2][0]
    assert lines[4].startswith("<hpcc.Image ")


def test_outside_of_a_notebook_nothing_is_drawn(desk: Desk, registry: FakeRegistry) -> None:
    code = f"import hpcc; print(repr(hpcc.pull('docker://{registry.host}/group/tools:1')))"
    argv = [desk.installed.python, "-c", f"import sys, IPython; {code}; print('hpcc.tables' in sys.modules)"]
    done = desk.person.run(argv, env={"HPCC_INSECURE": registry.host})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    shown, tables = done.stdout.splitlines()
    assert shown.startswith("<hpcc.Image ") and tables == "False"


def test_the_stop_button_stops_a_pull(desk: Desk, registry: FakeRegistry) -> None:
    """At once; no lock is held and no temporary is left; the next pull goes through."""
    registry.faults = Faults(trickle=0.01, only="blobs")
    release = desk.person.home / "release"
    code = """
        message = session.send(f"import hpcc; hpcc.pull({uri!r})")
        time.sleep(3)
        began = time.monotonic()
        session.manager.interrupt_kernel()
        status, text, _ = session.result(message)
        print(status, "KeyboardInterrupt" in text, time.monotonic() - began < 3)
        print(session.run("import os; print(sorted(os.listdir(os.environ['HPCC_CACHE_DIR'] + '/tmp')))"))
        print(session.run("import threading; print([t.name for t in threading.enumerate() if 'Pool' in t.name])"))
        open("stopped", "w").close()
        session.wait_for("release")
        print(session.run(f"import time; t = time.monotonic(); hpcc.pull({uri!r}); print(time.monotonic() - t < 20)"))
    """
    import threading
    import time

    def heal() -> None:
        for _ in range(600):
            if (desk.person.home / "stopped").exists():
                registry.faults = Faults()
                release.touch()
                return
            time.sleep(0.1)

    thread = threading.Thread(target=heal)
    thread.start()
    lines = _notebook(desk, registry, code)
    thread.join()
    assert lines[0] == "error True True"
    assert lines[1] == "[]", lines
    assert lines[2] == "[]", lines
    assert lines[-1].endswith("True"), lines


def test_magics(desk: Desk, registry: FakeRegistry) -> None:
    image = images.images().main
    lines = _notebook(desk, registry, f"""
        image = {str(image)!r}
        def cell(text):
            status, said, seen = session.result(session.send(text))
            print(json.dumps([status, said, [each["data"].get("text/html", "") for each in seen]]))
        cell("%load_ext hpcc_jupyter")
        cell("%hpcc pull " + uri)
        cell("%hpcc cache stats")
        cell("%hpcc limits " + uri.split("/")[2])
        cell("%hpcc version")
        cell(f"%%hpcc --cleanenv {{image}}\\necho out $GREETING; echo err >&2")
        cell(f"%%hpcc --out listing --compat {{image}}\\nls /own")
        cell("print(listing.split())")
        cell(f"%%hpcc {{image}} cat\\nthe cell: $HOME é")
        cell(f"%%hpcc {{image}}\\nexit 7")
        cell(f"%%hpcc --no-raise {{image}}\\nexit 7")
        cell("print(_exit_code)")
        cell("%%hpcc /nonexistent.sif\\nls")
        cell("%%hpcc --out 1x /nonexistent.sif\\nls")
        cell("%hpcc pull docker://UPPER")
        message = session.send(f"%%hpcc --compat {{image}}\\necho begun\\nsleep 100")
        time.sleep(2.5)
        began = time.monotonic()
        session.manager.interrupt_kernel()
        status, said, _ = session.result(message)
        print(json.dumps([status, said, time.monotonic() - began < 8]))
    """)  # fmt: skip
    said = [json.loads(line) for line in lines]
    assert said[0][:2] == ["ok", ""]
    assert said[1][0] == "ok" and "<table" in said[1][2][-1]
    assert "<table" in said[2][2][0] and "<table" in said[3][2][0]
    assert "hpcc version" in said[4][1]
    assert said[5][0] == "ok", said[5]
    assert 'out hello world "quoted" $HOME' in said[5][1] and "err" in said[5][1]
    assert said[6][:2] == ["ok", ""] and said[7][1].strip() == "['gid50', 'gid8', 'uid0', 'uid1000']"
    assert said[8][1].strip() == "the cell: $HOME é"
    assert said[9][0] == "error" and "status 7" in said[9][1]
    assert said[10][0] == "ok" and said[11][1].strip() == "7"
    assert said[12][0] == "error" and "No such file" in said[12][1]
    assert said[13][0] == "error" and "no name of a variable" in said[13][1]
    assert "UPPER" in said[14][1] and "Traceback" not in said[14][1]
    assert said[15][0] == "error" and "begun" in said[15][1] and "KeyboardInterrupt" in said[15][1] and said[15][2]
    assert desk.nothing_left(), desk.left()
