"""Everything that hpcc raises on purpose.

Each error says what failed and on what (`message`), what to do next (`hint`), and with which
status the command line ends (`exit_code`): 255 for hpcc's own failures, as Apptainer; 75
(EX_TEMPFAIL) where the same command may succeed later without anybody changing anything.
"""

import errno

EX_FAILURE = 255
EX_TEMPFAIL = 75


class HpccError(Exception):
    """Base of all errors of hpcc; only the command line prints them."""

    exit_code = EX_FAILURE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(HpccError, ValueError):
    """The command line or an argument of the Python interface is wrong."""


class Unknown(UsageError):
    """A command, option or source that hpcc does not have; an Apptainer behind its stand-in may (cli/behind.py)."""


class SettingsError(HpccError, ValueError):
    """A settings file or variable does not parse, or sets what the site has locked."""


class InvalidReference(HpccError, ValueError):
    """An image reference or digest does not parse."""


class InvalidDefinition(HpccError, ValueError):
    """A definition file or Dockerfile does not parse; the message begins with FILE:LINE:COLUMN."""


class InvalidImage(HpccError, ValueError):
    """Bytes that are not what their format says: a layer, manifest, SquashFS or SIF."""


class Truncated(InvalidImage):
    """A SquashFS or SIF that ends before what it says is in it does: half-written, or a copy that was broken off."""


class UnsupportedImage(HpccError):
    """Well-formed, but nothing that hpcc can convert or run: schema 1, artifacts, other platforms."""


class IntegrityError(HpccError, ValueError):
    """Bytes do not have the size or digest that names them, also after another try."""


class RegistryError(HpccError):
    """A registry answered, and the answer is no."""


class AccessDenied(RegistryError, PermissionError):
    """401 or 403."""


class ImageNotFound(RegistryError, LookupError):
    """404, or a name that no registry has."""


class RateLimited(RegistryError):
    """429: the quota of this account, "" for the address, is spent.

    `wait`: seconds, where the registry names them; `words`: what it said; `remembered`: not to us, and not now.
    """

    exit_code = EX_TEMPFAIL

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        account: str = "",
        wait: float | None = None,
        words: str = "",
        remembered: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.account, self.wait, self.words, self.remembered = account, wait, words, remembered


class RegistryUnavailable(RegistryError, ConnectionError):
    """No network, a registry that does not answer, or 5xx to the end."""

    exit_code = EX_TEMPFAIL


class CacheError(HpccError):
    """The cache, or another place that hpcc writes to, is full, read-only or forbidden."""


class PolicyError(HpccError, PermissionError):
    """The site's settings forbid it."""


class LockTimeout(HpccError, TimeoutError):
    """Somebody else held the work for longer than --lock-wait."""

    exit_code = EX_TEMPFAIL


class RuntimeUnavailable(HpccError):
    """This host cannot run containers in the way that was asked for."""


class CommandNotFound(HpccError, LookupError):
    """The payload's command is missing in the image, or is not executable."""


def place_hint(error: OSError) -> str:
    """What to do where a file of the user's choice cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Choose a place with room."
    return "Choose a place where you may write."
