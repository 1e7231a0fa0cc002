"""Whose objects are used.

A SIF in a place where others write is code that others run. So an object counts only when its owner, by fstat of
the opened file, is oneself, root, the owner of the cache's own directory, a named user, or a member of a named group
by the user database (not by the file's group, which any member can set). Never nobody: that is what NFS makes of
owners that it does not know.

Names stand in the settings and in the cache's policy.toml, which is believed only where the cache's owner or root
owns it and nobody else can write it:

    trusted_users = ["alice"]
    trusted_groups = ["lab"]
"""

import os
import stat

from hpcc.errors import CacheError

NOBODY = 65534


class Policy:
    """The owners that one cache trusts. Cheap to make; the user database is asked only for a stranger."""

    __slots__ = ("_groups", "_root", "_uids", "_users")

    def __init__(self, root: str, users: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> None:
        self._root, self._users, self._groups = root, users, groups
        self._uids = {os.getuid(), 0}
        try:
            self._uids.add(os.stat(root).st_uid)
        except OSError:
            pass
        self._uids.discard(NOBODY)

    def trusts(self, status: os.stat_result) -> bool:
        """Whether an object with this fstat may be used. An object that others may write never is."""
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022 or status.st_uid == NOBODY:
            return False
        return status.st_uid in self._uids or self.names_user(status.st_uid)

    def names_user(self, uid: int) -> bool:
        """Whether the settings or the cache's policy name this user, or a group of theirs."""
        users, groups = self.names()
        if not users and not groups:
            return False
        import grp
        import pwd

        try:
            user = pwd.getpwuid(uid)
        except KeyError:
            return False
        if user.pw_name in users:
            return True
        for name in groups:
            try:
                group = grp.getgrnam(name)
            except KeyError:
                continue
            if user.pw_gid == group.gr_gid or user.pw_name in group.gr_mem:
                return True
        return False

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The users and the groups that the settings and the cache's policy name. CacheError for a broken policy."""
        users, groups = self._users, self._groups
        path = os.path.join(self._root, "policy.toml")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return users, groups
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            owner = os.stat(self._root).st_uid
            if status.st_uid not in (owner, 0) or status.st_mode & 0o022 or not stat.S_ISREG(status.st_mode):
                return users, groups
            data = file.read(1 << 20)
        import tomllib

        try:
            policy = tomllib.loads(data.decode())
            users += _list_of_names(policy, "trusted_users")
            groups += _list_of_names(policy, "trusted_groups")
        except ValueError as error:
            raise CacheError(f"{path} does not parse: {error}", hint="Ask the cache's owner to mend it.") from None
        return users, groups


def _list_of_names(policy: dict[str, object], key: str) -> tuple[str, ...]:
    value = policy.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} is no list of names")
    return tuple(value)
