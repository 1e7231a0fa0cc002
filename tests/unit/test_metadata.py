"""What a SIF says about its image; the scripts are run by a real sh in tests/integration/test_convert.py."""

import json

import pytest

from hpcc import fstree, metadata
from hpcc.fstree import Node
from hpcc.metadata import EPOCH, Origin
from hpcc.oci.config import ImageConfig
from tests.support.layers import ORIGIN, image_config


def config(created: object = None, **more: object) -> ImageConfig:
    return ImageConfig.parse(json.dumps({"architecture": "amd64", "os": "linux", "created": created, **more}).encode())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-05-06T07:08:09Z", 1714979289),
        ("2024-05-06T07:08:09.987654321Z", 1714979289),
        ("2024-05-06T09:08:09.5+02:00", 1714979289),
        ("2106-02-07T06:28:15Z", 2**32 - 1),
    ],
)
def test_the_date_is_the_images_own(text: str, seconds: int) -> None:
    assert metadata.created(config(text)) == (text, seconds)


@pytest.mark.parametrize(
    "text",
    [None, "", "yesterday", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z",
     "2024-05-06T07:08:09", "2024-05-06",
     "2106-02-07T06:28:16Z", "2024-13-01T00:00:00Z", "2024-05-06T24:00:00Z", "20240506T070809Z",
     "2024-05-06 07:08:09Z", "2024-05-06T07:08:09+0100", "2024-05-06T07:08:09.Z0", "２024-05-06T07:08:09Z"],
)  # fmt: skip
def test_the_epoch_where_there_is_none(text: object) -> None:
    assert metadata.created(config(text)) == (EPOCH, 0)


def test_labels_have_digests_and_no_tag() -> None:
    found = metadata.labels(ORIGIN, image_config(Labels={"maintainer": "me", "org.label-schema.build-date": "forged"}))
    assert found["maintainer"] == "me"
    assert found["org.label-schema.build-date"] == "2024-05-06T07:08:09.123456789Z"
    assert found["org.label-schema.usage.singularity.deffile.from"] == f"{ORIGIN.name}@{ORIGIN.digest}"
    assert metadata.definition_file(ORIGIN) == f"bootstrap: docker\nfrom: {ORIGIN.name}@{ORIGIN.digest}\n".encode()


def test_each_part_of_the_origin_makes_another_key() -> None:
    keys = {ORIGIN.key, *(ORIGIN._replace(**{field: "other"}).key for field in Origin._fields)}
    assert len(keys) == 1 + len(Origin._fields)
    assert all(len(key) == 64 and not key.strip("0123456789abcdef") for key in keys)
    assert Origin("a", "b", "c", "d").key == Origin("a", "b", "c", "d").key
    assert Origin("a,b", "c", "d", "e").key != Origin("a", "b,c", "d", "e").key


def test_the_objects_say_exactly_what_the_image_says() -> None:
    env = ["PATH=/bin", "A='\"$x`y`\\\n", "NO_VALUE", "WITH=a=b", "ünï=ö", "EMPTY="]
    given = {
        "Env": env,
        "Entrypoint": ["/e", "a b", ""],
        "Cmd": ["$HOME"],
        "User": "1000:5",
        "WorkingDir": "/w",
        "Labels": {"a": "é"},
    }
    found = {name: json.loads(data) for name, data in metadata.objects(ORIGIN, image_config(**given), (0, 8))}
    assert found["oci-config.json"] == given
    assert list(found) == ["inspect-metadata.json", "oci-config.json", "hpcc.json"]
    assert found["hpcc.json"] == {
        "converter": ORIGIN.converter, "key": ORIGIN.key, "owners": [0, 8], "platform": "linux/amd64",
        "reference": f"{ORIGIN.name}@{ORIGIN.digest}",
    }  # fmt: skip
    attributes = found["inspect-metadata.json"]["data"]["attributes"]
    assert attributes["labels"] == metadata.labels(ORIGIN, image_config(**given))
    assert attributes["deffile"].startswith("bootstrap: docker\n")


def test_an_image_that_says_nothing() -> None:
    assert dict(metadata.objects(ORIGIN, image_config(), ()))["oci-config.json"] == b"{}"


@pytest.mark.parametrize("name", ["1A", "a-b", "a b", "", "ünï", "x;reboot", "$(x)", "a\nb"])
def test_names_that_no_shell_can_export_stay_out_of_the_script(name: str) -> None:
    assert metadata.environment_script(image_config(Env=[f"{name}=value"])) == "#!/bin/sh\n"


def test_our_directory_replaces_the_images_and_our_links_do_not() -> None:
    root = Node(fstree.DIRECTORY, 0o755)
    assert root.children is not None
    root.children |= {
        b".singularity.d": Node(fstree.SYMLINK, 0o777, target=b"etc"),
        b"environment": Node(fstree.REGULAR, 0o644, data=b"x"),
        b"etc": Node(fstree.DIRECTORY, 0o755),
    }
    metadata.add_directory(root, ORIGIN, image_config(), lambda data: data)
    found = dict(root.walk())
    assert found[b".singularity.d"].kind == fstree.DIRECTORY
    assert found[b"environment"].data == b"x"
    assert found[b"singularity"].target == b".singularity.d/runscript"
    assert found[b"etc"].children == {}
    for path, node in found.items():
        if path.startswith(b".singularity.d"):
            assert (node.uid, node.gid, node.mtime) == (0, 0, 1714979289)
        if node.kind == fstree.SYMLINK:
            assert node.target in found  # relative to the root, where each link lies
    assert found[b".singularity.d/runscript"].mode == 0o755
