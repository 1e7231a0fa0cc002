"""SCIF apps of an image, as --app names them: https://sci-f.github.io. Pure.

    /scif/apps/NAME/bin, lib     come first in PATH and LD_LIBRARY_PATH
    /scif/apps/NAME/scif/
      runscript, startscript       what `run` and `instance start` execute
      env/*.sh                     sourced; 01-base.sh sets SCIF_APPNAME, SCIF_APPDATA and their like
      labels.json, runscript.help, test

An image that Apptainer has built does all that itself in /.singularity.d/env/95-apps.sh, where SINGULARITY_APPNAME is
set. Images from elsewhere have the files alone.
"""

from __future__ import annotations

from hpcc.errors import UsageError

ROOT = "/scif/apps"
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")


def check_app(name: str) -> str:
    """`name`; UsageError unless an app may be called so: it becomes part of paths and of a script."""
    if not name or name[0] in ".-" or not _CHARACTERS.issuperset(name):
        raise UsageError(
            f"--app {name!r} is not the name of an app", hint="`hpcc inspect --list-apps IMAGE` shows them."
        )
    return name


def file_of(app: str, name: str) -> str:
    """The path in the image of `runscript` and its like."""
    return f"{ROOT}/{app}/scif/{name}"


def test_command(app: str) -> tuple[str, ...]:
    """What `test` executes: the test of the app, which must have one, or of the image, which need not."""
    if app:
        return (file_of(app, "test"),)
    path = "/.singularity.d/test"
    return (
        "/bin/sh",
        "-c",
        f'[ -x {path} ] || {{ echo "No test found in container" >&2; exit 0; }}; exec {path} "$@"',
        "test",
    )


def app_variables(app: str) -> dict[str, str]:
    """What tells the image's scripts, and the payload, which app it is."""
    return {"APPTAINER_APPNAME": app, "SINGULARITY_APPNAME": app}


def app_script(app: str) -> list[str]:
    """Lines of shell that set an app's environment where the image's own scripts have not."""
    top = f"{ROOT}/{app}"
    return [
        f'if [ "${{SCIF_APPROOT:-}}" != {top} ]; then',
        f"export SCIF_APPS={ROOT} SCIF_APPROOT={top} SCIF_APPNAME={app} PATH",
        f'PATH="{top}:$PATH"; [ ! -d {top}/bin ] || PATH="{top}/bin:$PATH"',
        f'[ ! -d {top}/lib ] || export LD_LIBRARY_PATH="{top}/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"',
        f'for f in {top}/scif/env/*.sh; do [ ! -f "$f" ] || . "$f"; done; unset f',
        "fi",
    ]
