"""Dask's workers in an image as jobs of a real Slurm of three nodes."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemons import wait_until
from tests.support.dask import client, dask_image, python_image
from tests.support.docker_registry import DockerRegistry, make_certificate
from tests.support.driven import Driven, Raised, owned
from tests.support.images import marked
from tests.support.people import SYSTEM_PATH, Person
from tests.support.real import need
from tests.support.slurm import NODES, SlurmCluster

pytestmark = pytest.mark.root

MARK = "HPCC_TEST_MARK"
MAKE = """
from hpcc_dask import HPCCSLURMCluster
from distributed import Client
cluster = HPCCSLURMCluster({image!r}, cores=1, memory="1 GB", processes=1, nanny={nanny}, death_timeout=20,
    scheduler_options={{"dashboard_address": ":0"}}, {more})
client = Client(cluster)
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path_factory.mktemp("registry"), str(need("docker-registry"))) as registry:
        registry.push("dask", "1", *dask_image())
        registry.push("python", "1", *python_image())
        yield registry


class Site:
    """One person on the cluster, with a Python that has hpcc[dask], and a cold cache."""

    def __init__(self, slurm: SlurmCluster, person: Person, registry: DockerRegistry, stack: ExitStack) -> None:
        self.slurm, self.person, self.registry, self._stack = slurm, person, registry, stack
        self.image = f"docker://{registry.host}/dask:1"
        self.own: set[int] = set()
        self.mark = f"{person.home}/{time.monotonic_ns()}"
        self.env = {
            **slurm.env, "PATH": f"{client().bin}:{SYSTEM_PATH}", "HPCC_INSECURE": registry.host, MARK: self.mark,
            "HPCC_HOLD_IDLE": "1", "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s",
        }  # fmt: skip

    def python(self) -> Driven:
        log = self.person.home / f"python-{time.monotonic_ns()}.log"
        made = self._stack.enter_context(Driven(self.person, client().python, log, self.env))
        self.own.add(made.pid)
        return made

    def cluster(self, more: str = "", *, nanny: bool = False) -> Driven:
        python = self.python()
        python(MAKE.format(image=self.image, nanny=nanny, more=more))
        return python

    def queue(self) -> list[str]:
        done = self.slurm.run(["squeue", "--noheader", "--format=%i %T"], self.person)
        assert done.returncode == 0, done.stderr
        return sorted(str(done.stdout).splitlines())

    def nothing_is_left(self, seconds: float = 30) -> None:
        """No job, and no process but the Pythons that the test itself drives."""

        def left() -> list[str]:
            return [
                *self.queue(),
                *(each for pid, each in marked(f"{MARK}={self.mark}").items() if pid not in self.own),
            ]

        assert wait_until(lambda: not left(), seconds), left()


@pytest.fixture
def make_site(slurm: SlurmCluster, registry: DockerRegistry) -> Iterator[Callable[[Person], Site]]:
    with ExitStack() as stack:
        yield lambda person: Site(slurm, person, registry, stack)


@pytest.fixture
def site(make_site: Callable[[Person], Site], plain_user: Person, open_dir: Path) -> Site:
    """An unprivileged person's, who is the common case; one test is root's too."""
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    return make_site(plain_user.at(home))


def test_sixteen_workers_cost_one_pull(site: Site) -> None:
    """On three nodes, from a cold cache; the jobs ask the registry nothing, and end with the cluster."""
    before = len(site.registry.requests())
    python = site.cluster("contain=True, env={'GREETING': 'a \"$b\"'}, lifetime=False")
    pulled = site.registry.requests()[before:]
    layers = len(dask_image()[0])
    gets = [path for method, path, _ in pulled if method == "GET" and "/blobs/" in path]
    assert len(gets) == len(set(gets)) == layers + 1, pulled  # each layer, and the config, once
    assert sum("/manifests/" in path and method == "GET" for method, path, _ in pulled) == 1
    python("cluster.scale(16); client.wait_for_workers(16, timeout=240)")
    where = python("client.run(lambda: __import__('os').environ['SLURMD_NODENAME'])")
    assert len(where) == 16 and set(where.values()) == set(NODES)
    python("import os\ndef seen():\n    return os.environ['GREETING'], os.path.exists('/.singularity.d')")
    assert [*map(tuple, python("client.run(seen)").values())] == [('a "$b"', True)] * 16
    assert python("sum(client.gather(client.map(lambda n: n * n, range(100))))") == 328350
    assert site.registry.requests()[before + len(pulled) :] == []
    python("client.close(); cluster.close()")
    site.nothing_is_left()


