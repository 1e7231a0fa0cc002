"""The reference, made of the code: pages by their name, as Markdown."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from hpcc import errors
from hpcc.cli import COMMANDS
from hpcc.cli.config import shown
from hpcc.cli.pages import Page, all_pages
from hpcc.settings import KEYS, Settings

ROOT = Path(__file__).resolve().parents[2]
_BY = "<!-- made by docs/site/reference.py -->\n"
_PACKAGES = (
    "hpcc",
    "hpcc_slurm",
    "hpcc_snakemake",
    "hpcc_dask",
    "hpcc_jupyter",
    "snakemake_software_deployment_plugin_hpcc",
)


def pages() -> dict[str, str]:
    found = list(all_pages())
    core = [page for page in found if not page.words or page.words[0] in COMMANDS]
    missing = {name for name, _ in found[0].subcommands} - {page.words[0] for page in found if page.words}
    lacking = f" Not here, since what they need is not installed where this was made: {', '.join(sorted(missing))}."
    return {
        "cli": _cli("Commands", "What `--help` says of each command.", core),
        "cli-integrations": _cli(
            "Commands of integrations",
            "They are there where their package is: see the extras of `pip install 'hpcc[…]'`."
            + (lacking if missing else ""),
            [page for page in found if page not in core],
        ),
        "python": _python(),
        "settings": _settings(),
        "exit-codes": _exit_codes(),
        "cache": _cache(),
    }


def _cli(title: str, about: str, found: list[Page]) -> str:
    parts = [f"# {title}\n\n{_BY}\n{about}\n"]
    parts += [f"## {page.name}\n\n```text\n{page.text.rstrip()}\n```\n" for page in found]
    return "\n".join(parts)


# -- settings, exit codes, the cache -------------------------------------------------------------------------


def _settings() -> str:
    defaults = Settings.from_environ({"HOME": "/home/you"}, site_file="/dev/null")
    lines = [
        "# Settings\n", _BY,
        "`hpcc config` shows their values, and where each comes from. A variable comes before the user's file",
        "(`~/.config/hpcc/config.toml`), that before the site's (`/etc/hpcc/config.toml`), whose table `[locked]`",
        "is final.\n",
    ]  # fmt: skip
    for name, key in KEYS.items():
        variables = ", ".join(f"`{each}`" for each in (f"HPCC_{name.upper()}", *key.variables))
        value = re.sub(r"/var/tmp/hpcc-\d+", "/var/tmp/hpcc-UID", shown(name, defaults)).replace("/home/you", "~")
        more = " What site, user and environment say counts together." if key.adds else ""
        lines.append(
            f"## {name}\n\n{key.help[0].upper()}{key.help[1:]}.{more}\n\n"
            f"* variable: {variables}\n* default: `{value}`\n"
        )
    return "\n".join(lines)


def _exit_codes() -> str:
    rows = [
        "| 0 | done |",
        "| 1 | a check found something: `doctor`, `cache verify`, `lock --outdated`, `shim status`, and others |",
        f"| {errors.EX_TEMPFAIL} | the same command may succeed later, though nobody changes anything |",
        "| 130 | interrupted (Ctrl-C) |",
        f"| {errors.EX_FAILURE} | hpcc itself failed, as Apptainer ends |",
        "| any other | the payload's own: hpcc *becomes* it; 128 + N where signal N ended it under `--compat` |",
    ]
    classes = [
        each for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, errors.HpccError) and each is not errors.HpccError
    ]  # fmt: skip
    named = [
        f"| `{each.__name__}` | {each.exit_code} | {_first(each.__doc__)} |" for each in sorted(classes, key=_line)
    ]
    return "\n".join([
        "# Exit codes\n", _BY, "| status | |", "|---|---|", *rows,
        "\n## Errors\n\nEach is an `hpcc.HpccError` with a message, a hint of what to do next, and a status.\n",
        "| error | status | |", "|---|---|---|", *named, "",
    ])  # fmt: skip


def _line(item: type) -> int:
    return inspect.getsourcelines(item)[1]


def _first(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def _cache() -> str:
    parts = [
        "# The cache's layout\n",
        _BY,
        "From the modules that write it, each the one place where its part is decided.\n",
    ]
    for path in sorted((ROOT / "hpcc/cache").glob("*.py"), key=lambda path: path.name != "layout.py"):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        if "\n    " in text:  # with a drawing
            parts.append(f"## {path.stem}\n\n{_fenced(text)}\n")
    return "\n".join(parts)


def _fenced(text: str) -> str:
    """Indented drawings become blocks, so that Markdown leaves them alone."""
    return re.sub(
        r"(?m)((?:^    .*\n?|^\n(?=    ))+)", lambda m: f"```text\n{inspect.cleandoc(m[1])}\n```\n", text + "\n"
    )


# -- Python, by reading the source: integrations need not be importable where the site is built -----------------


def _python() -> str:
    parts = [f"# Python\n\n{_BY}\nAll else is hpcc's own affair, and may change.\n"]
    for package in _PACKAGES:
        home = ROOT / package if package == "hpcc" else ROOT / "integrations" / package
        tree = ast.parse((home / "__init__.py").read_text())
        names = _public(tree)
        if not names:
            continue
        parts.append(f"## {package}\n\n{_prose(ast.get_docstring(tree) or '')}\n")
        for name in names:
            parts += _member(name, *_definition(name, tree, home))
    return "\n".join(parts)


def _public(tree: ast.Module) -> list[str]:
    """The names in __all__; without one, public classes and functions."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [name for name in ast.literal_eval(node.value) if not name.startswith("_")]
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def _definition(name: str, tree: ast.Module, home: Path) -> tuple[ast.stmt, ast.Module]:
    """Where `name` is defined, be it in the module that it is imported from. LookupError where it is nowhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node, tree
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            path = home.parent / f"{(node.module or '').replace('.', '/')}.py"
            if path.exists():
                return _definition(name, ast.parse(path.read_text()), home)
    raise LookupError(f"{home.name} has {name} in __all__, and it is defined nowhere")


def _member(name: str, node: ast.stmt, tree: ast.Module) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield f"### {name}\n\n```python\n{_signature(node)}\n```\n\n{_prose(ast.get_docstring(node) or '')}\n"
    elif isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        yield f"### {name}\n\n```python\nclass {name}{f'({bases})' if bases else ''}\n```\n\n"
        yield f"{_prose(ast.get_docstring(node) or '')}\n"
        fields = [
            f"* `{ast.unparse(item.target)}: {ast.unparse(item.annotation)}`"
            for item in node.body
            if isinstance(item, ast.AnnAssign)
        ]
        yield "\n".join([*fields, ""])
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and ast.get_docstring(item):
                yield f"```python\n{_signature(item, name)}\n```\n\n{_prose(ast.get_docstring(item) or '')}\n"


def _signature(node: ast.FunctionDef, owner: str = "") -> str:
    decorators = {ast.unparse(each) for each in node.decorator_list}
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = ast.unparse(node.args)
    name = f"{owner}.{node.name}" if owner else node.name
    if owner and "staticmethod" not in decorators:
        arguments = re.sub(r"^(self|cls)(, )?(/, )?", "", arguments)
    line = f"{name}{returns}" if "property" in decorators else f"{name}({arguments}){returns}"
    if len(line) <= 100:
        return line
    spread = ",\n    ".join(re.split(r", (?=(?:[^\[\](){}]*[\[({][^\[\](){}]*[\])}])*[^\[\](){}]*$)", arguments))
    return f"{name}(\n    {spread},\n){returns}"


def _prose(text: str) -> str:
    """A docstring as Markdown: what is indented, or code, in blocks; what Markdown would take for its own, escaped."""
    blocks = []
    for part in re.split(r"\n\n+", text):
        if re.match(r"(import|from) \w", part) or part.startswith("    "):
            blocks.append(f"```python\n{inspect.cleandoc(part)}\n```")
        else:
            blocks.append(re.sub(r"(?<![`\w])([*_<])", r"\\\1", part))
    return "\n\n".join(blocks)
