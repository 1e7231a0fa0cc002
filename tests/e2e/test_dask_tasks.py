"""Containerised commands as tasks of Dask's scheduler, and an image on each worker's node."""

import os
from pathlib import Path

import pytest

from tests.support import images
from tests.support.dask import Programs
from tests.support.people import Person


@pytest.fixture
def programs(runs_as: Person) -> Programs:
    return Programs(runs_as)


def test_a_pipeline_of_containers(programs: Programs) -> None:
    """Results, words that are results, an order, retries, a log, a bound in time, and what fails by its own words."""
    data = programs.person.home / "data"
    data.mkdir()
    programs.person.at(data)
    said = programs.run(
        """
        sh = ["sh", "-c"]
        log = sys.argv[2] + "/log"
        with LocalCluster(**ONE) as cluster, Client(cluster) as client:
            image = {"client": client, "image": IMAGE, "binds": [sys.argv[2] + ":/data"]}
            first = "printf 'b\\\\na\\\\n' > /data/in; echo /data/in"
            made = hpcc_dask.run(**image, cmd=[*sh, first], contain=True, log=log)
            sorted_ = hpcc_dask.run(**image, cmd=["sort", made], compat=True)
            late = hpcc_dask.run(**image, cmd=[*sh, "cat /data/in; echo told >&2"], after=[sorted_], log=log)
            say(sorted=sorted_.result(), late=late.result()._asdict())
            say(given=hpcc_dask.run(**image, cmd=["cat"], stdin="in", env={"A": "1,2"}).result().stdout)
            once = [*sh, "[ -e /data/once ] || { : > /data/once; echo not yet >&2; exit 3; }"]
            say(again=hpcc_dask.run(**image, cmd=once, retries=1).result().returncode)
            for name, how in (("status", dict(cmd=[*sh, "echo why >&2; exit 5"])), ("none", dict(cmd=["no-such"])),
                              ("slow", dict(cmd=["sleep", "60"], timeout=0.5))):
                try:
                    hpcc_dask.run(**image, **how).result()
                except hpcc_dask.TaskFailed as error:
                    say(**{name: [str(error), error.done.returncode]})
            say(status_only=hpcc_dask.run(**image, cmd=["false"], check=False).result().returncode)
            many = hpcc_dask.map(client, IMAGE, [["echo", str(x)] for x in range(6)])
            say(many=[done.stdout for done in client.gather(many)])
            say(logs=str(client.get_worker_logs()))
        wrong = {"image": dict(image="missing.sif", cmd=["true"]), "word": dict(image=IMAGE, cmd="true")}
        for name, wrong in wrong.items():
            try:
                hpcc_dask.run(None, **wrong)
            except hpcc.HpccError as error:
                say(**{name: str(error)})
        """,
        str(images.images().plain),
        str(data),
    )
    args, status, out, err, seconds, node = said["sorted"]
    assert (args, status, out, err, node) == (["sort", "/data/in"], 0, "a\nb\n", "", os.uname().nodename)
    assert seconds > 0 and said["late"]["stdout"] == "b\na\n" and said["late"]["stderr"] == "told\n"
    assert sorted((data / "log").read_text().splitlines()) == ["/data/in", "a", "b", "told"]
    assert said["given"] == "in" and said["again"] == 0 and said["status_only"] == 1
    assert "ended with status 5" in said["status"][0] and "why" in said["status"][0] and said["status"][1] == 5
    assert "no-such" in said["none"][0] and "not found in the image" in said["none"][0]
    assert "longer than 0.5 s" in said["slow"][0] and said["slow"][1] == 143
    assert said["many"] == [f"{x}\n" for x in range(6)]
    assert "sort /data/in" in said["logs"] and "status 5 after" in said["logs"]
    assert "missing.sif" in said["image"] and "list of words" in said["word"]


def test_a_worker_that_is_killed_leaves_no_container(programs: Programs) -> None:
    """And its task is done by the next."""
    said = programs.run(
        """
        def sleeps(pid):
            try:
                mark = os.environ["DASK_HPCC_TEST_MARK"].encode()
                line = open(f"/proc/{pid}/cmdline", "rb").read()
                return line.startswith(b"sleep") and mark in open(f"/proc/{pid}/environ", "rb").read()
            except OSError:
                return False

        def sleeping():
            return [pid for pid in os.listdir("/proc") if pid.isdigit() and sleeps(pid)]

        with LocalCluster(**ONE) as cluster, Client(cluster) as client:
            for name in ("plain", "compat"):
                starts = os.path.expanduser(f"~/starts/{name}")
                os.makedirs(os.path.dirname(starts), exist_ok=True)
                script = f"echo x >> {starts}; [ $(wc -l < {starts}) -gt 1 ] || exec sleep 300"
                how = {"compat": True, "binds": [os.path.dirname(starts)]} if name == "compat" else {}
                future = hpcc_dask.run(client, IMAGE, ["sh", "-c", script], **how)
                until(sleeping)
                (pid,) = client.run(os.getpid).values()
                os.kill(pid, signal.SIGKILL)
                say(**{name: future.result(timeout=60).returncode})
                until(lambda: not sleeping())
        """,
        str(images.images().plain),
    )
    assert said == {"plain": 0, "compat": 0}


def test_the_image_is_on_the_node_of_each_worker(programs: Programs) -> None:
    """Once for its workers, and there for those that come later."""
    said = programs.run(
        """
        with LocalCluster(**{**ONE, "n_workers": 2}) as cluster, Client(cluster) as client:
            client.register_plugin(hpcc_dask.HPCCPlugin(IMAGE))
            cluster.scale(3)
            client.wait_for_workers(3)
            until(lambda: len(client.get_events("hpcc")) == 3)
            say(events=[event for _, event in client.get_events("hpcc")])
            say(out=hpcc_dask.run(client, IMAGE, ["echo", "staged"], args=["--stage", "node"]).result().stdout)
        """,
        str(images.images().plain),
    )
    copies = {event["staged"] for event in said["events"]}
    assert len(copies) == 1 and said["out"] == "staged\n"
    (copy,) = copies
    assert copy.startswith(str(programs.person.home / "node/staged-v1"))
    assert Path(copy).read_bytes() == images.images().plain.read_bytes()
