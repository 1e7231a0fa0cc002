"""All that may answer for one image, as one: its mirrors in order, then the registry itself.

    mirror --no--> mirror --no--> registry

A mirror that fails, for whatever reason, is passed over; one that cannot be reached is not asked again.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from hpcc.errors import HpccError, ImageNotFound, IntegrityError, RegistryError, RegistryUnavailable, SettingsError
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.manifest import Descriptor
from hpcc.records import NamedTuple
from hpcc.registry.client import Registry, Resolved
from hpcc.registry.connections import Unreachable
from hpcc.registry.download import Place, fetch_blob
from hpcc.registry.limits import RateLimit
from hpcc.registry.sink import Sink
from hpcc.registry.transport import Blob

T = TypeVar("T")
MAX_FOREIGN = 4  # addresses of a layer that are tried


class Door(NamedTuple):
    """A registry, and the repository in which it has the image."""

    registry: Registry
    repository: str
    for_tags: bool = True
    for_digests: bool = True


class Upstream:
    """Where an image comes from. `name` is registry/repository, as people know it. The last door is the registry's.

    has_login: the user seems to have an account there, so what is asked for may be private.

    Safe to use from several threads. To be closed, or used in a with statement.
    """

    def __init__(self, name: str, doors: Sequence[Door], *, has_login: bool = False) -> None:
        self.name, self._doors = name, tuple(doors)
        self.has_login, self.private = has_login, False
        self.unreachable: dict[str, HpccError] = {}  # host -> what it met us with
        self._resolved: dict[str, Resolved] = {}

    def __enter__(self) -> "Upstream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for door in self._doors:
            door.registry.close()

    @property
    def hosts(self) -> tuple[str, ...]:
        """In the order in which they are asked."""
        return tuple(door.registry.host for door in self._doors)

    @property
    def account(self) -> str:
        """Who is counted by the registry itself: the account's name, "" for nobody's."""
        found = self._doors[-1].registry.account if self._doors and self.has_login else None
        return (found.username or "<token>") if found else ""

    @property
    def problem(self) -> SettingsError | None:
        """Why the user's account could not be found out, where that was tried in vain."""
        return next((door.registry.problem for door in self._doors if door.registry.problem), None)

    @property
    def quotas(self) -> Mapping[str, RateLimit]:
        """What the registry itself last said of the quota of each account, "" for none."""
        return self._doors[-1].registry.quotas if self._doors else {}

    def resolve(self, reference: str) -> Resolved:
        """What a tag or digest names now; see Registry.resolve. Asked once: an answer is kept as long as this lives."""
        if reference not in self._resolved:
            by_digest = ":" in reference
            doors = [door for door in self._doors if (door.for_digests if by_digest else door.for_tags)]
            self._resolved[reference] = self._ask(doors, lambda door: door.registry.resolve(door.repository, reference))
        return self._resolved[reference]

    def use_login(self) -> None:
        """The image is known to be private: the registry itself is asked with the account alone."""
        self.private = True
        for door in self._doors[-1:]:
            door.registry.use_login(door.repository)

    def manifest(self, digest: Digest) -> bytes:
        """The manifest or index with this digest, verified."""
        return self._ask(self._by_digest(), lambda door: door.registry.manifest(door.repository, digest))

    def fetch(self, descriptor: Descriptor, sink: Sink, begun: Verifier | None = None) -> None:
        """Stream a blob into `sink`; see fetch_blob. A layer with `urls` is sought there when nobody else has it."""
        places = [self._place(door, descriptor) for door in self._by_digest()]
        last = self._doors[-1]
        places += [
            partial(last.registry.foreign_blob, url, last.repository, descriptor)
            for url in descriptor.urls[:MAX_FOREIGN]
        ]
        fetch_blob(places, descriptor, sink, f"{descriptor.digest} of {self.name}", begun)

    def _place(self, door: Door, descriptor: Descriptor) -> Place:
        def open_blob(offset: int) -> Blob:
            try:
                return door.registry.blob(door.repository, descriptor, offset)
            except Unreachable as error:
                self.unreachable[door.registry.host] = error
                raise

        return open_blob

    def _by_digest(self) -> list[Door]:
        return [door for door in self._doors if door.for_digests and door.registry.host not in self.unreachable] or [
            self._doors[-1]
        ]

    def _ask(self, doors: Sequence[Door], question: Callable[[Door], T]) -> T:
        """The first good answer; else the last door's error, whose hint tells of the mirrors before it."""
        passed: list[str] = []
        for door in doors:
            host, last = door.registry.host, door is doors[-1]
            if host in self.unreachable:
                if last:
                    raise self.unreachable[host]
                passed.append(f"{host} (mirror): {self.unreachable[host].message}.")
                continue
            try:
                return question(door)
            except (RegistryError, IntegrityError) as error:
                if isinstance(error, RegistryUnavailable):
                    self.unreachable[host] = error
                if last:
                    error.hint = " ".join(filter(None, (error.hint, *passed)))
                    raise
                passed.append(f"{host} (mirror): {error.message}.")
        raise AssertionError("the registry itself is always asked")


class Offline(Upstream):
    """Nobody: whatever a cache does not have is missing. `why` names what keeps hpcc from asking.

    problem: an error that is raised instead, of a registry that does not answer.
    """

    def __init__(self, name: str, why: str, *, has_login: bool = False, problem: HpccError | None = None) -> None:
        super().__init__(name, (), has_login=has_login)
        self._why, self._problem = why, problem

    def resolve(self, reference: str) -> Resolved:
        raise self._missing(reference)

    def manifest(self, digest: Digest) -> bytes:
        raise self._missing(f"manifest {digest}")

    def fetch(self, descriptor: Descriptor, sink: Sink, begun: Verifier | None = None) -> None:
        raise self._missing(f"layer {descriptor.digest}")

    def _missing(self, what: str) -> HpccError:
        return self._problem or ImageNotFound(
            f"{self.name}: {what} is not in the cache, and no registry is asked ({self._why})",
            hint="Pull it once where there is a network, or allow that it is fetched. `hpcc cache why` tells more.",
        )
