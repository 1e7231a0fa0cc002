"""hpcc registry login, logout, list: accounts at registries, and a library's token. `hpcc remote` is the same."""

import json

from hpcc.cli import say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.group import Subcommand, dispatch
from hpcc.cli.prompts import ask_login, read_password
from hpcc.cli.registry_library import list_tokens, login_library, logout_library
from hpcc.errors import HpccError, InvalidReference, SettingsError, UsageError
from hpcc.oci.reference import Reference, api_host, canonical_registry
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.registry.credentials import ANY, Credentials, find_variables
from hpcc.registry.logins import list_logins, remove_login, store_login
from hpcc.registry.stores import foreign_stores, list_store, own_store
from hpcc.settings import Settings
from hpcc.version import __version__

if TYPE_CHECKING:
    from hpcc.registry.client import Registry

LOGIN = Command(
    "registry login [OPTIONS] [[docker://]HOST[/PATH]]",
    "Store an account for a registry, or for a part of it, once the registry has accepted it. Without HOST: the token "
    "of the library that library_url names, once the library has accepted it.",
    (
        Option(("-u", "--username"), "the account; asked for where it is missing", "NAME"),
        Option(("--password-stdin",), "read the password or token from stdin, instead of asking for it"),
        Option(("--tokenfile",), "read the library's token from this file", "FILE"),
        Option(("--no-https", "--nohttps"), "talk plain http to the registry"),
    ),
    "hpcc registry login --username ann docker://ghcr.io\n"
    "hpcc registry login -u '$oauthtoken' --password-stdin nvcr.io < ngc-key\n"
    "hpcc registry login --tokenfile ~/library-token",
)
LOGOUT = Command(
    "registry logout [[docker://]HOST[/PATH]]",
    "Forget the account that `hpcc registry login` has stored. Without HOST: the token of the library that library_url "
    "names.",
    (),
    "hpcc registry logout ghcr.io\nhpcc registry logout",
)
LIST = Command(
    "registry list [--json]",
    "Show the accounts that hpcc has or finds, without their passwords, in the order in which they count.",
    (Option(("-j", "--json"), "as JSON"),),
    "hpcc registry list",
)
SUBCOMMANDS = {
    "login": Subcommand("store an account, once the registry has accepted it", "hpcc.cli.registry", "login"),
    "logout": Subcommand("forget it", "hpcc.cli.registry", "logout"),
    "list": Subcommand("show the accounts that hpcc has or finds", "hpcc.cli.registry", "show"),
}
_PREFIXES = ("docker://", "oras://", "https://")


class Row(NamedTuple):
    """An account as `list` shows it. `helper`: the program that knows the user name; own: hpcc's to change."""

    registry: str
    username: str
    source: str  # a file, or a variable's name
    helper: str = ""
    own: bool = False


def main(name: str, argv: list[str]) -> int:
    example = "hpcc registry login --username ann docker://ghcr.io"
    return dispatch(name, argv, "Accounts at registries.", SUBCOMMANDS, example)


def login(argv: list[str]) -> int:
    """hpcc registry login"""
    _refuse_password(argv)
    arguments = parse(LOGIN, argv)
    if not arguments.positional:
        return login_library(LOGIN, arguments)
    host, path = _parse_scope(LOGIN, arguments)
    if arguments.tokenfile:
        raise usage_error(LOGIN, f"--tokenfile has a library's token, and {host} is a registry")
    if arguments.password_stdin and not arguments.username:
        raise usage_error(LOGIN, "--password-stdin needs --username")
    settings = Settings.from_environ()
    if arguments.no_https:
        settings = settings.replace(nohttps=True)
    if settings.offline:
        raise SettingsError(
            f"an account is verified before it is stored, and hpcc is offline ({settings.origins['offline']})",
            hint="Try again with HPCC_OFFLINE=false.",
        )
    store = _own_store(settings)
    if arguments.password_stdin:
        credentials = Credentials(arguments.username, read_password())
    else:
        credentials = ask_login(host, arguments.username or "")
    with registry_for_login(host, credentials, settings) as registry:
        registry.check_login(path)
    scope = f"{host}/{path}".rstrip("/")
    store_login(store, scope, credentials)
    if not (arguments.quiet or arguments.silent):
        say("INFO", f"Login for {scope} stored in {store} (for you alone, not encrypted)")
    for row in _variable_rows(settings):
        if row.registry in (host, ANY) and not arguments.silent:
            say("WARNING", f"{row.source} is set, and comes before what is stored")
            break
    return 0