def test_what_dies_is_made_up_for(site: Site) -> None:
    """A job that is cancelled: every task has its result. One that scale() ends takes no result with it."""
    python = site.cluster("walltime='00:05:00'", nanny=True)
    assert "--lifetime 270s --lifetime-stagger 15s" in python("cluster.job_script()")
    python("cluster.scale(3); client.wait_for_workers(3, timeout=120)")
    python(
        "import time\ndef slow(n):\n    time.sleep(0.5)\n    return n\nfutures = client.map(slow, range(30), retries=3)"
    )
    victim = site.queue()[0].split()[0]
    site.slurm.run(["scancel", victim], site.person)
    assert python("sum(client.gather(futures))") == sum(range(30))
    assert site.slurm.wait_job(victim).state == "CANCELLED"
    assert wait_until(lambda: python("len(client.scheduler_info(n_workers=-1)['workers'])") == 2, 20)
    count = site.person.home / "count"
    python(
        f"def noted(n):\n    open({str(count)!r}, 'a').write('x')\n    return n\nfutures = client.map(noted, range(40))"
    )
    assert python("sum(client.gather(futures))") == sum(range(40))
    python("cluster.scale(1)")
    assert wait_until(lambda: len(site.queue()) == 1, 30), site.queue()
    assert python("sum(client.gather(futures))") == sum(range(40))
    assert count.read_text() == "x" * 40  # a worker that goes hands on what it has: nothing is reckoned again
    python("cluster.close(); client.close()")
    site.nothing_is_left()


def test_a_lifetime_ends_a_job_before_its_walltime(site: Site) -> None:
    """A worker hands on what it has to the other, and its job ends by itself; by adapt a third one comes."""
    site.env["DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT"] = "5s"  # then a job that is still there is cancelled
    more = "walltime='00:02:00', lifetime='7s', worker_extra_args=['--lifetime-stagger', '3s']"
    python = site.cluster(more, nanny=True)
    python("cluster.adapt(minimum=2, maximum=2, interval='200ms'); client.wait_for_workers(2, timeout=60)")
    first = site.queue()[0].split()[0]
    python("import time\ndef slow(n):\n    time.sleep(0.4)\n    return n\nfutures = client.map(slow, range(40))")
    assert python("sum(client.gather(futures))") == sum(range(40))
    job = site.slurm.wait_job(first)
    assert job.state not in ("TIMEOUT", "CANCELLED"), job  # Python may end by SIGABRT where its machine is overloaded
    python("cluster.close(); client.close()")
    site.nothing_is_left()


def test_a_scheduler_that_goes_away_leaves_no_job(site: Site) -> None:
    """Killed with the process that made the cluster: nobody cancels the jobs; the workers end by themselves."""
    python = site.cluster(nanny=True)
    python("cluster.scale(2); client.wait_for_workers(2, timeout=120)")
    assert len(site.queue()) == 2
    python.kill()
    site.nothing_is_left(60)


@pytest.mark.parametrize(
    ("image", "kind", "said"),
    [
        ("docker://{host}/nothing:1", "ImageNotFound", "nothing"),
        ("/nowhere/x.sif", "", "/nowhere/x.sif"),
        ("docker://127.0.0.1:9/dask:1", "", "127.0.0.1:9"),
        ("docker://{host}/python:1", "UnsupportedImage", "has no Dask: ModuleNotFoundError"),
    ],
)
def test_a_wrong_image_queues_nothing(site: Site, image: str, kind: str, said: str) -> None:
    """One message, from the constructor, in time; there is no scheduler yet, and no job."""
    python, began = site.python(), time.monotonic()
    with pytest.raises(Raised) as raised:
        python(MAKE.format(image=image.format(host=site.registry.host), nanny=False, more="n_workers=2"))
    assert kind in str(raised.value) and said in str(raised.value) and "\n" not in str(raised.value)
    assert time.monotonic() - began < 20 and site.queue() == []
    assert not site.slurm.run(["squeue", "--noheader", "--states=all", f"--user={site.person.name}"]).stdout.count(
        "dask-worker"
    )


