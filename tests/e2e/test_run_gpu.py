"""--nv, --rocm and --device on a host that is made up: libraries, programs, a CDI specification and device nodes.

    bin/     nvidia-smi, rocminfo; ldconfig and nvidia-container-cli, which print what `lib` has
    lib/     libcuda.so.550.54 and its names, a library for another machine, ROCm's
    nodes/   nvidia0, nvidiactl: character devices 1:3, so what is written to them goes where /dev/null's does
    cdi/     nvidia.json, which names all of these

A /dev with GPUs in it is mounted in a namespace of the test's own, which only root can make; hpcc then runs there as
root and as a plain user.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import Images, images
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person

MODES = {
    "default": (),
    "contain": ("--contain",),
    "containall": ("--containall",),
    "compat": ("--compat",),
    "clean": ("--contain", "--cleanenv"),
}
EACH_MODE = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
CONTAINED = pytest.mark.parametrize("mode", list(MODES.values())[1:], ids=list(MODES)[1:])
NOTHING = "WARNING: Could not find any nv files on this host!\n"
LIBS = "/.singularity.d/libs"
# $1: a directory to mount on. What remains of /dev is what a container needs of it.
FAKE_DEV = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 dev "$1"
for n in null zero full random urandom tty fuse; do cp -a /dev/$n "$1/"; done
mkdir "$1/pts" "$1/shm" "$1/nvidia-caps" "$1/dri"
mount --rbind /dev/pts "$1/pts"
ln -s pts/ptmx "$1/ptmx"
ln -s /proc/self/fd "$1/fd"
for n in nvidia0 nvidia1 nvidiactl nvidia-uvm nvidia-caps/nvidia-cap1 kfd dri/card0 dri/renderD128 dri/by-path; do
    mknod -m 666 "$1/$n" c 1 3
done
mount --rbind "$1" /dev
shift
exec "$@"
"""


