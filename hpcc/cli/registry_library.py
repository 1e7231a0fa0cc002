"""hpcc registry login and logout without a registry: the token of the library that library_url names."""

from hpcc.artifacts import token as token_of
from hpcc.cli import inform, say
from hpcc.cli.arguments import Arguments, Command, usage_error
from hpcc.cli.prompts import MAX_PASSWORD, ask_token, read_password
from hpcc.errors import SettingsError, UsageError
from hpcc.registry.librarytoken import find_token, read_tokens, remove_token, store_token, token_file
from hpcc.settings import Settings

VARIABLES = ("HPCC_LIBRARY_TOKEN", "APPTAINER_LIBRARY_TOKEN", "SINGULARITY_LIBRARY_TOKEN")


def login_library(command: Command, arguments: Arguments) -> int:
    if arguments.username:
        raise UsageError(
            "a library takes a token and no user name, and no registry is named",
            hint=f"For Docker Hub: hpcc registry login --username {arguments.username} docker.io",
        )
    if arguments.password_stdin and arguments.tokenfile:
        raise usage_error(command, "the token comes by --password-stdin or by --tokenfile")
    from hpcc.cli.library import connect, settings_for

    settings = settings_for(arguments, "a token is verified before it is stored")
    endpoint, path = settings.library_url.rstrip("/"), _place(settings)
    if arguments.tokenfile:
        token = _read_file(arguments.tokenfile)
    else:
        token = (read_password() if arguments.password_stdin else ask_token(endpoint)).strip()
    with connect(endpoint, settings, token=token) as library:
        is_known = library.check_token()
    store_token(path, endpoint, token)
    inform(arguments, f"Token of {endpoint} stored in {path} (for you alone, not encrypted)")
    if not is_known and not arguments.silent:
        say("WARNING", f"{endpoint} does not tell whether a token is good: the first push will")
    if token_of(settings, endpoint) != find_token(settings.environ, endpoint) and not arguments.silent:
        say("WARNING", f"{_variable(settings)} is set, and comes before what is stored")
    return 0


def logout_library(arguments: Arguments) -> int:
    settings = Settings.from_environ()
    endpoint = settings.library_url.rstrip("/")
    removed = remove_token(_place(settings), endpoint)
    inform(arguments, "Logout succeeded" if removed else f"hpcc has no token of {endpoint} to forget")
    if _variable(settings):
        inform(arguments, f"A token of {endpoint} is still found in {_variable(settings)}")
    return 0


def list_tokens(settings: Settings) -> list[tuple[str, str, bool]]:
    """(endpoint, where from, whether hpcc stored it) of each token, without it, in the order in which they count."""
    rows = [(settings.library_url.rstrip("/"), _variable(settings), False)] if _variable(settings) else []
    path = token_file(settings.environ)
    return [*rows, *((endpoint, path, True) for endpoint in sorted(read_tokens(path)))]


def _variable(settings: Settings) -> str:
    return next((name for name in VARIABLES if settings.environ.get(name)), "")


def _place(settings: Settings) -> str:
    path = token_file(settings.environ)
    if not path:
        raise SettingsError("there is no place for a token: HOME is not set", hint="Set HOME or XDG_CONFIG_HOME.")
    return path


def _read_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PASSWORD + 1)
        token = data.decode("ascii").strip()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or len(data) > MAX_PASSWORD:
        raise UsageError(f"{path} has no token", hint="It is one line of ASCII characters, and nothing else.")
    return token
