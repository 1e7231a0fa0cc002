"""`instance …` of hpcc and of Apptainer, side by side."""

import json
import time
from collections.abc import Callable

import pytest

from tests.interop.conftest import Completed, Pulled, Tool
from tests.support.peers import apptainer
from tests.support.people import Person

Both = Callable[..., tuple[Completed, Completed]]


@pytest.fixture
def both(hpcc: Tool, plain_user: Person) -> Both:
    """The same command line by either. As the plain user: Apptainer's root asks for capabilities that CI has not."""

    def run(*argv: object, **options: object) -> tuple[Completed, Completed]:
        words = [str(word) for word in argv]
        return hpcc(words, plain_user, **options), apptainer(words, plain_user, **options)

    return run


def test_life_of_an_instance(pulled: Pulled, both: Both) -> None:
    image = pulled.ours / "plain.sif"
    try:
        for done in both("instance", "run", "--env", "AT_START=1", image, "life", "words", "a b"):
            assert done.returncode == 0 and "INFO:    instance started successfully" in done.stderr, done.stderr
        for done in both("instance", "start", image, "life"):
            assert done.returncode == 255 and "instance life already exists" in done.stderr

        ours, theirs = (json.loads(done.stdout)["instances"][0] for done in both("instance", "list", "--json"))
        assert list(ours) == list(theirs) and ours["instance"] == theirs["instance"] and ours["img"] == theirs["img"]
        ours, theirs = both("instance", "list", "nosuch*")
        assert ours.stdout == theirs.stdout == "INSTANCE NAME    PID    IP    IMAGE\n"
        ours, theirs = both("instance", "list", "li*")
        assert ours.stdout.split()[:6] == theirs.stdout.split()[:6] and ours.stdout.split()[7:] == [str(image)]
        time.sleep(1)
        for done in both("instance", "list", "--logs"):
            log = next(word for word in done.stdout.split() if word.endswith("life.out"))
            with open(log) as file:
                assert file.read() == "[a b]\n"

        env = {"MINE": "x", "APPTAINERENV_INSIDE": "y"}
        for argv in (
            ("exec", "instance://life", "sh", "-c", "pwd; id -u; umask; exit 7"),
            ("exec", "instance://life", "sh", "-c", 'echo "$MINE $INSIDE $AT_START $SHARED $HOME $APPTAINER_INSTANCE"'),
            ("exec", "--cleanenv", "--pwd", "/etc", "instance://life", "sh", "-c", 'pwd; echo "$MINE $INSIDE $PATH"'),
            ("exec", "instance://life", "grep", "-e", "Cap", "-e", "NoNew", "/proc/self/status"),
            ("run", "instance://life", "words", "one", "$HOME"),
            ("exec", "instance://life", "sh", "-c", "kill -9 $$"),
            ("exec", "instance://nosuch", "true"),
        ):
            ours, theirs = both(*argv, env=env)
            status = ours.returncode if ours.returncode >= 0 else 128 - ours.returncode
            wanted = theirs.returncode if theirs.returncode >= 0 else 128 - theirs.returncode
            assert (status, ours.stdout) == (wanted, theirs.stdout), (argv, ours.stderr, theirs.stderr)
        ours, theirs = both("shell", "instance://life", input="echo in $0\n")
        assert ours.stdout == theirs.stdout
    finally:
        stopped = both("instance", "stop", "life")
    for done in stopped:
        assert done.returncode == 0 and f"Stopping life instance of {image}" in done.stderr, done.stderr
    for done in both("instance", "list", "--json"):
        assert json.loads(done.stdout) == {"instances": []}
    ours, theirs = both("instance", "stop", "life")
    assert ours.returncode == 255 and theirs.returncode == 1  # its usage errors have a status of their own


def test_startscript_of_a_sandbox(pulled: Pulled, both: Both) -> None:
    """hpcc runs an instance of what Apptainer made."""
    try:
        for done in both("instance", "start", pulled.sandboxes / "plain", "box"):
            assert done.returncode == 0, done.stderr
        ours, theirs = both("exec", "instance://box", "sh", "-c", "cat /etc/os-release; echo $SHARED")
        assert ours.stdout == theirs.stdout
    finally:
        both("instance", "stop", "box")
