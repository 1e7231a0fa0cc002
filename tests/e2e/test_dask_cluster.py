"""HPCCCluster: Dask's scheduler here, its workers in containers, as root and as a plain user."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support import dask
from tests.support.dask import Programs
from tests.support.images import marked
from tests.support.people import Person
from tests.support.pulls import LAYERS, config_of


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        for name, (layers, config) in (
            ("dask", dask.dask_image()), ("python", dask.python_image()), ("bare", dask.bare_image()),
        ):  # fmt: skip
            running.add_image(f"lab/{name}", "1", layers, config)
        yield running


@pytest.fixture
def programs(runs_as: Person, registry: FakeRegistry) -> Iterator[Programs]:
    made = Programs(runs_as, registry)
    yield made
    made.end()


@pytest.fixture
def of_user(plain_user: Person, registry: FakeRegistry, open_dir: Path) -> Iterator[Programs]:
    """Of a plain user alone."""
    (open_dir / "home").mkdir()
    made = Programs(plain_user.at(open_dir / "home"), registry)
    yield made
    made.end()


def test_scale_adapt_and_what_is_shown(programs: Programs) -> None:
    """Cold, with one pull; results outlive the workers that made them."""
    before = programs.registry.counts["manifests"], len(programs.registry.requests)
    said = programs.run("""
        with HPCCCluster(image=IMAGE, **SMALL) as cluster, Client(cluster) as client:
            say(where=client.gather(client.map(inside, range(4), pure=False)), path=cluster.image.path)
            say(digest=cluster.image.digest, html=cluster._repr_html_(), link=cluster.dashboard_link)
            count = lambda: len(client.scheduler_info(n_workers=-1)["workers"])
            cluster.scale(8)
            client.wait_for_workers(8, timeout=60)
            held = client.map(lambda x: (x, os.urandom(4).hex()), range(16), pure=False)
            values = client.gather(held)
            cluster.scale(2)
            until(lambda: count() == 2 and len(cluster.workers) == 2)
            say(lost=values != client.gather(held))
            cluster.adapt(minimum=1, maximum=3, interval="100ms", wait_count=2, target_duration="500ms")
            futures = client.map(lambda x: time.sleep(0.3) or x, range(24), pure=False)
            until(lambda: count() == 3)
            say(sum=sum(client.gather(futures)))
            del futures, held
            until(lambda: count() == 1)
            say(logs=sorted(map(str, cluster.get_logs())))
            client.wait_for_workers(1)
    """)
    assert set(said["where"]) == {said["path"]} and "/sif-v1/" in said["path"]
    assert not said["lost"] and said["sum"] == sum(range(24))
    assert said["digest"] in said["html"] and said["link"].startswith("http://127.0.0.1:")
    assert {"Cluster", "Scheduler"} <= set(said["logs"]) and any("127.0.0.1" in name for name in said["logs"])
    pulled = [path for method, path in programs.registry.requests[before[1] :] if method == "GET" and "/blobs/" in path]
    assert len(pulled) == len(set(pulled)) == 4, "three layers and a config, once"


def test_a_worker_that_is_killed_is_replaced_to_a_bound(programs: Programs) -> None:
    said = programs.run("""
        how = {"compat": os.getuid() != 0, "max_restarts": 1}
        with HPCCCluster(image=IMAGE, **how, **SMALL) as cluster, Client(cluster) as client:
            futures = client.map(lambda x: time.sleep(0.2) or x * x, range(20), pure=False)
            time.sleep(0.5)
            first = cluster.workers[0].pid
            os.kill(first, signal.SIGKILL)
            say(all=sum(client.gather(futures)))
            until(lambda: 0 in cluster.workers and cluster.workers[0].pid not in (first, None))
            client.wait_for_workers(2, timeout=30)
            os.kill(cluster.workers[0].pid, signal.SIGKILL)
            until(lambda: 0 not in cluster.worker_spec)
            say(still=client.submit(lambda: 7, pure=False).result(), logs=cluster.get_logs()["Cluster"])
    """)
    assert said["all"] == sum(x * x for x in range(20)) and said["still"] == 7
    assert "is replaced" in said["logs"] and "not replaced any more" in said["logs"]


def test_a_scheduler_that_goes_away_takes_its_workers_along(programs: Programs) -> None:
    """With tasks that run yet: at the latest after the 30 s that Dask gives them, which a plain user waits for here."""
    seconds = 3 if programs.person.uid == 0 else 100
    argv = programs.argv(f"""
        clusters = [HPCCCluster(image=IMAGE, **SMALL, **how) for how in ({{}}, {{"compat": True}})]
        clients = [Client(cluster) for cluster in clusters]
        futures = [client.map(time.sleep, [{seconds}, {seconds} + 0.1]) for client in clients]
        until(lambda: all(sum(map(len, client.processing().values())) == 2 for client in clients))
        say(ready=True)
        time.sleep(100)
    """)
    with programs.person.popen(argv, env=programs.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("ready" in line for line in process.stdout)
        assert len(marked(programs.mark)) > 8
        process.kill()
    assert programs.nothing_is_left(10 + min(seconds, 30)), marked(programs.mark)


def test_contained_workers_spill_share_memory_and_are_configured(programs: Programs) -> None:
    said = programs.run("""
        def look(dask_worker):
            import multiprocessing, dask.config
            multiprocessing.Lock()
            path = os.path.join(dask_worker.local_directory, "spilled")
            open(path, "w").close()
            return [path, os.environ.get("DASK_OF_MINE"), dask.config.get("of-mine-too"), os.environ.get("SECRET"),
                    os.environ.get("GIVEN"), os.path.exists(os.path.expanduser("~/own")), os.path.exists("/own/mine")]

        import dask, pathlib
        own = pathlib.Path.home() / "own"
        own.mkdir(exist_ok=True)
        (own / "mine").touch()
        dask.config.set({"of-mine-too": [1, 2]})
        for name in ("contain", "compat"):
            given = {"local_directory": str(own / "spill"), "env": {"GIVEN": "a,b"}, "binds": [f"{own}:/own"]}
            with HPCCCluster(image=IMAGE, **given, **{name: True}, **SMALL) as cluster, Client(cluster) as client:
                (path, *rest), _ = client.run(look).values()
                say(**{name: [os.path.exists(path), *rest]})
    """, DASK_OF_MINE="yes", SECRET="no")  # fmt: skip
    assert said["contain"] == [True, "yes", [1, 2], "no", "a,b", False, True]
    assert said["compat"] == [True, "yes", [1, 2], None, "a,b", False, True]


def test_tls_and_asyncio(of_user: Programs) -> None:
    """Keys go in by standard input: no command line has them, nor has the environment."""
    said = of_user.run("""
        import asyncio, pathlib

        async def work():
            async with HPCCCluster(image=IMAGE, security=True, asynchronous=True, **SMALL) as cluster:
                async with Client(cluster, asynchronous=True) as client:
                    say(where=await client.submit(inside), scheduler=cluster.scheduler_address)
                    for path in pathlib.Path("/proc").glob(f"{cluster.workers[0].pid}/[ce][mn][dv]*"):
                        say(**{path.name: b"PRIVATE KEY" in path.read_bytes()})

        asyncio.run(work())
    """)
    assert said["scheduler"].startswith("tls://") and "/sif-v1/" in said["where"]
    assert said["cmdline"] is False and said["environ"] is False


def test_what_cannot_be_is_said_by_the_constructor(programs: Programs) -> None:
    """One message with the cause, in time, and without a process that stays. Also where nobody is asked to wait."""
    with FakeRegistry(quota=0) as spent:
        spent.add_image("lab/any", "1", LAYERS, config_of(LAYERS))
        host = programs.registry.host
        old = programs.person.home / "old-python"
        facts = {"python": [3, 7, 1], "libc": ["glibc", "2.28"], "modules": {"dask": "2", "distributed": "2"},
                 "missing": "", "prefix": "/usr", "path": [], "stdlib": "/usr/lib/python3.7"}  # fmt: skip
        old.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\n")
        old.chmod(0o755)
        bad = programs.person.home / "bad-python"
        bad.write_text("#!/bin/sh\ncase $1 in -c) exec python3 \"$@\";; *) echo 'no luck today' >&2; exit 3;; esac\n")
        bad.chmod(0o755)
        said = programs.run(
            f"""
            import asyncio
            HPCCCluster(image="docker://{host}/lab/dask:1", **SMALL).close()
            cases = dict(
                wrong=dict(image="docker://{host}/lab/missing:1"),
                file=dict(image="missing.sif"),
                bare=dict(image="docker://{host}/lab/bare:1"),
                python=dict(image="docker://{host}/lab/python:1"),
                network=dict(image="docker://127.0.0.1:9/lab/x:1"),
                quota=dict(image="docker://{spent.host}/lab/any:1"),
                old=dict(image=IMAGE, python="{old}"),
                bad=dict(image=IMAGE, python="{bad}"),
                option=dict(image=IMAGE, worker_options={{"preload": object()}}),
                never=dict(image="docker://{host}/lab/other:1", pull="never"),
            )
            for name, case in cases.items():
                begun = time.monotonic()
                try:
                    HPCCCluster(**SMALL, **case)
                except hpcc.HpccError as error:
                    say(**{{name: [str(error), "".join(getattr(error, "__notes__", ())), time.monotonic() - begun]}})

            async def later():
                try:
                    await HPCCCluster(image="missing.sif", asynchronous=True, **SMALL)
                except hpcc.HpccError as error:
                    say(later=str(error))

            asyncio.run(later())
            """,
            programs.uri(),
            HPCC_INSECURE=f"{host},{spent.host},127.0.0.1:9",
        )
    words = {
        "wrong": "lab/missing", "file": "missing.sif: No such file", "bare": "has no python3, which",
        "python": "has no Dask: ModuleNotFoundError", "network": "127.0.0.1:9", "quota": "quota",
        "old": "has Python 3.7.1, and this client is Python 3.", "bad": "no luck today", "option": "as JSON",
        "never": "lab/other",
    }  # fmt: skip
    for name, word in words.items():
        message, note, seconds = said[name]
        assert word in message and (name in ("option", "bad") or note), (name, message, note)
        assert seconds < (30 if name == "network" else 8), (name, seconds)
    assert "worker" in said["bad"][0] and "status 3" in said["bad"][0]
    assert "missing.sif" in said["later"]


def test_a_worker_that_cannot_start_later_is_told_of(of_user: Programs) -> None:
    """By scale, where nobody waits for it; the cluster goes on, and another try has another chance."""
    python = of_user.person.home / "python"
    good, bad = '#!/bin/sh\nexec python3 "$@"\n', "#!/bin/sh\necho 'the disk is full, say' >&2; exit 4\n"
    said = of_user.run(
        """
        import pathlib
        path, good, bad = sys.argv[2:]
        python = pathlib.Path(path)
        python.write_text(good)
        python.chmod(0o755)
        with HPCCCluster(image=IMAGE, python=path, **SMALL) as cluster, Client(cluster) as client:
            python.write_text(bad)
            cluster.scale(3)
            until(lambda: cluster.get_logs()["Cluster"])
            say(log=cluster.get_logs()["Cluster"], left=len(cluster.worker_spec))
            say(does=client.submit(sum, [1, 2]).result())
            python.write_text(good)
            cluster.scale(3)
            client.wait_for_workers(3, timeout=30)
            say(then=len(cluster.workers))
        """,
        of_user.uri(),
        str(python),
        good,
        bad,
    )
    assert "the disk is full, say" in said["log"] and "worker 2 has not started" in said["log"]
    assert (said["left"], said["does"], said["then"]) == (2, 3, 3)


def test_an_image_is_asked_once_about_its_python(of_user: Programs) -> None:
    """An answer that was good is remembered on the node; other options are another question."""
    python, asked = of_user.person.home / "python", of_user.person.home / "asked"
    python.write_text(f'#!/bin/sh\necho >> {asked}; exec python3 "$@"\n')
    python.chmod(0o755)
    said = of_user.run(
        """
        from hpcc_dask.command import container
        from hpcc_dask.images import pin
        from hpcc_dask.preflight import check
        image, asked = pin(IMAGE), []
        for env in ({}, {}, {"A": "1"}, {"A": "1"}):
            check(image, container(python=sys.argv[2], env=env))
            asked.append(len(open(sys.argv[3]).readlines()))
        say(asked=asked)
        """,
        of_user.uri(),
        str(python),
        str(asked),
    )
    assert said["asked"] == [1, 1, 2, 2]


def test_an_image_without_dask_has_the_clients(programs: Programs) -> None:
    prefix = str(dask.client().venv)
    said = programs.run(
        """
        def where():
            import distributed
            return [distributed.__file__, inside()]

        for name, overlay in (("true", True), ("path", sys.argv[2])):
            with HPCCCluster(image=IMAGE, overlay_env=overlay, compat=True, **SMALL) as cluster:
                say(**{name: cluster.get_client().submit(where).result()})
        try:
            HPCCCluster(image=IMAGE, overlay_env="/nowhere", **SMALL)
        except hpcc.HpccError as error:
            say(wrong=str(error))
        """,
        programs.uri("python"),
        prefix,
    )
    for name in ("true", "path"):
        assert said[name][0].startswith(prefix) and "/sif-v1/" in said[name][1]
    assert "/nowhere" in said["wrong"]
