"""--security, parsed; who the payload is."""

import pytest

from hpcc.errors import UsageError
from hpcc.runtime.environment import RunConfig
from hpcc.runtime.plan import Confine, DropPrivileges, Filter, Op, describe, plan_container, plan_join
from hpcc.runtime.security import Security, identity, parse_security
from hpcc.runtime.spec import Caller, Container, Options, container_spec

CALLER = Caller(1000, 100, "alice", "/home/alice", "/home/alice", 0o022, {}, login_gid=100)


@pytest.mark.parametrize(
    ("items", "found"),
    [
        (["seccomp:/a/b.json"], Security("/a/b.json")),
        (["uid:5", "gid:6:7"], Security(uid=5, gids=(6, 7))),
        (["uid:5,gid:6"], Security(uid=5, gids=(6,))),
        (["uid:0"], Security(uid=0)),
        (["selinux:system_u:system_r:svirt_t:s0:c1,c2"], Security(selinux="system_u:system_r:svirt_t:s0:c1,c2")),
        (["selinux:a:s0:c1,c2,uid:5"], Security(selinux="a:s0:c1,c2", uid=5)),
        (["apparmor:docker-default", "seccomp:x"], Security("x", apparmor="docker-default")),
    ],
)
def test_words(items: list[str], found: Security) -> None:
    assert parse_security(items) == found


@pytest.mark.parametrize(
    "items",
    [[""], ["bogus:x"], ["seccomp"], ["seccomp:"], ["uid:"], ["uid:x"], ["uid:-1"], ["uid:4294967295"], ["uid:٣"],
     ["gid:5:x"], ["gid:"], ["uid:5", "uid:6"], ["selinux:a", "apparmor:b"], ["x,uid:5"]],
    ids=str,
)  # fmt: skip
def test_words_that_are_refused(items: list[str]) -> None:
    with pytest.raises(UsageError, match="--security"):
        parse_security(items)


def test_identity() -> None:
    assert identity(Security("x"), 1000, 100) is None
    assert identity(Security(uid=0), 1000, 100) == (0, (100,))
    assert identity(Security(gids=(5, 6)), 1000, 100) == (1000, (5, 6))


def spec(security: Security, **options: object) -> Container:
    chosen = Options(security=security, **options)  # type: ignore[arg-type]
    return container_spec("docker://i", "/i.sif", RunConfig(), chosen, "exec", ("true",), CALLER)


def test_who_is_in_the_account_file() -> None:
    assert spec(Security(uid=7, user="lp")).account[:3] == ("lp", 7, 100)
    assert spec(Security(gids=(5,))).account[:3] == ("alice", 1000, 5)
    assert spec(Security("x")).account[:3] == ("alice", 1000, 100)
    with pytest.raises(UsageError, match="--fakeroot"):
        spec(Security(uid=7), fakeroot=True)


def test_plan() -> None:
    security = Security("p.json", bytes(24), selinux="label", uid=7)
    container = spec(security)
    kinds = [type(op) for op in plan_container(container)]
    assert kinds.index(Confine) < kinds.index(DropPrivileges) < kinds.index(Filter) == len(kinds) - 2
    assert [op for op in plan_join(container, "web", 5) if isinstance(op, Confine | Filter)] == [
        Confine("label", ""),
        Filter("p.json", bytes(24)),
    ]

    def lines(*ops: Op) -> list[str]:
        return [describe(op) for op in ops]

    assert lines(Filter("p.json", bytes(24)), Confine("label", "")) == [
        "Filter profile='p.json', 3 instructions",
        "Confine selinux='label'",
    ]
    assert not {Confine, Filter} & {type(op) for op in plan_container(spec(Security(uid=7)))}
