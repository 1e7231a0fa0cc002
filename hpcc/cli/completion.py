"""hpcc completion: what a shell offers at the TAB key. The scripts are short; each asks hpcc, which asks --help.

    hpcc completion bash|zsh|fish       print the script
    hpcc completion words -- WORD…      what may stand in the last WORD's place; what the scripts call

The answer has a line for each candidate, WORD or WORD<TAB>what it does, and before them perhaps `:files` or `:dirs`:
names of such are to be offered too.
"""

import re

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.pages import Entry, Page, page_of
from hpcc.errors import HpccError
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = Command(
    "completion bash|zsh|fish",
    "Print the script by which a shell completes hpcc's commands, options, files and cached images.",
    (Option(("--words",), "print what may stand in the place of the last of the words behind --"),),
    "hpcc completion fish > ~/.config/fish/completions/hpcc.fish\n"
    'eval "$(hpcc completion bash)"    # in ~/.bashrc\n'
    'eval "$(hpcc completion zsh)"     # in ~/.zshrc, behind compinit',
)

BASH = r"""_hpcc() {
    local line=${COMP_LINE:0:COMP_POINT} kind= word cut
    local -a words
    read -ra words <<<"$line"
    [[ $line != *[[:space:]] ]] || words+=('')
    local current=${words[${#words[@]}-1]}
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        case $word in
            :files) kind=f ;;
            :dirs) kind=d ;;
            ?*) COMPREPLY+=("$word") ;;
        esac
    done < <("${words[0]}" completion --words -- "${words[@]:1}" 2>/dev/null)
    if [[ -n $kind ]]; then
        compopt -o filenames
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -"$kind" -- "$current")
    fi
    cut=${current%"${current##*[:=]}"}
    [[ -z $cut ]] || COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
complete -F _hpcc hpcc
"""
ZSH = r"""#compdef hpcc
_hpcc() {
    local line word about
    local -a found shown
    while IFS= read -r line; do
        case $line in
            :files) _files ;;
            :dirs) _files -/ ;;
            ?*)
                word=${line%%$'\t'*} about=${line#*$'\t'}
                found+=("$word")
                [[ $line == *$'\t'* ]] && shown+=("$word -- $about") || shown+=("$word") ;;
        esac
    done < <("${words[1]}" completion --words -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#found == 0 )) || compadd -l -d shown -a found
}
compdef _hpcc hpcc
"""
FISH = r"""function __hpcc_words
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] completion --words -- $words[2..-1] 2>/dev/null)
        switch $line
            case ':files'
                __fish_complete_path (commandline -ct)
            case ':dirs'
                __fish_complete_directories (commandline -ct)
            case '?*'
                echo $line
        end
    end
end
complete -c hpcc -f -a '(__hpcc_words)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

_IMAGES = ("IMAGE", "URI")
_DIRECTORIES = ("DIR",)
_NAMES = ("NAME", "GROUP", "USER", "N", "TEXT", "SECONDS", "MINUTES", "COMMAND", "ARG", "KIND", "ID", "KEY", "GLOB")


class Answer(NamedTuple):
    """What may stand there: (word, what it does) each. kind: files or dirs, "" for neither; images: cached ones too."""

    words: tuple[tuple[str, str], ...] = ()
    kind: str = ""
    images: bool = False


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if arguments.words:
        print("\n".join(_lines(arguments.positional or [""])))
        return 0
    if len(arguments.positional) != 1 or arguments.positional[0] not in SCRIPTS:
        raise usage_error(COMMAND, "completion needs the name of a shell: bash, zsh or fish")
    print(SCRIPTS[arguments.positional[0]], end="")
    return 0


def _lines(words: "Sequence[str]") -> list[str]:
    *before, current = words
    page, rest = _page(before)
    answer = answer_of(page, rest, current)
    prefix = f"{current.partition('=')[0]}=" if current.startswith("--") and "=" in current else ""
    value = current.removeprefix(prefix)
    lines = [f":{answer.kind}"] if answer.kind and not prefix and "://" not in current else []
    offered = [*answer.words, *((each, "in the cache") for each in (cached_images() if answer.images else ()))]
    return lines + [f"{prefix}{word}\t{about}" for word, about in offered if word.startswith(value)]


def _page(words: "Sequence[str]") -> tuple[Page, list[str]]:
    """The page of the command that the words name, and the words behind its name."""
    page, rest = page_of(()), list(words)
    assert page is not None  # hpcc's own
    while page.subcommands:
        at = next((index for index, word in enumerate(rest) if not word.startswith("-")), None)
        below = page_of((*page.words, rest[at])) if at is not None and rest[at] in dict(page.subcommands) else None
        if at is None or below is None:
            break
        page, rest = below, rest[at + 1 :]
    return page, rest


def answer_of(page: Page, before: "Sequence[str]", current: str) -> Answer:
    """What may stand behind the words `before` of a command, where `current` is typed. Pure."""
    table = {name: option for option in page.options for name in option.names}
    positional, queue = 0, list(before)
    while queue:
        word = queue.pop(0)
        option = table.get(word)
        if word.startswith("-") and word != "-" and not (positional and _ends_options(page)):
            if option is not None and option.value:
                if not queue:
                    return _value(option)
                queue.pop(0)
            continue
        positional += 1
    if page.subcommands:
        return Answer(page.subcommands if not positional else ())
    if positional and _ends_options(page):
        return Answer(kind="files")
    if current.startswith("-"):
        name, equals, _ = current.partition("=")
        if equals and name in table:
            return _value(table[name])
        return Answer(tuple((each, option.help) for option in page.options for each in option.names))
    return _positional(page, positional)


def _ends_options(page: Page) -> bool:
    """Whether all behind the first argument is the payload's."""
    return "[ARG…]" in page.usage


