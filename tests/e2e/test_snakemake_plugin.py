"""hpcc as a plugin of Snakemake's coming software deployment interface: the interface's own tests, and a small core.

Snakemake 9 cannot load such plugins yet, nor be installed beside the interface; see tests/support/plugin_core.py.
"""

import json
import shutil
import signal
import subprocess
import tarfile
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.cli.demo_image import build_demo_layers
from hpcc.oci.digest import Digest
from hpcc.registry.fake import FakeRegistry, Faults
from tests.support import installation
from tests.support.images import images, layer
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import config_of

SUPPORT = Path(__file__).resolve().parents[1] / "support"
NAME = "library/demo"


@pytest.fixture(scope="module")
def plugin() -> Installation:
    return installation.install(("snakemake-plugin",), pins="snakemake-plugin")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=6) as registry:
        yield registry


class Script:
    """Python code that has `core`, `left` and `uri`, in a directory of the person's, by the plugin's interpreter."""

    def __init__(self, person: Person, plugin: Installation, registry: FakeRegistry) -> None:
        self.person, self.plugin, self.registry = person, plugin, registry
        self.uri = f"docker://{registry.host}/{NAME}:1.0"
        self.work = person.home / "a wörk $dir"
        self.work.mkdir()
        person.at(self.work)
        shutil.copy(SUPPORT / "plugin_core.py", person.home)
        self.push("first")

    def push(self, which: str) -> str:
        """Have the tag name another image, which says so in /etc/which; the digest of its index."""
        entry = tarfile.TarInfo(), which.encode()
        layers = [*build_demo_layers().layers, layer({"etc/which": entry})]
        self.registry.add_image(NAME, "1.0", layers, config_of(layers), index=True)
        self.digest = str(Digest.of(self.registry.manifests[NAME, "1.0"][1]))
        return self.digest

    def command(self, code: str, *argv: str, **env: str) -> tuple[list[str], dict[str, Any]]:
        head = "import os, sys\nfrom plugin_core import Core, left\n"
        head += f"uri = {self.uri!r}\ncore = Core(*sys.argv[1:])\n"
        environ = {"HPCC_INSECURE": self.registry.host, "PYTHONPATH": str(self.person.home), **env}
        words = [str(self.plugin.python), "-c", head + textwrap.dedent(code), *argv]
        return words, {"env": environ, "cwd": self.work}

    def __call__(self, code: str, *argv: str, **env: str) -> "subprocess.CompletedProcess[str]":
        words, options = self.command(code, *argv, **env)
        return self.person.run(words, **options)

    def said(self, code: str, *argv: str, **env: str) -> list[str]:
        """What code that must end well has printed, line by line."""
        done = self(code, *argv, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def script(runs_as: Person, plugin: Installation, registry: FakeRegistry) -> Script:
    return Script(runs_as, plugin, registry)


# -- the interface's own tests ---------------------------------------------------------------------------------------


def test_the_interfaces_own_tests(script: Script) -> None:
    suite = shutil.copy(SUPPORT / "plugin_suite.py", script.person.home)
    report, scratch = script.person.home / "report.xml", script.person.home / "scratch"
    argv = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={script.person.home}"]
    done = script.person.run(
        [script.plugin.python, *argv, f"--basetemp={scratch}", f"--junitxml={report}", suite],
        env={"HPCC_INSECURE": script.registry.host, "TEST_IMAGE": script.uri, "TEST_FILE": str(images().main)},
        cwd=script.work,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    skipped, passed = {}, set()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.attrib['classname'].rpartition('.')[2]}::{case.attrib['name']}"
        skip = case.find("skipped")
        skipped |= {name: skip.attrib["message"]} if skip is not None else {}
        passed |= {name} if skip is None else set()
    assert skipped == {
        "TestOfRegistry::test_shellcmd": "Environment is deployable, using test_deploy instead.",
        "TestLocal::test_contains_executable": "Environment is not deployable.",
        "TestLocal::test_deploy": "Environment is not deployable.",
        "TestLocal::test_cache": "Environment either not deployable or not cacheable.",
        "TestLocal::test_pin": "Environment is not pinnable.",
    }
    names = {name.partition("::")[2] for name in passed}
    assert {"test_shellcmd", "test_contains_executable", "test_deploy", "test_cache", "test_pin"} < names
    assert len(passed) == 15


# -- pin, cache, deploy ----------------------------------------------------------------------------------------------


def test_pinned_cached_deployed_and_run(script: Script) -> None:
    """Two manifests are fetched, whatever is asked for how often; and what is deployed runs with nobody to ask."""
    digest = script.digest
    said = script.said("""
        one, two = (core.env(core.hpcc(image_uri=uri, binds=binds)) for binds in ([], ["/etc:/mnt"]))
        core.prepare(one, two)
        print(one.pinfile == two.pinfile, one.deployment_path == two.deployment_path, one.hash() == two.hash())
        print(one == two)
        print(one.pinfile.read_text(), end="")
        print(*left(), sep="\\n")
        done = core.run(one, "head -n 1 /etc/os-release; ls /mnt"), core.run(two, "ls /mnt/passwd")
        print([(each.returncode, each.stdout) for each in done])
    """)
    assert said[:2] == ["True True True", "False"]
    assert said[2] == f"docker://{script.registry.host}/{NAME}:1.0@{digest}"
    assert said[-1] == "[(0, 'ID=hpcc-demo\\n'), (0, '/mnt/passwd\\n')]"
    files = said[3:-1]
    asset, checksum, deployed, pin = files
    assert asset.startswith(f".snakemake/cache/hpcc/demo_{digest.replace(':', '.')}-")
    assert checksum == asset + ".sha256" and pin.endswith(".pin.txt")
    assert script.registry.counts["manifest_get"] == 2
    checked = script.person.run(["sha256sum", "-c", Path(checksum).name], cwd=(script.work / asset).parent)
    assert checked.stdout == f"{Path(asset).name}: OK\n"
    asked = list(script.registry.requests)
    shutil.rmtree(script.person.home / "cache")  # and so only Snakemake's own copy is left
    said = script.said("""
        env = core.env(core.hpcc(image_uri=uri))
        env.managed_remove()
        print(env.deployment_path.exists())
        core.prepare(env)
        print(os.path.relpath(os.path.realpath(env.deployment_path)), core.run(env, "id -u").stdout, end="")
        print([(each.name, each.version) for each in env.report_software()])
    """)
    assert said == ["False", f"{asset} {script.person.uid}", str([(script.uri, digest)])]
    assert (script.work / deployed).is_symlink() and script.registry.requests == asked


def test_a_deployment_of_hpccs_cache(script: Script) -> None:
    """Without Snakemake's copies a deployment is a link to the SIF in hpcc's cache; one that is gone is made anew."""
    code = """
        env = core.env(core.hpcc(image_uri=uri))
        core.prepare(env, pin=False)
        print(env.is_cacheable(), os.readlink(env.deployment_path), core.run(env, "exit 7").returncode)
    """
    said = script.said(code, "--sdm-hpcc-skip-cache")[0]
    assert said.startswith(f"False {script.person.home}/cache/sif-v1/") and said.endswith(".sif 7")
    listed = script.person.run([script.plugin.hpcc, "cache", "roots"])
    assert ".snakemake/deployments/hpcc/" in listed.stdout, listed
    shutil.rmtree(script.person.home / "cache/sif-v1")
    assert script.said(code, "--sdm-hpcc-skip-cache") == [said]


def test_damaged_copies_are_not_used(script: Script) -> None:
    code = """
        env = core.env(core.hpcc(image_uri=uri))
        core.prepare(env)
        print(core.run(env, "echo ran").stdout, end="")
        env.managed_remove()
    """
    assert script.said(code) == ["ran"]
    (asset,) = (script.work / ".snakemake/cache/hpcc").glob("*.sif")
    asset.chmod(0o755)
    with open(asset, "r+b") as file:
        file.seek(asset.stat().st_size // 2)
        file.write(b"damaged")
    done = script(code)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert f"{asset.name} is not used: it is not what its checksum says" in done.stderr
    asset.with_name(asset.name + ".sha256").unlink()
    asset.write_bytes(b"")
    shutil.rmtree(script.person.home / "cache")
    done = script("""
        env = core.env(core.hpcc(image_uri=uri))
        core.prepare(env, cache=False)
        print(core.run(env, "echo ran").stdout, end="")
    """)
    assert (done.returncode, done.stdout) == (0, "ran\n") and ".sha256: No such file" in done.stderr


def test_a_pin_stays_until_it_is_removed(script: Script) -> None:
    code = """
        env = core.env(core.hpcc(image_uri=uri))
        core.prepare(env)
        print(env.pinfile.read_text().strip().partition("@")[2], env.deployment_path.name)
        print(core.run(env, "cat /etc/which").stdout)
    """
    before = script.said(code, HPCC_TTL="0")
    digest = script.push("second")
    assert script.said(code, HPCC_TTL="0") == before and before[1] == "first"
    said = script.said("core.env(core.hpcc(image_uri=uri)).remove_pinfile()\n" + textwrap.dedent(code), HPCC_TTL="0")
    assert said[0].split()[0] == digest and said[1] == "second"
    assert said[0].split()[1] != before[0].split()[1]
    (pin,) = (script.work / ".snakemake/pins/hpcc").iterdir()
    pin.write_text("docker://other/image:1.0@" + said[0].split()[0])
    done = script(code)
    assert done.returncode != 0 and f"does not pin {script.uri}" in done.stderr and "Remove it" in done.stderr


def test_hpcc_lock_is_the_pin(script: Script) -> None:
    code = "env = core.env(core.hpcc(image_uri=uri))\ncore.prepare(env)\nprint(env.pinfile.read_text(), end='')"
    assert script.said(code)[0].endswith(script.digest)
    moved = script.push("second")
    environ = {"HPCC_INSECURE": script.registry.host, "HPCC_TTL": "0"}
    done = script.person.run([script.plugin.hpcc, "lock", script.uri], cwd=script.work, env=environ)
    assert done.returncode == 0, done.stderr
    said = script.said("""
        import asyncio
        env = core.env(core.hpcc(image_uri=uri))
        asyncio.run(env.pin())
        core.prepare(env)
        print(env.pinfile.read_text().strip().partition("@")[2], env.report_software()[0].version)
    """)
    assert said == [f"{moved} {moved}"]


# -- running ---------------------------------------------------------------------------------------------------------


ODD = "a, \"b\" 'c' $HOME `id` \\ ü\nd: e"
RUN = """
    import json
    case = json.loads(os.environ["CASE"])
    cmd, more = case.pop("cmd"), case.pop("more", {})
    env = core.env(core.hpcc(image_uri=uri, **case), **more)
    core.prepare(env, cache=False)
    done = core.run(env, cmd)
    print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""


def run(script: Script, cmd: str, *argv: str, environ: dict[str, str] | None = None, **case: object) -> list[object]:
    """Exit status, stdout and stderr of a command in an environment of these attributes."""
    (said,) = script.said(RUN, *argv, CASE=json.dumps({"cmd": cmd, **case}), **(environ or {}))
    return list(json.loads(said))


def test_quoting(script: Script) -> None:
    """Commands, binds, variables and arguments with what shells, CSV and commas make something of."""
    bound = script.work / ODD / 'bound, "too" $(id) ü'
    bound.mkdir(parents=True)
    for directory in (bound.parent, bound):
        script.person.at(directory)
        (directory / "file").write_text("found\n")
    script.work = bound.parent
    cmd = """set -eu
        printf '%s|' "$ODD" "${EMPTY-unset}" "$MORE" '"quoted" $ODD' "it's"  # ü
        cat file "/mnt/of, it/file"; echo $((1 + 1)) `echo back` \\\\
        test ! -w /x || exit 9
        printf '%s' "$PWD" """
    said = run(
        script,
        cmd,
        env={"ODD": f"1,2 {ODD}", "EMPTY": ""},
        binds=[str(bound).replace(":", "\\:") + ":/mnt/of, it", "/etc:/x:ro"],
        args=["--env", "MORE=it's $HOME"],
    )
    words = [f"1,2 {ODD}", "", "it's $HOME", '"quoted" $ODD', "it's"]
    assert said == [0, "|".join(words) + "|found\nfound\n2 back \\\n" + str(script.work), ""]


def test_contained(script: Script) -> None:
    """What Snakemake names is there in an empty image too, and flags are a rule's or the settings'."""
    (script.person.home / "of home").touch()
    cmd = f"""printf '%s,' "${{MINE-unset}}" "${{PASSED-unset}}"; touch made; test -e '{script.person.home}/of home'
        echo -n $?; touch /no 2>&1 || true; cat /dev/../mnt/x/hostname >/dev/null"""
    environ = {"MINE": "mine", "PASSED": "1,2 $x 'y'"}
    more = {"envvars": ["PASSED", "NOT_SET"]}
    kept = "mine,1,2 $x 'y',0touch: cannot touch '/no': Read-only file system\n"
    clean = "unset,1,2 $x 'y',"
    binds = ["/etc:/mnt/x:ro"]
    assert run(script, cmd, environ=environ, more=more, binds=binds) == [0, kept, ""]
    for argv, case, expected in (
        ([], {"compat": True, "binds": binds}, f"{clean}1"),
        (["--sdm-hpcc-compat", "--sdm-hpcc-binds", "/etc:/mnt/x", "/etc:/mnt/y"], {}, f"{clean}1"),
        (["--sdm-hpcc-compat"], {"compat": False, "binds": binds}, kept),
        (["--sdm-hpcc-args", "--cleanenv --bind '/etc:/mnt/x'"], {}, clean + kept.partition("'y',")[2]),
        ([], {"cleanenv": True, "binds": binds}, clean + kept.partition("'y',")[2]),
        ([], {"contain": True, "args": "--bind /etc:/mnt/x"}, kept.replace("'y',0", "'y',1")),
    ):
        (script.work / "made").unlink()
        assert run(script, cmd, *argv, environ=environ, more=more, **case) == [0, expected, ""], (argv, case)
        assert (script.work / "made").exists()


def test_gpus_are_asked_for(script: Script) -> None:
    """On a host without one that is a warning."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("this host has a GPU")
    status, said, warned = run(script, "echo ran", "--sdm-hpcc-nv", rocm=True)
    assert (status, said) == (0, "ran\n") and all(
        f"not find any {name} files" in str(warned) for name in ("nv", "rocm")
    )
    assert run(script, "echo ran", "--sdm-hpcc-nv", nv=False) == [0, "ran\n", ""]


def test_a_local_image_and_wildcards(script: Script) -> None:
    """A path runs as it is, wildcards are filled into every text, and a bool is none."""
    shutil.copy(images().main, script.work / "my image-a.sif")
    (script.work / "a").mkdir()
    said = script.said("""
        spec = core.hpcc(image_uri="my image-{x}.sif", binds=["{x}:/mnt/{x}"], env={"X": "{x}"}, nv=False,
                         args="--env Y={x}")
        env = core.env(spec, lambda text: text.format(x="a"))
        print(env.is_deployable(), env.is_pinnable(), env.is_cacheable(), str(spec))
        print(core.run(env, "ls -d /mnt/a; echo $X $Y").stdout.split())
        print(env.contains_executable("bash"), env.contains_executable("no such"), env == core.env(env.spec), left())
        print([(each.name, each.version[:7]) for each in env.report_software()])
    """)
    assert said == [
        "False False False my image-{x}.sif",
        "['/mnt/a', 'a', 'a']",
        "True False True []",
        "[('my image-a.sif', 'sha256:')]",
    ]


def test_the_hosts_standard_library_is_not_bound(script: Script) -> None:
    """Snakemake names all of sys.path to an environment."""
    said = script.said("""
        import pathlib, sysconfig
        library = pathlib.Path(sysconfig.get_path("stdlib"))
        env = core.env(core.hpcc(image_uri=uri))
        packages = pathlib.Path(sysconfig.get_path("purelib"))
        env.mountpoints += [library, library / "lib-dynload", packages, pathlib.Path("/no")]
        core.prepare(env)
        line = env.decorate_shellcmd("true")
        print(f"destination={library}" in line, str(packages) in line, "/no" in line)
        print(core.run(env, "true").returncode)
    """)
    assert said == ["False True False", "0"]


# -- what goes wrong -------------------------------------------------------------------------------------------------

FAILS = """
    from snakemake_interface_common.exceptions import WorkflowError
    env = core.env(core.hpcc(image_uri=os.environ.get("URI", uri)))
    for step in ((True, True), (False, True), (False, False)):
        try:
            core.prepare(env, pin=step[0], cache=step[1])
        except WorkflowError as error:
            print(error)
        else:
            print("nothing failed")
        print(left())
"""


def test_a_failure_says_why_and_leaves_nothing(script: Script) -> None:
    """With a pin, with a copy in Snakemake's cache, and without either."""
    name = f"docker://{script.registry.host}/library/no-such:1"
    said = "\n".join(script.said(FAILS, URI=name))
    assert said.count(f"{script.registry.host}/library/no-such: there is no image 1") == 3, said
    assert said.count("Is the name spelled right") == said.count("[]") == 3, said
    said = "\n".join(script.said(FAILS, URI="oras://some/where"))
    assert said.count("'oras://some/where' is not a docker:// reference") == said.count("[]") == 3, said
    with FakeRegistry(private=[NAME], username="ann", password="secret") as private:
        name = f"docker://{private.host}/{NAME}:1.0"
        said = "\n".join(script.said(FAILS, URI=name, HPCC_INSECURE=private.host))
    assert said.count("hpcc registry login") == said.count("[]") == 3, said


def test_a_spent_quota_is_said(script: Script) -> None:
    while script.registry.spend():
        pass
    said = script.said(FAILS)
    text = "\n".join(said)
    assert text.count("(429)") == 3 and "nothing failed" not in text, said
    (pin,) = (path for path in script.work.rglob("*") if path.is_file())  # by HEAD, which is not counted
    assert pin.name.endswith(".pin.txt") and said[-1] == str([str(pin.relative_to(script.work))])


def test_variables_that_no_shell_can_set(script: Script) -> None:
    done = script("core.env(core.hpcc(image_uri=uri, env={'A B': '1'})).decorate_shellcmd('true')")
    assert "WorkflowError: 'A B' is no name of a variable" in done.stderr


def test_an_interrupted_pull_leaves_nothing(script: Script) -> None:
    """The first Ctrl-C ends it, though asyncio would keep that until the pull is over; the next run goes on."""
    code = "env = core.env(core.hpcc(image_uri=uri))\ncore.prepare(env)\nprint(core.run(env, 'echo ran').stdout)"
    script.registry.faults = Faults(trickle=0.05, only="blobs")
    argv, options = script.command(code)
    process = script.person.popen(argv, **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not any("/blobs/" in path for _, path in script.registry.requests) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT and out == "" and "KeyboardInterrupt" in err, err
    (pin,) = (path for path in script.work.rglob("*") if path.is_file() or path.is_symlink())
    assert pin.name.endswith(".pin.txt")
    script.registry.faults = Faults()
    assert script.said(code)[0] == "ran"


def test_without_the_interface(runs_as: Person, installed: Installation) -> None:
    done = runs_as.run([installed.python, "-c", "import snakemake_software_deployment_plugin_hpcc"])
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and said == (
        "ImportError: hpcc's plugin for Snakemake needs the Python package "
        "snakemake_interface_software_deployment_plugins, which is not installed: pip install 'hpcc[snakemake-plugin]'"
    )