class Site:
    """The made-up host, and one person on it."""

    def __init__(self, top: Path, person: Person, installed: Installation) -> None:
        self.top, self.person, self.installed = top, person, installed
        for name in ("bin", "lib", "cdi", "nodes", "dev"):
            (top / name).mkdir()
        header = Path("/proc/self/exe").read_bytes()[:64]
        self.library("libcuda.so.550.54", header, "libcuda.so.1")
        self.library("libnvidia-ml.so.550.54", header, "libnvidia-ml.so.1")
        self.library("libnvidia-ptxjitcompiler.so.1", header[:4] + bytes([3 - header[4]]) + header[5:])
        self.library("libnvidia-container.so.1", header)
        self.library("libamdhip64.so.6", header)
        self.library("libamd_comgr.so.2", header)
        self.library("libhsa-runtime64.so.1", header)
        self.program("nvidia-smi", "echo smi")
        self.program("rocminfo", "echo rocminfo")
        self.env = {"PATH": f"{top}/bin:{SYSTEM_PATH}", "HPCC_CDI_DIRS": f"{top}/cdi", "HPCC_HOLD_IDLE": "0"}

    def library(self, name: str, data: bytes, *links: str) -> None:
        (self.top / "lib" / name).write_bytes(data)
        for link in links:
            (self.top / "lib" / link).symlink_to(name)

    def program(self, name: str, script: str) -> None:
        (self.top / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.top / "bin" / name).chmod(0o755)

    def ldconfig(self) -> None:
        lines = "".join(f"\t{name} (libc6) => {self.top}/lib/{name}\n" for name in sorted(os.listdir(self.top / "lib")))
        (self.top / "cache").write_text(lines)
        self.program("ldconfig", f"[ $1 = -p ] && cat {self.top}/cache")

    def container_cli(self, script: str = "") -> None:
        paths = [f"{self.top}/lib/libcuda.so.550.54", f"{self.top}/bin/nvidia-smi", "/no/such/socket"]
        self.program("nvidia-container-cli", script or f"printf '%s\\n' {' '.join(paths)}; echo $* >&2")

    def cdi(self, name: str = "nvidia.json", **changes: Any) -> None:
        top = self.top
        nodes = {name: {"path": f"/dev/{name}", "hostPath": f"{top}/nodes/{name}"} for name in ("nvidia0", "nvidiactl")}
        document = {
            "cdiVersion": "0.6.0",
            "kind": "nvidia.com/gpu",
            "devices": [
                {"name": name, "containerEdits": {"deviceNodes": [nodes["nvidia0"]]}} for name in ("0", "all", "GPU-a")
            ],
            "containerEdits": {
                "env": ["NVIDIA_VISIBLE_DEVICES=void", "FROM_CDI=yes"],
                "deviceNodes": [nodes["nvidiactl"]],
                "mounts": [
                    {"hostPath": f"{top}/lib/libcuda.so.550.54", "containerPath": "/usr/lib64/libcuda.so.550.54",
                     "options": ["ro", "nosuid", "nodev", "bind"]},
                    {"hostPath": f"{top}/bin/nvidia-smi", "containerPath": "/usr/bin/nvidia-smi", "options": ["ro"]},
                ],
                "hooks": [
                    {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook",
                     "args": ["nvidia-cdi-hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib64/libcuda.so"]},
                    {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook",
                     "args": ["nvidia-cdi-hook", "chmod", "--mode", "755"]},
                ],
            },
        } | changes  # fmt: skip
        (self.top / "cdi" / name).write_text(json.dumps(document))

    def nodes(self) -> None:
        for name in ("nvidia0", "nvidiactl"):
            os.mknod(self.top / "nodes" / name, 0o020666, os.makedev(1, 3))
            (self.top / "nodes" / name).chmod(0o666)

    def run(
        self, *argv: object, env: dict[str, str] | None = None, dev: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """hpcc; `dev`: where /dev has GPUs."""
        words: list[str] = [str(self.installed.hpcc), *map(str, argv)]
        environ = self.person.environ(self.env | (env or {}))
        command = self.person.argv(words)
        if dev:
            command = ["unshare", "-m", "sh", "-c", FAKE_DEV, "sh", f"{self.top}/dev", *command]
        return subprocess.run(
            command, env=environ, cwd=self.person.home, capture_output=True, text=True, timeout=120, check=False
        )

    def sh(self, image: Path, script: str, *flags: str, env: dict[str, str] | None = None, dev: bool = False) -> str:
        """What a script that must succeed, and about which there is nothing to say, prints."""
        done = self.run("exec", *flags, image, "sh", "-c", script, env=env, dev=dev)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture
def image() -> Images:
    return images()


@pytest.fixture
def site(open_dir: Path, runs_as: Person, installed: Installation) -> Site:
    top = open_dir / "site"
    top.mkdir()
    return Site(top, runs_as, installed)


# -- by CDI ------------------------------------------------------------------------------------------------------


@pytest.mark.root
@CONTAINED
@pytest.mark.parametrize("flags", [("--nv",), ("--device", "nvidia.com/gpu=0"), ("--nvccli",)], ids=" ".join)
def test_cdi(site: Site, image: Images, mode: tuple[str, ...], flags: tuple[str, ...]) -> None:
    site.nodes()
    site.cdi()
    script = f"""echo x > /dev/nvidia0 && echo x > /dev/nvidiactl && ls /dev/nvidia* {LIBS} /usr/lib64/libcuda*
        nvidia-smi; echo $FROM_CDI $NVIDIA_VISIBLE_DEVICES $LD_LIBRARY_PATH
        for f in {LIBS}/libcuda.so.1 /usr/bin/nvidia-smi; do (echo x >> $f) 2>/dev/null && echo $f is writable; done
        busybox cmp {LIBS}/libcuda.so.1 /usr/lib64/libcuda.so.550.54"""
    words = site.sh(image.main, script, *mode, *flags, env={"NVIDIA_VISIBLE_DEVICES": "all"}).split()
    assert words == [
        "/dev/nvidia0", "/dev/nvidiactl", "/usr/lib64/libcuda.so", "/usr/lib64/libcuda.so.550.54", f"{LIBS}:",
        "libcuda.so", "libcuda.so.1", "libcuda.so.550.54", "smi", "yes", "void", LIBS,
    ]  # fmt: skip
    assert site.sh(image.main, "echo $FROM_CDI", *mode, *flags, "--env", "FROM_CDI=mine") == "mine\n"


@pytest.mark.root
def test_cdi_by_what_is_visible(site: Site, image: Images) -> None:
    site.nodes()
    site.cdi()
    script = f"ls /dev | grep nvidia; ls {LIBS} | head -1"
    for value, expected in (
        ("none", ["nvidiactl"]),
        ("void", ["nvidia0", "nvidiactl"]),
        ("GPU-a", ["nvidia0", "nvidiactl"]),
        ("0", ["nvidia0", "nvidiactl"]),
    ):
        env = {"NVIDIA_VISIBLE_DEVICES": value}
        assert site.sh(image.main, script, "--nv", "--contain", env=env).split() == [*expected, "libcuda.so"]


@pytest.mark.root
def test_where_dev_is_the_hosts_a_moved_node_has_no_place(site: Site, image: Images) -> None:
    site.nodes()
    site.cdi()
    done = site.run("exec", "--nv", image.main, "true")
    assert done.returncode == 0 and "is passed over" in done.stderr and "/dev/nvidiactl" in done.stderr
    done = site.run("exec", "--device", "nvidia.com/gpu=0", image.main, "true")
    assert done.returncode == 255 and "/dev/nvidiactl" in done.stderr and "--contain" in done.stderr
    site.cdi(containerEdits={"deviceNodes": [{"path": "/dev/null"}], "env": ["A=1"]}, devices=[{"name": "all"}])
    assert site.sh(image.main, "echo $A", "--nv") == "1\n"


@pytest.mark.root
@pytest.mark.parametrize("kind", ["sandbox", "squashfs", "rooted"])
def test_other_images(site: Site, image: Images, kind: str) -> None:
    site.nodes()
    site.cdi()
    path = getattr(image, kind)
    script = f'echo $FROM_CDI; ls {LIBS}; echo "$LD_LIBRARY_PATH"; echo x > /dev/nvidia0'
    for mode in ("--contain", "--compat"):
        words = site.sh(path, script, "--nv", mode).split()
        assert words == ["yes", "libcuda.so", "libcuda.so.1", "libcuda.so.550.54", LIBS]


@pytest.mark.root
def test_an_unpacked_image(site: Site, image: Images) -> None:
    site.nodes()
    site.cdi()
    env = {"HPCC_ROOTFS": "unpacked"}
    assert site.sh(image.main, "nvidia-smi", "--nv", "--contain", env=env) == "smi\n"


def test_devices_that_are_not_there(site: Site, image: Images) -> None:
    done = site.run("exec", "--device", "nvidia.com/gpu=0", image.main, "true")
    assert done.returncode == 255 and "no such device" in done.stderr and "No CDI specification" in done.stderr
    site.cdi()
    done = site.run("exec", "--device", "nvidia.com/gpu=9", image.main, "true")
    assert done.returncode == 255 and "nvidia.com/gpu=0, nvidia.com/gpu=all, nvidia.com/gpu=GPU-a" in done.stderr
    done = site.run("exec", "--device", "nvidia.com/gpu=0", image.main, "true")
    assert done.returncode == 255 and f"not have {site.top}/nodes/nvidiactl" in done.stderr
    (site.top / "cdi/nvidia.json").write_text('{"cdiVersion": "0.6.0", "kind"')
    done = site.run("exec", "--device", "nvidia.com/gpu=0", image.main, "true")
    assert done.returncode == 255 and f"{site.top}/cdi/nvidia.json is not JSON" in done.stderr
    (site.top / "cdi/nvidia.json").rename(site.top / "cdi/nvidia.yaml")
    (site.top / "cdi/nvidia.yaml").write_text("cdiVersion: 0.6.0\n")
    done = site.run("exec", "--device", "nvidia.com/gpu=0", image.main, "true")  # in an installation without PyYAML
    assert done.returncode == 255 and "only where PyYAML is" in done.stderr and "--format=json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_specification_of_another_driver_is_passed_over(site: Site, image: Images) -> None:
    site.cdi()  # whose nodes are not there
    site.ldconfig()
    done = site.run("exec", "--nv", image.main, "nvidia-smi")
    assert (done.returncode, done.stdout) == (0, "smi\n")
    assert "is passed over" in done.stderr and "nvidia-ctk cdi generate" in done.stderr


# -- by nvidia-container-cli and the loader's cache --------------------------------------------------------------


@EACH_MODE
@pytest.mark.parametrize("way", ["cli", "cache"])
def test_libraries_and_programs(site: Site, image: Images, mode: tuple[str, ...], way: str) -> None:
    site.container_cli() if way == "cli" else site.ldconfig()
    done = site.run("exec", "--nv", *mode, image.main, "sh", "-c", f"ls {LIBS}; nvidia-smi; echo $LD_LIBRARY_PATH")
    assert done.returncode == 0, done.stderr
    libraries = ["libcuda.so.1", "libcuda.so.550.54"]
    if way == "cache":
        libraries += ["libnvidia-ml.so.1", "libnvidia-ml.so.550.54"]
    assert done.stdout.split() == [*libraries, "smi", LIBS]
    assert done.stderr == (
        "WARNING: the NVIDIA driver is installed on this host, but there is no GPU (/dev/nvidia0)\n"
        * (not os.path.exists("/dev/nvidia0"))
    )


def test_verbose_says_by_what(site: Site, image: Images) -> None:
    site.ldconfig()
    (site.top / "cdi/nvidia.yaml").write_text("a: [")
    done = site.run("exec", "-v", "--nv", image.main, "true")
    assert "INFO:    --nv goes by the loader's cache\n" in done.stderr and "nvidia.yaml" in done.stderr
    site.container_cli()
    assert "by nvidia-container-cli\n" in site.run("exec", "-v", "--nv", image.main, "true").stderr


@pytest.mark.root
def test_hooks_that_are_left_out(site: Site, image: Images) -> None:
    site.nodes()
    site.cdi()
    done = site.run("exec", "-v", "--nv", "--contain", image.main, "true")
    assert done.stderr.splitlines() == [
        "INFO:    --nv goes by CDI", "INFO:    CDI hook not run: nvidia-cdi-hook chmod --mode"
    ]  # fmt: skip


def test_a_tool_that_fails_is_no_obstacle(site: Site, image: Images) -> None:
    site.container_cli("echo nvml error: driver not loaded >&2; exit 1")
    site.ldconfig()
    done = site.run("exec", "--nv", "--contain", image.main, "ls", LIBS)
    assert done.returncode == 0 and "libnvidia-ml.so.1" in done.stdout.split() and "nvml" not in done.stderr


@pytest.mark.root
@EACH_MODE
def test_nodes(site: Site, image: Images, mode: tuple[str, ...]) -> None:
    site.ldconfig()
    script = "cd /dev; ls -d nvidia* nvidia-caps/* kfd dri/* && for n in nvidia* kfd; do [ -d $n ] || echo x > $n; done"
    everything = "nvidia0 nvidia1 nvidiactl nvidia-uvm nvidia-caps nvidia-caps/nvidia-cap1 kfd dri/card0 dri/renderD128"
    wanted = set(everything.split()) | ({"dri/by-path"} if not mode else set())
    assert set(site.sh(image.main, script, "--nv", "--rocm", *mode, dev=True).split()) == wanted
    if not mode:
        return
    assert site.sh(image.main, "ls /dev | grep -E 'nvidia|kfd|dri' | wc -l", *mode, dev=True) == "0\n"
    env = {"NVIDIA_VISIBLE_DEVICES": "1,7"}
    done = site.run("exec", "--nv", *mode, image.main, "sh", "-c", "ls -d /dev/nvidia[0-9c]*", env=env, dev=True)
    assert done.stdout.split() == ["/dev/nvidia1", "/dev/nvidiactl"]
    assert done.stderr == "WARNING: NVIDIA_VISIBLE_DEVICES names 7, which this host does not have\n"


@EACH_MODE
def test_rocm(site: Site, image: Images, mode: tuple[str, ...]) -> None:
    site.ldconfig()
    done = site.run("exec", "--rocm", *mode, image.main, "sh", "-c", f"ls {LIBS}; rocminfo")
    assert ("no GPU (/dev/kfd)" in done.stderr) == (not os.path.exists("/dev/kfd"))
    assert done.stdout.split() == ["libamd_comgr.so.2", "libamdhip64.so.6", "libhsa-runtime64.so.1", "rocminfo"]


# -- a host without GPUs -----------------------------------------------------------------------------------------


@EACH_MODE
def test_nothing_there_is_a_warning(site: Site, image: Images, mode: tuple[str, ...]) -> None:
    site.program("ldconfig", "exit 0")
    env = {"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "0"}
    done = site.run("exec", "--nv", *mode, image.main, "sh", "-c", "echo ran; exit 3", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (3, "ran\n", NOTHING)


@pytest.mark.parametrize("prefix", ["HPCC", "APPTAINER", "SINGULARITY"])
def test_variables_stand_for_the_options(site: Site, image: Images, prefix: str) -> None:
    site.program("ldconfig", "exit 0")
    env = {f"{prefix}_NV": "1", f"{prefix}_ROCM": "true"}
    done = site.run("exec", image.main, "true", env=env)
    assert (done.returncode, done.stderr) == (0, NOTHING + NOTHING.replace("nv", "rocm"))
    assert site.run("--silent", "exec", image.main, "true", env=env).stderr == ""
    assert site.sh(image.main, "true", env={f"{prefix}_NV": "0"}) == ""


def test_auto_never_warns(site: Site, image: Images) -> None:
    """HPCC_NV=auto: in a batch job without GPUs nothing happens, whatever the host has."""
    site.program("ldconfig", "exit 0")
    done = site.run("exec", image.main, "true", env={"HPCC_NV": "auto", "HPCC_ROCM": "auto", "SLURM_JOB_ID": "7"})
    assert (done.returncode, done.stderr) == (0, "")
    done = site.run("exec", image.main, "true", env={"HPCC_NV": "maybe"})
    assert done.returncode == 255 and "true, false or auto" in done.stderr


def test_dry_run_and_doctor_tell(site: Site, image: Images) -> None:
    site.ldconfig()
    site.cdi()
    (site.top / "cdi/broken.json").write_text("[]")
    lines = site.run("exec", "--dry-run", "--rocm", image.main, "true").stdout.splitlines()
    assert f"BindMount source='{site.top}/bin/rocminfo', target='/usr/bin/rocminfo', readonly=True" in lines
    devices = json.loads(site.run("doctor", "--json").stdout)["devices"]
    assert devices["cdi"] == {"nvidia.com/gpu": ["0", "all", "GPU-a"]} and devices["nv"] == "ldcache"
    assert ["broken.json" in text for text in devices["unreadable"]] == [True]
    text = site.run("doctor").stdout
    assert "nvidia.com/gpu=0, all, GPU-a" in text and "broken.json" in text


# -- a real GPU --------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@EACH_MODE
def test_a_real_gpu_answers(runs_as: Person, installed: Installation, image: Images, mode: tuple[str, ...]) -> None:
    """nvidia-smi in the container names the GPUs that it names on the host, and libcuda starts."""
    host = runs_as.run(["nvidia-smi", "-L"])
    inside = runs_as.run([installed.hpcc, "exec", "--nv", *mode, image.main, "nvidia-smi", "-L"])
    assert (inside.returncode, inside.stdout) == (host.returncode, host.stdout) and "GPU 0" in inside.stdout
    assert inside.stderr == ""
