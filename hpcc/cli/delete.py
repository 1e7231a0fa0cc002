"""hpcc delete: an image in a library."""

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import UsageError
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "delete [OPTIONS] library://ENTITY/COLLECTION/NAME[:TAG]",
    "Have a library forget an image, which nobody can get from there afterwards. Asks before that. Images in the cache "
    "stay: `hpcc cache clean` forgets those.",
    (
        Option(("-A", "--arch"), "of this architecture, instead of this host's", "ARCH"),
        Option(("-F", "--force"), "do not ask"),
        Option(("--library",), "the library, instead of the setting library_url", "URL"),
        Option(("--no-https", "--nohttps"), "talk plain http to the host in library://HOST/…"),
    ),
    "hpcc delete --arch arm64 library://lab/group/tools:1.4",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "delete needs one image")
    (uri,) = arguments.positional
    scheme, mark, _ = uri.partition("://")
    if not mark or scheme != "library":
        raise UsageError(
            f"{uri[:200]}: hpcc deletes images of libraries alone",
            hint="library://ENTITY/COLLECTION/NAME:TAG. A SIF file goes by rm, what a registry has by its web pages.",
        )
    load_site_packages()
    from hpcc.cli.library import connect, parse_names, settings_for
    from hpcc.cli.prompts import is_confirmed
    from hpcc.oci.platform import Platform

    settings = settings_for(arguments, "deletes nothing elsewhere")
    names = parse_names(uri, settings)
    if len(names) != 1:
        raise UsageError(f"{uri}: one image is deleted at a time")
    (target,) = names
    arch = (Platform.parse(arguments.arch) if arguments.arch else Platform.host()).architecture
    question = f"Delete {target} for {arch} from {target.endpoint}?"
    if not arguments.force and not is_confirmed(question, "--force does not ask."):
        inform(arguments, "Nothing was deleted")
        return 0
    with connect(target.endpoint, settings) as library:
        library.delete(target.path, target.version, arch)
    inform(arguments, f"Deleted {target} for {arch} from {target.endpoint}")
    return 0
