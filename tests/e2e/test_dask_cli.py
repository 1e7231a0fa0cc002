"""`dask hpcc`, `hpcc pull --on dask:`, Dask's configuration, JupyterLab's factory, and SSHCluster's remote Python."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support.daemons import wait_until
from tests.support.dask import client, dask_image
from tests.support.driven import Driven, Raised
from tests.support.images import marked
from tests.support.people import SYSTEM_PATH, Person

MARK = "HPCC_TEST_MARK"


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        registry.add_image("dask", "1", *dask_image())
        yield registry


class Desk:
    """A person's shell, with hpcc[dask] on PATH. Each test has the caches of its own."""

    def __init__(self, person: Person, registry: FakeRegistry, stack: ExitStack) -> None:
        self.person, self.registry, self._stack = person, registry, stack
        self.image, self.mark = f"docker://{registry.host}/dask:1", f"{person.home}/{time.monotonic_ns()}"
        self.dask, self.hpcc = client().bin / "dask", client().hpcc
        self.env = {
            "PATH": f"{client().bin}:{SYSTEM_PATH}", "HPCC_INSECURE": registry.host, MARK: self.mark,
            "HPCC_HOLD_IDLE": "1", "COLUMNS": "80",
        }  # fmt: skip

    def run(self, *argv: str | os.PathLike[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        return self.person.run(argv, env={**self.env, **options.pop("env", {})}, timeout=120, **options)

    def start(self, *argv: str | os.PathLike[str], **options: Any) -> "subprocess.Popen[str]":
        process = self.person.popen(argv, env=self.env, stdin=subprocess.DEVNULL, text=True, **options)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def python(self, **env: str) -> Driven:
        log = self.person.home / f"python-{time.monotonic_ns()}.log"
        return self._stack.enter_context(Driven(self.person, client().python, log, {**self.env, **env}))

    def scheduler(self) -> str:
        """The address of a plain scheduler of the host's."""
        path = self.person.home / "scheduler.json"
        words = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", path]
        self.start(self.dask, "scheduler", *words, stderr=subprocess.DEVNULL)
        assert wait_until(lambda: path.exists() and path.read_text().strip().endswith("}"), 30)
        return str(json.loads(path.read_text())["address"])

    def nothing_is_left(self) -> None:
        assert wait_until(lambda: not marked(f"{MARK}={self.mark}"), 20), marked(f"{MARK}={self.mark}")


@pytest.fixture
def desk(plain_user: Person, open_dir: Path, registry: FakeRegistry) -> Iterator[Desk]:
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    with ExitStack() as stack:
        yield Desk(plain_user.at(home), registry, stack)


# -- dask hpcc ---------------------------------------------------------------------------------------------------------


def test_help_and_errors(desk: Desk) -> None:
    for words in ([], ["worker"], ["cluster"]):
        done = desk.run(desk.dask, "hpcc", *words, "--help")
        assert done.returncode == 0 and done.stdout.startswith("Usage: dask hpcc"), done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert not done.stderr
    for words, status, said in (
        (["worker", "/nowhere.sif", "tcp://127.0.0.1:1"], 255, "/nowhere.sif"),
        (["worker", desk.image, "--env", "NOT_SET", "tcp://127.0.0.1:1"], 255, "no such variable"),
        (["cluster", desk.image, "--cores", "2"], 255, "--cores: not without --on"),
        (["cluster", desk.image, "--on", "slurm", "--nthreads", "2"], 255, "--nthreads: not with --on"),
        (["cluster", desk.image, "--adapt", "3"], 255, "MIN:MAX"),
        (["cluster", f"docker://{desk.registry.host}/nothing:1"], 255, "nothing"),
        (["cluster", desk.image, "--n-workers", "0", "--scheduler-file", "/nowhere/x.json"], 255, "/nowhere/x.json"),
        (["worker", desk.image, "--local-directory", "/proc/nowhere", "tcp://127.0.0.1:1"], 255, "/proc/nowhere: No"),
    ):
        done = desk.run(desk.dask, "hpcc", *words)
        assert (done.returncode, done.stdout) == (status, ""), (words, done)
        assert said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_worker_joins_a_scheduler(desk: Desk) -> None:
    """With a clean environment, a directory to spill to, and options that go to Dask's worker; TERM ends all of it."""
    address, local = desk.scheduler(), desk.person.home / "local dir"
    words = ["--name", "in the image", "--nthreads", "3", "--memory-limit", "500MB", "--dashboard-address", ":0"]
    desk.env["TOKEN"] = "secret, and more"
    worker = desk.start(
        desk.dask, "hpcc", "worker", desk.image, "--compat", "--env", "TOKEN", "--local-directory", local,
        "--scheduler-file", desk.person.home / "scheduler.json", *words, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    python = desk.python()
    python(f"import os; from distributed import Client; client = Client({address!r}); client.wait_for_workers(1, 60)")
    python("def seen(dask_worker):\n    return [dask_worker.name, dask_worker.state.nthreads, os.environ['TOKEN'],"
           " os.path.exists('/.singularity.d'), dask_worker.local_directory]")  # fmt: skip
    [said] = python("client.run(seen)").values()
    assert said[:4] == ["in the image", 3, "secret, and more", True] and said[4].startswith(f"{local}/")
    assert "secret" not in "".join(
        Path(f"/proc/{pid}/cmdline").read_text() for pid in marked(f"{MARK}={desk.mark}") if pid != os.getpid()
    )
    worker.send_signal(signal.SIGTERM)
    worker.wait(30)
    assert wait_until(lambda: python("len(client.scheduler_info(n_workers=-1)['workers'])") == 0, 10)
    assert wait_until(
        lambda: not [each for each in marked(f"{MARK}={desk.mark}").values() if "dask_worker" in each], 10
    )


def test_a_cluster_until_its_end(desk: Desk) -> None:
    path = desk.person.home / "cluster.json"
    cluster = desk.start(
        desk.dask, "hpcc", "cluster", desk.image, "--n-workers", "2", "--nthreads", "1", "--memory-limit", "500MB",
        "--scheduler-file", path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert cluster.stdout and re.fullmatch(r"Scheduler at: tcp://\S+\n", cluster.stdout.readline())
    assert cluster.stdout.readline().startswith("Dashboard at: ")
    code = f"from distributed import Client; print(Client(scheduler_file={str(path)!r}).submit(sum, [1, 2]).result())"
    done = desk.run(client().python, "-c", code)
    assert done.stdout == "3\n", done.stderr
    cluster.send_signal(signal.SIGINT)
    assert cluster.wait(30) == 0 and not path.exists()
    cluster.stdout.close()
    desk.nothing_is_left()


# -- hpcc pull --on dask: ----------------------------------------------------------------------------------------------


def test_a_pull_on_a_worker(desk: Desk) -> None:
    """There, in this directory, with hpcc's variables and no other; its words and status come here."""
    address = desk.scheduler()
    words = ["--nthreads", "1", "--no-dashboard", "--name", "w", "--memory-limit", "0"]
    desk.env["MARK_OF_WORKER"] = "1"
    desk.start(desk.dask, "worker", address, *words, stderr=subprocess.DEVNULL)
    work = desk.person.home / "a dir"
    desk.run("mkdir", work)
    done = desk.run(desk.hpcc, "pull", "--on", f"dask:{address}", "x.sif", desk.image, cwd=work)
    assert done.returncode == 0, done.stderr
    assert (work / "x.sif").exists() and not [*work.glob("*.log")]
    assert desk.run(desk.hpcc, "exec", work / "x.sif", "python3", "-c", "print(6 * 7)").stdout == "42\n"
    done = desk.run(
        desk.hpcc, "pull", "--on", f"dask:{address}", "y.sif", f"docker://{desk.registry.host}/no:1", cwd=work
    )
    assert (done.returncode, done.stdout) == (255, "") and "/no: there is no image 1" in done.stderr
    assert "Traceback" not in done.stderr
    (work / "gone").mkdir()
    os.chown(work / "gone", desk.person.uid, desk.person.gid)
    script = f"cd {str(work / 'gone')!r} && rmdir ../gone && exec {desk.hpcc} pull --on dask:{address} {desk.image}"
    done = desk.run("sh", "-c", script)
    assert done.returncode == 255 and "Traceback" not in done.stderr, done.stderr


def test_nobody_to_pull(desk: Desk) -> None:
    desk.env["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "2s"
    for place, status, said in (
        ("dask", 255, "needs a scheduler's address"),
        ("dask:nonsense://x", 255, "knows no addresses of nonsense"),
        ("dask:tcp://127.0.0.1:1", 75, "no Dask scheduler answers at tcp://127.0.0.1:1"),
    ):
        done = desk.run(desk.hpcc, "pull", "--on", place, "x.sif", desk.image)
        assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = desk.run(desk.hpcc, "pull", "--on", f"dask:{desk.scheduler()}", "x.sif", desk.image)
    assert done.returncode == 75 and "has no worker" in done.stderr, done.stderr


# -- configuration -----------------------------------------------------------------------------------------------------


def test_the_section_hpcc(desk: Desk) -> None:
    """From YAML and from variables; the file is put there once, in comments."""
    config = desk.person.home / ".config/dask"
    python = desk.python(DASK_HPCC__CONTAIN="true", DASK_CONFIG=str(config))
    python("import dask\nfrom hpcc_dask.config import chosen")
    found = python("chosen({'nv': True, 'binds': ['/a']})")
    assert (found["contain"], found["nv"], found["binds"], found["python"]) == (True, True, ["/a"], "python3")
    text = (config / "hpcc.yaml").read_text()
    assert "# hpcc:" in text and all(line.startswith("#") for line in text.splitlines() if line.strip())
    (config / "hpcc.yaml").write_text("hpcc:\n  image: /a.sif\n  env: {A: 1}\n  jobqueue: {lifetime: 9m}\n")
    python = desk.python(DASK_CONFIG=str(config))
    python("from hpcc_dask.config import chosen, configured")
    found = python("{**chosen({}), 'lifetime': configured('jobqueue.lifetime')}")
    names = ("image", "env", "contain", "lifetime")
    assert [found[name] for name in names] == ["/a.sif", {"A": 1}, False, "9m"]
    assert "image: /a.sif" in (config / "hpcc.yaml").read_text()  # it stays the user's


def test_what_jupyterlab_makes(desk: Desk) -> None:
    """As the extension's manager does: the configured class, asynchronous, awaited, then scaled."""
    config = desk.person.home / ".config/dask"
    desk.run("mkdir", "-p", config)
    (config / "labextension.yaml").write_text(
        "labextension:\n  factory:\n    module: hpcc_dask\n    class: HPCCCluster\n    args: []\n"
        f"    kwargs: {{image: '{desk.image}', n-workers: 0, nthreads: 1, memory-limit: 500MB,"
        " dashboard-address: ':0'}\n"
    )
    python = desk.python(DASK_CONFIG=str(config))
    python("""
import asyncio, importlib, dask
from distributed import Client
async def make():
    factory = dask.config.get("labextension.factory")
    made = getattr(importlib.import_module(factory["module"]), factory["class"])
    kwargs = {key.replace("-", "_"): value for key, value in factory["kwargs"].items()}
    cluster = await made(*factory["args"], **kwargs, asynchronous=True)
    try:
        await cluster.scale(1)
        async with Client(cluster, asynchronous=True) as client:
            value = await client.submit(sum, [1, 2])
        info = cluster.scheduler_info
        return value, len(info["workers"]), cluster.dashboard_link, cluster.scheduler_address
    finally:
        await cluster.close()
found = asyncio.run(make())
""")
    value, workers, _, address = python("found")
    assert (value, workers) == (3, 1) and address.startswith("tcp://")


# -- other queues ------------------------------------------------------------------------------------------------------


def test_clusters_of_other_queues(desk: Desk) -> None:
    """Each is made, with the image pinned, and says what it would submit: there are no such queues here."""
    python = desk.python()
    python(f"""
import hpcc_dask, re
def script(queue, **more):
    made = getattr(hpcc_dask, f"HPCC{{queue}}Cluster")
    with made({desk.image!r}, cores=2, processes=1, memory="1 GiB", name="a-name", env={{"A": "$B"}}, **more,
              scheduler_options={{"dashboard_address": ":0"}}) as cluster:
        return cluster.job_script()
""")
    for queue, more, directive in (
        ("PBS", "account='x'", "#PBS -A x"),
        ("LSF", "project='x'", '#BSUB -P "x"'),
        ("SGE", "project='x'", "#$ -P x"),
        ("OAR", "project='x', memory_per_core_property_name='not_applicable'", "#OAR --project x"),
        ("HTCondor", "disk='1 GiB'", "RequestCpus = MY.DaskWorkerCores"),
    ):
        text = python(f"script({queue!r}, {more})")
        assert directive in text.splitlines(), text
        run = r"exec \S+/hpcc exec --job-env -- \S+/cache/sif-v1/\S+\.sif python3 -m distributed"
        assert re.search(rf"export HPCCENV_A='+\$(\(DOLLAR\))?B'+(;|\n)\s*{run}", text), text
    with pytest.raises(Raised, match="job_name='a b'"):
        python("script('PBS', job_name='a b')")


# -- ssh ---------------------------------------------------------------------------------------------------------------

_SSH = """
import asyncio, sys, types
class Stream:
    def __init__(self, stream): self.stream = stream
    async def readline(self): return (await self.stream.readline()).decode()
class Connection:
    async def run(self, command):
        process = await asyncio.create_subprocess_shell(command, stdout=-3)
        return types.SimpleNamespace(exit_status=await process.wait())
    async def create_process(self, command):
        commands.append(command)
        process = await asyncio.create_subprocess_shell(command, stdin=-3, stdout=-3, stderr=-1)
        processes.append(process)
        return types.SimpleNamespace(stderr=Stream(process.stderr), kill=process.terminate, wait_closed=process.wait)
    def close(self): pass
    async def wait_closed(self): pass
async def connect(host, **options): return Connection()
commands, processes = [], []
sys.modules["asyncssh"] = types.SimpleNamespace(connect=connect)
"""


def test_ssh_clusters_by_remote_python(desk: Desk) -> None:
    """Dask's own SSHCluster, whose connections here are a shell of this host's; sshd's would read the same words."""
    python = desk.python()
    python(_SSH)
    python(f"""
from distributed import Client, SSHCluster
from hpcc_dask import remote_python
words = remote_python({desk.image!r}, binds=["/etc:/mnt/a b"], contain=True)
""")
    assert re.fullmatch(
        r"\S+/hpcc exec --job-env --contain --bind '/etc:/mnt/a b' -- \S+\.sif python3", python("words")
    )
    python("cluster = SSHCluster(['localhost', 'localhost'], remote_python=words, worker_options={'nthreads': 1},"
           " scheduler_options={'port': 0, 'dashboard_address': ':0'})")  # fmt: skip
    python("import os\nclient = Client(cluster)\ndef seen():\n    return os.path.exists('/mnt/a b/passwd')")
    assert python("client.submit(seen).result(timeout=60)") is True
    assert python("len(commands)") == 2  # the scheduler's and the worker's, both in the image
    python("client.close(); cluster.close()")
    with pytest.raises(Raised, match="takes no env"):
        python(f"remote_python({desk.image!r}, env={{'A': '1'}})")