def test_an_asynchronous_cluster(site: Site) -> None:
    """The pull does not stop the loop."""
    python = site.python()
    python(f"""
import asyncio, time
from hpcc_dask import HPCCSLURMCluster
from distributed import Client
async def main():
    ticks, done = 0, False
    async def tick():
        nonlocal ticks
        while not done:
            ticks += 1
            await asyncio.sleep(0.01)
    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    began = time.monotonic()
    async with HPCCSLURMCluster({site.image!r}, cores=1, memory="400 MB", processes=1, n_workers=1, asynchronous=True,
                                scheduler_options={{"dashboard_address": ":0"}}) as cluster:
        pulled, seen = time.monotonic() - began, ticks
        async with Client(cluster, asynchronous=True) as client:
            value = await client.submit(lambda: 6 * 7)
    done = True
    await task
    return value, seen, pulled
value, ticks, pulled = asyncio.run(main())
""")
    value, ticks, pulled = python("[value, ticks, pulled]")
    assert value == 42 and ticks > 5 * pulled, (ticks, pulled)
    site.nothing_is_left()


def test_one_step_is_a_whole_cluster(site: Site) -> None:
    """HPCCRunner: task 0 schedules, task 1 runs the script, the others work in the image."""
    before = len(site.registry.requests())
    script = site.person.home / "script.py"
    script.write_text(f"""
import os
from distributed import Client
from hpcc_dask import HPCCRunner
made = HPCCRunner({site.image!r}, options={{"contain": True}}, nthreads=1, memory_limit="400MB")
with made as runner, Client(runner) as client:
    client.wait_for_workers(2, timeout=120)
    where = client.run(lambda: (os.environ["SLURM_PROCID"], os.path.exists("/.singularity.d")))
    print(sorted(where.values()), sum(client.gather(client.map(lambda n: n + 1, range(10)))), flush=True)
""")
    done = site.slurm.run(
        ["srun", "-n4", "--mem-per-cpu=400", "--kill-on-bad-exit=1", client().python, owned(script, site.person)],
        site.person, env=site.env, timeout=150,
    )  # fmt: skip
    assert done.stdout == "[('2', True), ('3', True)] 55\n", done.stderr
    gets = [path for method, path, _ in site.registry.requests()[before:] if "/blobs/" in path]
    assert len(gets) == len(set(gets))
    assert not [*site.person.home.glob("*.json")]
    site.nothing_is_left()


def test_packages_of_this_environment_and_tls(site: Site) -> None:
    """An image without Dask gets the client's, and certificates are in a container that has little else of the host."""
    site.image = f"docker://{site.registry.host}/python:1"
    directory = site.person.home / "a tls"
    directory.mkdir()
    found = make_certificate(directory)
    for path in (directory, *directory.iterdir()):
        owned(path, site.person)
    files = {"tls_ca_file": str(found.ca)}
    for role in ("scheduler", "worker", "client"):
        files |= {f"tls_{role}_cert": str(found.certificate), f"tls_{role}_key": str(found.key)}
    scratch = site.person.home / "scratch of a job"
    scratch.mkdir()
    site.env["TMPDIR"] = str(owned(scratch, site.person))
    python = site.python()
    python(f"from distributed import Security; security = Security(require_encryption=True, **{files!r})")
    more = "security=security, overlay_env=True, compat=True, n_workers=1, local_directory='$TMPDIR/dask 1'"
    python(MAKE.format(image=site.image, nanny=True, more=more))
    assert python("cluster.scheduler_address").startswith("tls://")
    assert python("client.submit(sum, [1, 2]).result(timeout=90)") == 3
    [local] = python("client.run(lambda dask_worker: dask_worker.local_directory)").values()
    assert local.startswith(f"{site.env['TMPDIR']}/dask 1/") and Path(local).is_dir()  # the host's disk, not memory
    python("client.close(); cluster.close()")
    site.nothing_is_left()


def test_the_command_line(site: Site) -> None:
    """`dask hpcc cluster --on slurm`: jobs by adapt, for as long as there is work; TERM ends it and them."""
    path = site.person.home / "cluster.json"
    words = ["--on", "slurm", "--cores", "1", "--memory", "1 GB", "--adapt", "0:2", "--scheduler-file", path]
    env = {**site.env, "DASK_JOBQUEUE__SLURM__SCHEDULER_OPTIONS": "{'dashboard_address': ':0'}"}
    argv = [client().bin / "dask", "hpcc", "cluster", site.image, *words]
    process = site.person.popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout and process.stdout.readline().startswith("Scheduler at: tcp://")
        assert site.queue() == []
        python = site.python()
        python(f"from distributed import Client; client = Client(scheduler_file={str(path)!r})")
        assert python("client.submit(sum, [1, 2]).result(timeout=90)") == 3
        assert len(site.queue()) in (1, 2)
        python("client.close()")
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()
    site.nothing_is_left()
