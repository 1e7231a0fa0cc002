"""`apptainer push`, `search` and `delete` ask a library what hpcc asks it: the same requests, in the same order."""

import json
from pathlib import Path
from typing import Any

from tests.interop.conftest import Tool
from tests.support.layers import convert
from tests.support.peers import apptainer
from tests.support.people import Person
from tests.support.pulls import ARCHITECTURE, tar_layer
from tests.support.webserver import FakeLibrary

TOKEN = "a" * 300  # Apptainer takes no shorter ones
REMOTE = """\
Active: fake
Remotes:
    fake:
        URI: //{host}
        Token: {token}
        System: false
        Exclusive: false
        Insecure: true
"""


def test_both_ask_the_same(hpcc: Tool, plain_user: Person, open_dir: Path) -> None:
    (open_dir / "home").mkdir(mode=0o700)
    person = plain_user.at(open_dir / "home")
    image = open_dir / "image.sif"
    image.write_bytes(convert([tar_layer({"etc/b": b"of a SIF"})]))
    commands: list[list[Any]] = [
        ["push", "-U", image, "library://lab/group/tools:1"],
        ["push", "-U", image, "library://lab/group/tools:2"],
        ["search", "tools"],
        ["delete", "-F", "library://lab/group/tools:1"],
    ]
    ours, theirs = FakeLibrary(), FakeLibrary()
    for server in (ours, theirs):
        server.token = TOKEN
        found = {"entityName": "lab", "collectionName": "group", "containerName": "tools", "tags": ["1", "2"]}
        server.found = {"image": [{**found, "arch": ARCHITECTURE, "size": 5, "hash": "sha256.1", "signed": False}]}
    with ours, theirs:
        place = {"uri": theirs.url}
        services = {"libraryAPI": place, "tokenAPI": place, "keystoreAPI": place}
        theirs.files["/assets/config/config.prod.json"] = json.dumps(services).encode()
        remote = person.home / ".apptainer/remote.yaml"
        for command in (["mkdir", "-m", "700", remote.parent], ["tee", remote], ["chmod", "600", remote]):
            text = REMOTE.format(host=theirs.host, token=TOKEN)
            assert person.run([str(word) for word in command], input=text).returncode == 0
        for argv in commands:
            done = hpcc(argv, person, env={"HPCC_LIBRARY_URL": ours.url, "HPCC_LIBRARY_TOKEN": TOKEN})
            assert done.returncode == 0, done.stderr
            judge = apptainer(argv, person)
            assert judge.returncode == 0, judge.stderr
            if argv[0] == "search":
                assert "library://lab/group/tools:1" in done.stdout and "library://lab/group/tools" in judge.stdout
    assert [(method, path) for method, path, _ in ours.changes] == [(m, path) for m, path, _ in theirs.changes]
    for (_, path, mine), (_, _, other) in zip(ours.changes, theirs.changes, strict=True):
        assert mine.items() <= other.items(), path
    assert ours.images == theirs.images == {("lab/group/tools", "2", ARCHITECTURE): image.read_bytes()}
