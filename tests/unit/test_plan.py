"""The plan of a container: which operations, in which order."""

import pytest

from hpcc.runtime import plan
from hpcc.runtime.environment import RunConfig
from hpcc.runtime.plan import BindMount, Layer, Mount, describe, plan_container, plan_instance, plan_join
from hpcc.runtime.spec import Caller, Options, container_spec

CONFIG = RunConfig()


def make(uid: int = 1000, config: RunConfig = CONFIG, **options: object) -> tuple[plan.Op, ...]:
    caller = Caller(uid, uid, "alice", "/home/alice", "/home/alice", 0o022, {})
    spec = container_spec("docker://i", "/i.sif", config, Options(**options), "exec", ("true",), caller)  # type: ignore[arg-type]
    return plan_container(spec)


def mounts(ops: tuple[plan.Op, ...]) -> list[str]:
    return [op.target for op in ops if isinstance(op, Mount | BindMount)]


@pytest.mark.parametrize("options", [{}, {"contain": True}, {"containall": True}, {"compat": True}])
def test_order(options: dict[str, bool]) -> None:
    ops = make(**options)
    kinds = [type(op).__name__ for op in ops]
    assert kinds[-5:] == ["Accounts", "Pivot", "ChangeDirectory", "DropPrivileges", "Execute"]
    assert kinds[0] == "Layer"
    assert (kinds[1] == "Unshare") == bool({"containall", "compat"} & options.keys())
    assert kinds.count("DropPrivileges") == kinds.count("Pivot") == kinds.count("Layer") == 1


def test_proc_is_new_with_new_processes_only() -> None:
    assert BindMount("/proc", "/proc", device=True) in make(contain=True)
    assert Mount("proc", "/proc") in make(compat=True)


def test_dev() -> None:
    assert BindMount("/dev", "/dev", device=True) in make()
    for op in make(compat=True):
        if isinstance(op, BindMount) and op.device:
            assert op.source in {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    assert "/dev/mqueue" in mounts(make(compat=True)) and "/dev/mqueue" not in mounts(make(contain=True))


def test_knobs_are_read_only_for_root() -> None:
    for options in ({}, {"compat": True}):
        readonly = {op.target for op in make(0, **options) if isinstance(op, BindMount) and op.readonly}
        assert {"/sys", "/proc/sys", "/proc/sysrq-trigger"} <= readonly
        at = mounts(make(0, **options))
        assert at.index("/proc") < at.index("/proc/sys")


def test_points_leave_out_what_lies_below_another_mount() -> None:
    ops = make(binds=("/a:/b", "/c:/b/sub", "/d:/tmp/x", "/e:/bb"))
    (layer,) = [op for op in ops if isinstance(op, Layer)]
    paths = [point.path for point in layer.points]
    assert "/b" in paths and "/bb" in paths and "/b/sub" not in paths and "/tmp/x" not in paths
    assert plan.Point("/b", None, "/a") in layer.points
    order = mounts(ops)
    assert order.index("/b") < order.index("/b/sub")


def test_scripts_only_for_images_that_have_them() -> None:
    assert make()[-1].script == ""  # type: ignore[union-attr]
    assert ".singularity.d/env" in make(config=RunConfig(scripts=True))[-1].script  # type: ignore[union-attr]


def test_plans_are_values() -> None:
    assert make(compat=True) == make(compat=True) and hash(make())
    for op in make(compat=True):
        assert describe(op).startswith(type(op).__name__) and "\n" not in describe(op)
    assert "Execute true, " in describe(make()[-1])


def test_instances_have_process_1_and_a_name() -> None:
    caller = Caller(1000, 1000, "alice", "/home/alice", "/home/alice", 0o022, {})
    for options in (Options(), Options(compat=True, no_init=True)):
        spec = container_spec("docker://i", "/i.sif", CONFIG, options, "run", ("a",), caller)
        run, start = plan_instance(spec, "web", None), plan_instance(spec, "web", ("b",))
        for ops in (run, start):
            assert ops[1] == plan.Unshare(("pid", "ipc"), "", True) and Mount("proc", "/proc") in ops
            assert ("APPTAINER_INSTANCE", "web") in ops[-1].environment  # type: ignore[union-attr]
        assert run[:-1] == start[:-1] and isinstance(run[-1], plan.Execute)
        assert start[-1].arguments == ("b",) and "startscript b, " in describe(start[-1])  # type: ignore[union-attr]


def test_joining_does_what_comes_after_pivot() -> None:
    caller = Caller(1000, 1000, "alice", "/home/alice", "/work", 0o027, {})
    spec = container_spec("docker://i", "/i.sif", CONFIG, Options(), "exec", ("true",), caller)
    ops = plan_join(spec, "web", 17)
    assert [type(op).__name__ for op in ops] == ["Join", "ChangeDirectory", "DropPrivileges", "Execute"]
    assert ops[0] == plan.Join("web", 17) and ops[1] == plan.ChangeDirectory(("/work", "/home/alice", "/"))


def test_a_pid_namespace_that_nobody_asked_for_may_be_left_out() -> None:
    def implied(**options: object) -> tuple[str, ...]:
        (op,) = [op for op in make(**options) if isinstance(op, plan.Unshare)]
        return op.implied

    assert implied(compat=True) == implied(containall=True) == ("pid", "ipc")
    assert implied(compat=True, pid=True) == ("ipc",) and implied(pid=True, hostname="box") == ()
    for options in ({"compat": True}, {"containall": True, "hostname": "box"}):
        before = make(**options)
        after = plan.without_processes(before)
        assert BindMount("/proc", "/proc", device=True) in after and Mount("proc", "/proc") not in after
        (op,) = [op for op in after if isinstance(op, plan.Unshare)]
        assert "pid" not in op.kinds and "ipc" in op.kinds and not op.init
        kept = [op for op in before if not isinstance(op, plan.Unshare) and op != Mount("proc", "/proc")]
        assert kept == [op for op in after if op in kept]
    assert not [op for op in plan.without_processes(make(pid=True)) if isinstance(op, plan.Unshare)]


def test_knobs_are_a_users_own_business_under_fakeroot() -> None:
    """Whom the kernel does not let write to them: masks would keep containers inside from a /proc of their own."""
    assert "/proc/sys" not in mounts(make(1000, fakeroot=True)) and "/proc/sys" in mounts(make(0, fakeroot=True))
