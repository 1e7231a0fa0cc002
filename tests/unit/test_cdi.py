"""CDI specifications: parsed, refused, resolved, and turned into binds."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.errors import SettingsError, UsageError
from hpcc.runtime.binds import Bind
from hpcc.runtime.cdi import LIBRARIES, Edits, Spec, edits_as_binds, parse_spec, read_specs, resolve

LIB = "/usr/lib64"


def document(**changes: Any) -> dict[str, Any]:
    """Of the form that nvidia-ctk writes."""
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
            {"name": "GPU-5a-1", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
            {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}, {"path": "/dev/nvidia1"}]}},
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [{"path": "/dev/nvidiactl", "hostPath": "/drv/nvidiactl", "permissions": "rw"}],
            "mounts": [
                {"hostPath": "/drv/libcuda.so.5", "containerPath": f"{LIB}/libcuda.so.5", "options": ["ro", "rbind"]},
                {"hostPath": "/run/socket", "containerPath": "/run/socket"},
            ],
            "hooks": [
                {"hookName": "createContainer", "path": "/h", "args": ["h", "create-symlinks", "--link", "a::b"]},
            ],
        },
    } | changes  # fmt: skip


SPEC = parse_spec(document(), "/etc/cdi/nvidia.json")


def test_parse() -> None:
    assert (SPEC.path, SPEC.kind) == ("/etc/cdi/nvidia.json", "nvidia.com/gpu")
    assert [name for name, _ in SPEC.devices] == ["0", "GPU-5a-1", "all"]
    assert SPEC.edits.env == (("NVIDIA_VISIBLE_DEVICES", "void"),)
    assert SPEC.edits.nodes == (Bind("/drv/nvidiactl", "/dev/nvidiactl", device=True),)
    assert SPEC.edits.mounts == (
        Bind("/drv/libcuda.so.5", f"{LIB}/libcuda.so.5", readonly=True),
        Bind("/run/socket", "/run/socket"),
    )
    assert SPEC.edits.hooks == (("h", "create-symlinks", "--link", "a::b"),)


@pytest.mark.parametrize("version", ["0.3.0", "v0.5.0", "0.8.0", "1.0.0", "1.1.0"])
def test_versions(version: str) -> None:
    assert parse_spec(document(cdiVersion=version, kind="foo.bar.baz/foo-bar123.B_az"), "x")


def _edits(**edits: Any) -> dict[str, Any]:
    return {"containerEdits": edits}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cdiVersion": "0.2.0"}, "0.2.0"),
        ({"cdiVersion": "2.0.0"}, "2.0.0"),
        ({"cdiVersion": 0.5}, "cdiVersion"),
        ({"kind": "gpu"}, "vendor/class"),
        ({"kind": "vendor.com/foo/bar"}, "vendor/class"),
        ({"kind": "../../x/y"}, "vendor/class"),
        ({"devices": []}, "no devices"),
        ({"devices": {"name": "0"}}, "devices is not a list"),
        ({"devices": ["0"]}, "not an object"),
        ({"devices": [{"name": "0"}, {"name": "0"}]}, "'0'"),
        ({"devices": [{"name": "a=b"}]}, "'a=b'"),
        ({"containerEdits": [1]}, "containerEdits"),
        (_edits(env=["X"]), "NAME=VALUE"),
        (_edits(env="X=1"), "env"),
        (_edits(deviceNodes=[{"path": "dev/x"}]), "absolute"),
        (_edits(deviceNodes=[{"hostPath": "/dev/x"}]), "deviceNodes.path"),
        (_edits(mounts=[{"hostPath": "/x"}]), "containerPath"),
        (_edits(mounts=[{"hostPath": "/x\0", "containerPath": "/x"}]), "hostPath"),
        (_edits(mounts=[{"hostPath": "/x", "containerPath": "/\ud800"}]), "surrogates"),
        (_edits(mounts=[{"hostPath": "/x", "containerPath": "/y", "type": "tmpfs"}]), "tmpfs"),
        (_edits(hooks=[{"args": [1]}]), "hooks.args"),
    ],
)
def test_what_is_no_specification(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=r"^/etc/cdi/x\.json is not a CDI specification") as caught:
        parse_spec(document(**changes), "/etc/cdi/x.json")
    assert says in caught.value.message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.data())
def test_a_garbled_specification_parses_or_names_its_file(data: st.DataObject) -> None:
    garbled = document()
    holder: Any = garbled
    while isinstance(holder, dict | list) and holder:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(holder[key], dict | list):
            holder[key] = data.draw(_JSON)
            break
        holder = holder[key]
    try:
        spec = parse_spec(garbled, "/etc/cdi/x.json")
    except SettingsError as error:
        assert "/etc/cdi/x.json" in error.message
        return
    edits = resolve([spec], [f"{spec.kind}={spec.devices[0][0]}"])
    for bind in edits_as_binds(edits, {})[0]:
        assert bind.target.startswith("/") and ".." not in bind.target.split("/") and "\0" not in bind.source
        bind.target.encode()


@given(st.binary(max_size=200))
def test_bytes_that_are_none(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("cdi")
    paths = [directory / "x.json", directory / "x.yaml"]
    for path in paths:
        path.write_bytes(data)
    specs, wrong = read_specs([str(directory)])
    assert not specs and all(str(path) in error.message for path, error in zip(paths, wrong, strict=True))


# -- resolve -----------------------------------------------------------------------------------------------------


def test_resolve_takes_the_device_and_what_all_need() -> None:
    edits = resolve([SPEC], ["nvidia.com/gpu=0"])
    assert [bind.target for bind in edits.nodes] == ["/dev/nvidiactl", "/dev/nvidia0"]
    assert edits.env == SPEC.edits.env and edits.mounts == SPEC.edits.mounts
    assert resolve([SPEC], ["nvidia.com/gpu=GPU-5a-1"]) == edits
    assert resolve([SPEC], ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-5a-1"]) == edits


def _spec(path: str, kind: str, *names: str) -> Spec:
    return Spec(path, kind, Edits(), tuple((name, Edits(env=((name, path),))) for name in names))


def test_all_is_all_even_where_no_device_is_called_so() -> None:
    specs = [_spec("/etc/cdi/a", "v.com/c", "x", "y"), _spec("/etc/cdi/b", "v.com/other", "z")]
    assert [name for name, _ in resolve(specs, ["v.com/c=all"]).env] == ["x", "y"]


def test_a_later_directory_wins_and_one_directory_must_not_have_two() -> None:
    specs = [_spec("/etc/cdi/a", "v.com/c", "x", "y"), _spec("/run/cdi/a", "v.com/c", "x")]
    assert resolve(specs, ["v.com/c=x", "v.com/c=y"]).env == (("x", "/run/cdi/a"), ("y", "/etc/cdi/a"))
    with pytest.raises(UsageError, match="both /run/cdi/a and /run/cdi/b"):
        resolve([*specs, _spec("/run/cdi/b", "v.com/c", "x")], ["v.com/c=x"])


@pytest.mark.parametrize("device", ["nvidia.com/gpu=7", "nvidia.com/nic=0", "amd.com/gpu=all"])
def test_an_unknown_device_is_an_error_that_lists_the_known(device: str) -> None:
    with pytest.raises(UsageError, match="no such device") as caught:
        resolve([SPEC], [device])
    assert caught.value.hint == "There are: nvidia.com/gpu=0, nvidia.com/gpu=GPU-5a-1, nvidia.com/gpu=all."
    with pytest.raises(UsageError) as caught:
        resolve([], [device])
    assert "No CDI specification" in caught.value.hint


@pytest.mark.parametrize("device", ["", "0", "gpu=0", "nvidia.com/gpu", "nvidia.com/gpu=", "/dev/x", "a/b=c d"])
def test_what_is_no_device_name(device: str) -> None:
    with pytest.raises(UsageError, match="vendor/class=name"):
        resolve([SPEC], [device])


# -- binds -------------------------------------------------------------------------------------------------------


def _library(name: str) -> Bind:
    return Bind(f"/drv/{name}", f"{LIB}/{name}", readonly=True)


def test_libraries_are_where_the_loader_looks() -> None:
    mounts = (_library("libcuda.so.5"), _library("lib32.so.1"), Bind("/drv/nvidia-smi", "/usr/bin/nvidia-smi"))
    names = {"/drv/libcuda.so.5": ("libcuda.so.1", "libcuda.so.5")}
    binds, left_out = edits_as_binds(Edits(mounts=mounts, hooks=(("h", "update-ldcache", "--folder", LIB),)), names)
    assert binds[:3] == mounts and left_out == ()
    assert [bind.target for bind in binds[3:]] == [f"{LIBRARIES}/libcuda.so.1", f"{LIBRARIES}/libcuda.so.5"]
    assert all(bind.readonly and bind.source == "/drv/libcuda.so.5" for bind in binds[3:])


def test_links_become_mounts_of_what_they_lead_to() -> None:
    hooks = (
        ("nvidia-ctk", "hook", "create-symlinks", "--link", f"libcuda.so.1::{LIB}/libcuda.so",
         f"--link=../libcuda.so.5::{LIB}/gbm/nvidia-drm_gbm.so", "--link", f"libcuda.so.5::{LIB}/libcuda.so.1",
         "--link", f"libnone.so::{LIB}/lost.so", "--link", f"b::{LIB}/a", "--link", f"a::{LIB}/b"),
        ("nvidia-cdi-hook", "enable-cuda-compat", "--host-driver-version=5"),
    )  # fmt: skip
    binds, left_out = edits_as_binds(
        Edits(mounts=(_library("libcuda.so.5"),), hooks=hooks), {"/drv/libcuda.so.5": ("libcuda.so.5",)}
    )
    targets = {bind.target for bind in binds}
    assert {f"{LIB}/libcuda.so", f"{LIB}/libcuda.so.1", f"{LIB}/gbm/nvidia-drm_gbm.so"} < targets
    assert {f"{LIBRARIES}/{name}" for name in ("libcuda.so", "libcuda.so.1", "libcuda.so.5")} < targets
    assert {bind.source for bind in binds} == {"/drv/libcuda.so.5"}
    assert left_out[0].startswith("nvidia-cdi-hook enable-cuda-compat")
    assert set(left_out[1:]) == {f"create-symlinks {LIB}/{name}" for name in ("lost.so", "a", "b")}


# -- files -------------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(document(kind="b.com/c")))
    (tmp_path / "a.yaml").write_text(json.dumps(document(kind="a.com/c")))  # JSON is YAML
    (tmp_path / "notes.txt").write_text("{}")
    (tmp_path / "cut.json").write_text(json.dumps(document())[:-9])
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to("/dev/zero")
    specs, wrong = read_specs([str(tmp_path / "none"), str(tmp_path)])
    assert [spec.kind for spec in specs] == ["a.com/c", "b.com/c"]
    assert [Path(error.message.partition(".json")[0]).name for error in wrong] == ["cut", "deep", "folder", "link"]


YAML = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  mounts:
  - containerPath: /usr/bin/nvidia-smi
    hostPath: /usr/bin/nvidia-smi
    options: [ro, nosuid, nodev, bind]
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
"""


def test_yaml_where_pyyaml_is(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text(YAML)
    (spec,), wrong = read_specs([str(tmp_path)])
    assert spec.devices == (("0", Edits(nodes=(Bind("/dev/nvidia0", "/dev/nvidia0", device=True),))),) and not wrong
    for text in ("a: [", "!!bool x", "!!timestamp x", "? [a]\n: b", "&a [*a]", "cdiVersion: 2020-01-01"):
        (tmp_path / "nvidia.yaml").write_text(text)
        specs, (error,) = read_specs([str(tmp_path)])
        assert not specs and "nvidia.yaml" in error.message


def test_yaml_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "nvidia.yaml").write_text(YAML)
    specs, (error,) = read_specs([str(tmp_path)])
    assert not specs and "PyYAML" in error.message and "--format=json" in error.hint
