"""The texts of /.singularity.d in what is built from a definition file. Pure.

/.singularity.d/
  Singularity                 the definition file
  actions/                    exec run shell start test
  env/01-base.sh, 99-base.sh  what is set before and after the image's own
  env/90-environment.sh       %environment
  env/91-environment.sh       what %post has written to $APPTAINER_ENVIRONMENT
  env/94-appsbase.sh          where the apps are
  env/95-apps.sh              the environment of the app that --app names
  labels.json  libs/  runscript  runscript.help  startscript  test
/scif/apps/NAME/scif/         the same of an app: env/ labels.json runscript runscript.help startscript test
"""

import json

from hpcc.definition.model import Script

DIRECTORIES = ("dev", "proc", "sys", "tmp", "var/tmp", "home", "root", "etc", ".singularity.d/libs")
LINKS = {
    ".exec": ".singularity.d/actions/exec",
    ".run": ".singularity.d/actions/run",
    ".shell": ".singularity.d/actions/shell",
    ".test": ".singularity.d/actions/test",
    "environment": ".singularity.d/env/90-environment.sh",
    "singularity": ".singularity.d/runscript",
}

_SOURCE = """#!/bin/sh
for file in /.singularity.d/env/*.sh; do
    [ ! -f "$file" ] || . "$file"
done
"""


def _action(name: str, otherwise: str) -> str:
    """Run the file `name` of the app, where there is one, else the image's."""
    return f"""{_SOURCE}if [ -n "${{SINGULARITY_APPNAME:-}}" ]; then
    if [ ! -x "/scif/apps/$SINGULARITY_APPNAME/scif/{name}" ]; then
        echo "No {name} for contained app: $SINGULARITY_APPNAME" >&2
        exit 1
    fi
    exec "/scif/apps/$SINGULARITY_APPNAME/scif/{name}" "$@"
fi
[ ! -x /.singularity.d/{name} ] || exec /.singularity.d/{name} "$@"
{otherwise}
"""


ACTIONS = {
    "exec": _SOURCE + 'exec "$@"\n',
    "run": _action("runscript", 'exec /bin/sh "$@"'),
    "test": _action("test", "exit 0"),
    # Apptainer's process 1 waits for this signal before it lets the instance count as started.
    "start": _SOURCE.replace("\n", "\nkill -CONT 1\n", 1)
    + "[ ! -x /.singularity.d/startscript ] || exec /.singularity.d/startscript\n",
    "shell": _SOURCE
    + """if [ -n "${SINGULARITY_SHELL:-}" ] && [ -x "$SINGULARITY_SHELL" ]; then
    exec "$SINGULARITY_SHELL" "$@"
fi
SHELL=/bin/sh
[ ! -x /bin/bash ] || SHELL=/bin/bash
export SHELL
[ "$SHELL" != /bin/bash ] || exec /bin/bash --norc "$@"
exec /bin/sh "$@"
""",
}

ENVIRONMENT = {
    "01-base.sh": "#!/bin/sh\n",
    "90-environment.sh": "#!/bin/sh\n",
    "95-apps.sh": """#!/bin/sh
if [ -n "${SINGULARITY_APPNAME:-}" ] && [ -d "/scif/apps/$SINGULARITY_APPNAME" ]; then
    SCIF_APPS=/scif/apps
    SCIF_APPROOT="/scif/apps/$SINGULARITY_APPNAME"
    export SINGULARITY_APPNAME SCIF_APPS SCIF_APPROOT
    PATH="$SCIF_APPROOT:$PATH"
    [ ! -d "$SCIF_APPROOT/bin" ] || PATH="$SCIF_APPROOT/bin:$PATH"
    export PATH
    if [ -d "$SCIF_APPROOT/lib" ]; then
        LD_LIBRARY_PATH="$SCIF_APPROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        export LD_LIBRARY_PATH
    fi
    for file in "$SCIF_APPROOT"/scif/env/*.sh; do
        [ ! -f "$file" ] || . "$file"
    done
fi
""",
    "99-base.sh": """#!/bin/sh
LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
PS1="${PS1:-Apptainer> }"
export LD_LIBRARY_PATH PS1
""",
}
SHELL_RUNSCRIPT = '#!/bin/sh\n[ $# -eq 0 ] || exec "$@"\n[ ! -x /bin/bash ] || exec /bin/bash\nexec /bin/sh\n'


def environment(text: str) -> str:
    """env/90-environment.sh of an image or an app."""
    return f"#!/bin/sh\n\n{text.rstrip()}\n"


def app_base(name: str) -> str:
    """env/01-base.sh of an app."""
    top, data = f"/scif/apps/{name}", f"/scif/data/{name}"
    values = {
        "APPNAME": name, "APPROOT": top, "APPMETA": f"{top}/scif", "DATA": "/scif/data", "APPDATA": data,
        "APPINPUT": f"{data}/input", "APPOUTPUT": f"{data}/output",
    }  # fmt: skip
    lines = [f"SCIF_{key}={value}" for key, value in values.items()]
    return "\n".join(["#!/bin/sh", *lines, "export " + " ".join(f"SCIF_{key}" for key in values), ""])


def apps_base(names: list[str]) -> str:
    """env/94-appsbase.sh: where each app is, for the others."""
    lines = ["#!/bin/sh"]
    for name in names:
        top, key = f"/scif/apps/{name}", name.translate(str.maketrans(".+-", "___"))
        lines += (
            f"export SCIF_{what}_{key}={path}"
            for what, path in (
                ("APPDATA", f"/scif/data/{name}"),
                ("APPMETA", f"{top}/scif"),
                ("APPROOT", top),
                ("APPBIN", f"{top}/bin"),
                ("APPLIB", f"{top}/lib"),
                ("APPRUN", f"{top}/scif/runscript"),
                ("APPENV", f"{top}/scif/env/90-environment.sh"),
                ("APPLABELS", f"{top}/scif/labels.json"),
            )
        )
    return "\n".join([*lines, ""])


def app_install(name: str, script: Script) -> str:
    """What %appinstall adds to %post."""
    top = f"/scif/apps/{name}"
    return f'\n(\ncd {top}\nfor f in {top}/scif/env/*.sh; do . "$f"; done\n{script.text}\n)\ncd /\n'


def labels_json(labels: dict[str, str]) -> bytes:
    return (json.dumps(labels, indent=1, sort_keys=True) + "\n").encode()
