"""What mkdocs calls while it builds the site (mkdocs.yml): pages that are made of the code, README and workflows/.

index.md                    README.md
reference/*.md              reference.py, next to this file
workflows/**                READMEs as pages, all other files as they are
CONTRIBUTING.md, …          of the repository's root, and packaging/README.md
adr/                        in the navigation, by their titles
assets/iframe-worker.js     search where the site is read from a disk: see there
"""

import json
import posixpath
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import material
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "integrations"), str(Path(__file__).parent)]

import reference  # noqa: E402

_ELSEWHERE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=['\"]?(?:https?:)?//[^>]*>")
_PROJECT = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "packaging/README.md")
WORKER = "assets/iframe-worker.js"
_WORKER = """\
// A browser starts no worker from a file: of a site on a disk. So it gets the worker's text, from here.
if (location.protocol === "file:") {{
  const text = {text};
  window.Worker = class extends Worker {{
    constructor() {{ super(URL.createObjectURL(new Blob([text], {{type: "text/javascript"}}))); }}
  }};
}}
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.extra["polyfills"] = [WORKER]  # a name that tells the plugin `offline` not to ask another site for one
    decisions = sorted(Path(config.docs_dir, "adr").glob("*.md"))
    config.nav.append({"Decisions": [f"adr/{path.name}" for path in decisions]})
    config.nav.append({"Workflows": [name for name in _workflows() if name.endswith(".md")]})
    config.nav.append({"Project": list(_PROJECT)})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    def add(uri: str, text: str) -> None:
        files.append(File.generated(config, uri, content=text))

    add("index.md", (ROOT / "README.md").read_text())
    for name, text in reference.pages().items():
        add(f"reference/{name}.md", text)
    for name in (*_workflows(), *_PROJECT):
        add(name, (ROOT / name).read_text())
    (worker,) = (Path(material.__file__).parent / "templates/assets/javascripts/workers").glob("search.*.js")
    add(WORKER, _WORKER.format(text=json.dumps(worker.read_text())))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links go where things are on the site; those to a directory go to its README."""
    here = posixpath.dirname(page.file.src_uri)
    beside = page.file.src_uri == "index.md" or page.file.src_uri in (*_workflows(), *_PROJECT)  # not below docs/
    origin = here if beside else posixpath.join("docs", here)

    def moved(match: re.Match[str]) -> str:
        target, hash, anchor = match[1].partition("#")
        if not target or "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(origin, target))
        if (ROOT / path).is_dir():
            path = "docs/adr/0001-entry-point.md" if path == "docs/adr" else f"{path}/README.md"
        return f"]({posixpath.relpath(path.removeprefix('docs/'), here or '.')}{hash}{anchor})"

    text = re.sub(r"\]\(([^)\s]+)\)", moved, markdown)
    return re.sub(r"<!-- not run: .*? -->\n", "", text)


def on_post_build(config: MkDocsConfig) -> None:
    """PluginError where a page wants something from elsewhere to be shown: it is to be read without a network."""
    for path in Path(config.site_dir).rglob("*.html"):
        if found := _ELSEWHERE.search(path.read_text()):
            raise PluginError(f"{path.relative_to(config.site_dir)} needs the network: {found[0]}")


@cache
def _workflows() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "workflows"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted(filter(None, listed.stdout.split("\0")))
