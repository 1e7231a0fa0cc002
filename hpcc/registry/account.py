"""Who one is at a registry: a value that shows its secrets to nobody who does not ask for them."""

import base64


class Credentials:
    """A user name and a password, or an OAuth2 refresh token (`identity_token`), or both.

    Compares and hashes by all three; its repr has the user name only.
    """

    __slots__ = ("identity_token", "password", "username")

    def __init__(self, username: str, password: str, identity_token: str = "") -> None:
        self.username, self.password, self.identity_token = username, password, identity_token

    @property
    def basic(self) -> str:
        """The value of an Authorization header behind the word Basic (RFC 7617, in UTF-8)."""
        return base64.b64encode(f"{self.username}:{self.password}".encode("utf-8", "surrogateescape")).decode()

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def _all(self) -> tuple[str, str, str]:
        return self.username, self.password, self.identity_token