def registry_for_login(host: str, credentials: Credentials, settings: Settings) -> "Registry":
    """A client for the registry itself, never for a mirror of it."""
    from hpcc.registry.client import Registry
    from hpcc.sources.docker import ca_files

    insecure = {canonical_registry(name) for name in settings.insecure}
    return Registry(
        api_host(host),
        scheme="http" if settings.nohttps else "insecure" if host in insecure else "https",
        credentials=credentials,
        user_agent=f"hpcc/{__version__}",
        ca_files=ca_files(api_host(host), settings),
    )


def logout(argv: list[str]) -> int:
    """hpcc registry logout"""
    arguments = parse(LOGOUT, argv)
    if not arguments.positional:
        return logout_library(arguments)
    host, path = _parse_scope(LOGOUT, arguments)
    scope = f"{host}/{path}".rstrip("/")
    settings = Settings.from_environ()
    removed = remove_login(_own_store(settings), scope)
    if arguments.quiet or arguments.silent:
        return 0
    say("INFO", "Logout succeeded" if removed else f"hpcc has no login for {scope} to forget")
    for row in (*_variable_rows(settings), *_file_rows(settings, warn=False)):
        if row.registry in (scope, ANY):
            say("INFO", f"An account for {scope} is still found in {row.source}")
    return 0


def show(argv: list[str]) -> int:
    """hpcc registry list"""
    arguments = parse(LIST, argv)
    if arguments.positional:
        raise usage_error(LIST, f"list takes no argument: {arguments.positional[0]}")
    settings = Settings.from_environ()
    own = _own_store(settings)
    rows = _variable_rows(settings)
    rows += [Row(entry.scope, entry.username, own, entry.helper, True) for entry in list_logins(own)]
    rows += _file_rows(settings, warn=not arguments.silent)
    rows += [Row(endpoint, "(token)", source, "", is_own) for endpoint, source, is_own in list_tokens(settings)]
    if arguments.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return 0
    if not rows:
        print("No accounts. `hpcc registry login HOST` stores one.")
        return 0
    print(f"{'REGISTRY':<32} {'USERNAME':<24} FROM")
    for row in rows:
        registry = "(any)" if row.registry == ANY else row.registry
        username = row.username or (f"(asked of {row.helper})" if row.helper else "")
        print(_printable(f"{registry:<32} {username:<24} {row.source}{'' if row.own else ' (read only)'}"))
    return 0


def _variable_rows(settings: Settings) -> list[Row]:
    return [Row(found.registry, found.credentials.username, found.name) for found in find_variables(settings.environ)]


def _file_rows(settings: Settings, *, warn: bool) -> list[Row]:
    """What the files of other programs have. Broken ones have nothing."""
    rows = []
    for path in foreign_stores(settings.environ, settings.environ.get("HOME", "")):
        try:
            rows += [Row(entry.scope, entry.username, path, entry.helper) for entry in list_store(path)]
        except HpccError as error:
            if warn:
                say("WARNING", error.message)
    return rows


def _own_store(settings: Settings) -> str:
    path = own_store(settings.environ, settings.environ.get("HOME", ""))
    if not path:
        raise SettingsError("there is no place for logins: HOME is not set", hint="Set HOME or XDG_CONFIG_HOME.")
    return path


def _parse_scope(command: Command, arguments: Arguments) -> tuple[str, str]:
    """(canonical registry, path or "") of the one argument."""
    if len(arguments.positional) > 1:
        raise usage_error(command, "only one registry can be given")
    given = text = arguments.positional[0]
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    host, _, path = text.rstrip("/").partition("/")
    if given.startswith("https://") and path in ("v1", "v2"):  # as Docker spells its own
        path = ""
    scope = f"{host}/{path}".rstrip("/")
    try:
        # With a repository behind it, so that what parses is what an image's reference can match.
        found = Reference.parse(f"docker://{scope}/x/y")
    except InvalidReference:
        found = None
    if found is None or found.registry.partition(":")[0] != canonical_registry(host).partition(":")[0]:
        raise UsageError(
            f"{given[:200]!r} is no registry",
            hint="Examples: quay.io, docker://ghcr.io, registry.example:5000/group. A name has a dot or a port.",
        )
    return found.registry, found.repository.removesuffix("x/y").rstrip("/")


def _refuse_password(argv: list[str]) -> None:
    for word in argv:
        if word.split("=")[0] == "--password" or (word.startswith("-p") and not word.startswith("--")):
            raise UsageError(
                "a password on the command line can be read by everybody on this host",
                hint="hpcc asks for it; or give --password-stdin, and the password on stdin. Change this one.",
            )


def _printable(text: str) -> str:
    """Names in files come from anybody; no terminal may take them for commands."""
    return "".join(character if character.isprintable() else "?" for character in text)