def _positional(page: Page, at: int) -> Answer:
    """By the usage line: `sif info [--json] ID FILE`, `shim enable|disable|status|env [--dir DIR]`."""
    usage = re.sub(r"\[-[^]]*\]|\[OPTIONS\]", " ", " ".join(page.usage.split()[len(page.words) :]))
    wanted = [re.sub(r"[\[\]…]", "", word) for word in usage.split() if word not in ("|", "--")]
    if not wanted:
        return Answer()
    word = wanted[min(at, len(wanted) - 1)]
    if word.islower():
        return Answer(tuple((each, "") for each in word.split("|"))) if at < len(wanted) else Answer()
    names = word.split("|")
    images = any(each in _IMAGES for each in names)
    if any(each in _DIRECTORIES for each in names):
        return Answer(kind="dirs")
    if not images and all(each in _NAMES for each in names):
        return Answer(_settings() if page.words == ("config",) else ())
    return Answer(kind="files", images=images)


def _settings() -> tuple[tuple[str, str], ...]:
    from hpcc.settings import KEYS

    return tuple((name, key.help) for name, key in KEYS.items())


def _value(option: Entry) -> Answer:
    """By the name of the value; where that is WHEN or the like, the help names what it may be."""
    first = re.split(r"[:\[]", option.value)[0]
    if first in _IMAGES:
        return Answer(kind="files", images=True)
    if first in _DIRECTORIES:
        return Answer(kind="dirs")
    if first in ("FILE", "PATH", "SRC"):
        return Answer(kind="files")
    if option.value == "WHEN":
        listed = re.split(r", | or ", option.help.rpartition(": ")[2])
        return Answer(tuple((each.split()[0], "") for each in listed if re.match(r"[a-z]+( \(.*\))?$", each)))
    return Answer()


def cached_images() -> list[str]:
    """docker://… for each tag that the user's caches know, as one types it; none where these cannot be looked into."""
    from hpcc.cache.refs import tag_names
    from hpcc.cli.cache.items import own_tiers

    try:
        names = {name for tier in own_tiers() for name in tag_names(tier)}
    except (HpccError, OSError):
        return []
    return sorted(f"docker://{re.sub('^docker.io/(library/)?', '', name)}" for name in names)
