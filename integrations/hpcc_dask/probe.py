"""What a Python says of itself: run by any Python, so that it imports nothing of ours and is old-fashioned.

python3 -c "$(cat probe.py)"    {"python": [3, 12, 1], "libc": ["glibc", "2.36"], "modules": {…}, "path": […], …}
"""

import json
import os
import platform
import sys

MODULES = ("dask", "distributed", "cloudpickle")


def probe():  # type: ignore[no-untyped-def]
    modules = {}  # type: ignore[var-annotated]
    found = {
        "python": list(sys.version_info[:3]), "prefix": sys.prefix, "base": sys.base_prefix, "path": sys.path,
        "stdlib": os.path.dirname(os.__file__), "modules": modules, "missing": "",
    }  # fmt: skip
    libc = list(platform.libc_ver())
    if not libc[0]:
        musl = any(name.startswith("ld-musl-") for name in (os.listdir("/lib") if os.path.isdir("/lib") else ()))
        libc = ["musl" if musl else "", ""]
    found["libc"] = libc
    for name in MODULES:
        try:
            modules[name] = str(__import__(name).__version__)
        except Exception as error:
            found["missing"] = found["missing"] or "%s: %s" % (type(error).__name__, error)  # noqa: UP031
    return found


if __name__ == "__main__":
    print("\n" + json.dumps(probe()))  # type: ignore[no-untyped-call]
