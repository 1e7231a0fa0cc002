"""hpcc demo: the main job, offline, with a registry inside this process and an image of this machine's own files."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from hpcc.cli.arguments import Command, Option, parse
from hpcc.cli.terminal import terminal
from hpcc.errors import HpccError, RuntimeUnavailable
from hpcc.progress import Part, Progress
from hpcc.runtime.store import remove
from hpcc.sitepath import load_site_packages

if TYPE_CHECKING:
    from hpcc.registry.fake import FakeRegistry

COMMAND = Command(
    "demo [OPTIONS]",
    "Try everything, offline: pull an image from a registry in this process, run it eight times at once, and in a "
    "Snakemake workflow.",
    (Option(("--keep",), "leave the demo's directory, and say where it is"),),
    "hpcc demo",
)
NAME, TAG = "library/hpcc-demo", "1.0"
QUOTA = 5  # manifest GETs, then 429
RUNS = 8
_EXPECTED = "image hpcc-demo\npoem 4 lines, 25 words\nreadings 5, lowest east, median 9\n"


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    load_site_packages()
    from hpcc.cli.demo_image import build_demo_layers
    from hpcc.registry.fake import FakeRegistry

    print("Making a small image of this machine's own files …")
    image = build_demo_layers()
    place = tempfile.mkdtemp(prefix="hpcc-demo-", dir="/var/tmp")
    try:
        with FakeRegistry(quota=QUOTA) as registry:
            registry.add_image(NAME, TAG, image.layers, image.config, index=True)
            rows = _tour(registry, place, terminal(arguments))
            rows += _spent(registry)
    finally:
        if not arguments.keep:
            remove(place)
    print()
    width = max(len(left) for left, _ in rows)
    for left, right in rows:
        print(f"  {left:<{width}}  {right}")
    if arguments.keep:
        print(f"\nEverything is in {place}")
    return 0


class _Clock(Progress):
    """Passes everything on, and notes when each stage began."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.began: dict[str, float] = {}

    def stage(self, name: str, total: int = 0) -> None:
        self.began[name] = time.monotonic()
        self._progress.stage(name, total)

    def part(self, name: str, total: int) -> Part:
        return self._progress.part(name, total)

    def info(self, text: str) -> None:
        self._progress.info(text)

    def warning(self, text: str) -> None:
        self._progress.warning(text)

    def close(self) -> None:
        self._progress.close()


def _tour(registry: "FakeRegistry", place: str, progress: Progress) -> list[tuple[str, str]]:
    """Pull, run, run a workflow; the rows of the closing table."""
    from hpcc.image import open_image
    from hpcc.settings import Settings

    uri = f"docker://{registry.host}/{NAME}:{TAG}"
    environ = {**os.environ, **_places(place), "HPCC_INSECURE": registry.host}
    settings = Settings.from_environ(environ)
    print(f"Pulling {uri} from a registry that allows {QUOTA} pulls …")
    clock = _Clock(progress)
    began = time.monotonic()
    image = open_image(uri, settings, progress=clock)
    ended = time.monotonic()
    converting = clock.began.get("Converting", ended)
    size = os.path.getsize(image.path)

    print(f"Running it {RUNS} times at once: hpcc exec --compat {uri} …")
    started = time.monotonic()
    runs = [_start(uri, number, environ) for number in range(RUNS)]
    outputs = [_finish(run) for run in runs]
    lasted = time.monotonic() - started
    if any(output != f"run {number} of hpcc demo image" for number, output in enumerate(outputs)):
        raise RuntimeUnavailable(f"the runs did not say what they should: {outputs}", hint="Please report it.")
    once = time.monotonic()
    _finish(_start(uri, 0, environ))
    once = time.monotonic() - once
    rows = [
        ("pull, and convert meanwhile", f"{converting - began:.2f} s"),
        ("assemble the SIF", f"{ended - converting:.2f} s, {size / 1e6:.1f} MB"),
        (f"exec --compat, {RUNS} at once", f"{lasted:.2f} s"),
        ("exec --compat, once more", f"{once:.2f} s"),
    ]
    return rows + _workflow(uri, place, environ)


def _places(place: str) -> dict[str, str]:
    """Cache and everything else below `place`, so that the demo changes nothing of the user's."""
    names = {
        "HPCC_CACHE_DIR": "cache",
        "HPCC_PRIVATE_DIR": "private",
        "HPCC_NODE_DIR": "node",
        "XDG_CACHE_HOME": "xdg",
    }
    return {**{key: os.path.join(place, name) for key, name in names.items()}, "HPCC_HOLD_IDLE": "3"}


def _start(uri: str, number: int, environ: dict[str, str]) -> "subprocess.Popen[str]":
    from hpcc.invoke import command_line

    command = f'. /etc/os-release; rm -rf /usr/share; echo "run {number} of ${{PRETTY_NAME}}"'
    argv = command_line("exec", uri, ["bash", "-c", command], {"compat": True})
    return subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(run: "subprocess.Popen[str]") -> str:
    out, err = run.communicate()
    if run.returncode != 0:
        raise HpccError(f"a run ended with {run.returncode}: {err.strip()}", hint="`hpcc doctor` may tell why.")
    return out.strip()


def _workflow(uri: str, place: str, environ: dict[str, str]) -> list[tuple[str, str]]:
    """The quickstart workflow, by the real Snakemake through `hpcc shim`."""
    from importlib.util import find_spec

    from hpcc.cli.shim import enable

    if find_spec("snakemake") is None:
        print("Snakemake is not installed here, so there is no workflow: pip install 'hpcc[snakemake]'")
        return [("Snakemake workflow", "left out: pip install 'hpcc[snakemake]'")]
    print("Running a workflow whose rules say container: with Snakemake …")
    shim = os.path.join(place, "shim")
    enable(shim)
    work = os.path.join(place, "workflow")
    shutil.copytree(os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo_workflow"), work)
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            "--sdm",
            "apptainer",
            "--cores",
            "4",
            "--quiet",
            "--config",
            f"image={uri}",
        ],
        cwd=work,
        env={**environ, "PATH": f"{shim}:{os.environ.get('PATH', os.defpath)}", "HOME": place},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lasted = time.monotonic() - began
    result = os.path.join(work, "results/summary.txt")
    text = ""
    if os.path.exists(result):
        with open(result, encoding="utf-8") as file:
            text = file.read()
    if done.returncode != 0 or text != _EXPECTED:
        raise HpccError(f"the workflow ended with {done.returncode}:\n{done.stdout[-3000:]}", hint="Please report it.")
    print("".join(f"    {line}\n" for line in text.splitlines()), end="")
    return [("Snakemake workflow, five rules", f"{lasted:.2f} s")]


def _spent(registry: "FakeRegistry") -> list[tuple[str, str]]:
    counts = registry.counts
    gets = counts["manifest_get"]
    return [
        ("requests that the registry counted", f"{gets} of {QUOTA}; {QUOTA - gets} pulls left"),
        ("requests that cost nothing", f"{counts['manifest_head']} HEAD, {counts['blob_get']} blobs"),
    ]
