"""How hpcc begins that is one file: `python3.X -I -S hpcc.pyz`.

Its modules are one member of the zip, read at once: zipimport would open the file anew for each, and each time a
filesystem of a cluster asks its server whether the file is still the same. What is compiled (isal, zstandard) cannot be
loaded from memory: it lies in packages.zip, which each node unpacks once into the store that hpcc has on the node's
disk, <node_dir>/packages/<digest>/.
"""

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec  # importlib.machinery would bring warnings along

DIGEST = "@DIGEST@"  # of packages.zip; build.py writes it


class Modules:
    """Finds and loads what the member `modules` has: name -> (whether it is a package, its code marshalled)."""

    def __init__(self, archive, modules):
        self.archive, self._modules = archive, modules

    def find_spec(self, name, path=None, target=None):
        if name not in self._modules:
            return None
        is_package, _ = self._modules[name]
        place = f"{self.archive}/{name.replace('.', '/')}"
        spec = ModuleSpec(name, self, origin=f"{place}/__init__.py" if is_package else f"{place}.py")
        spec.has_location = True  # so that there is a __file__, if only to be told
        if is_package:
            spec.submodule_search_locations = [place]
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(marshal.loads(self._modules[module.__name__][1]), module.__dict__)  # noqa: S102, S302 - our own bytecode


def unpack(path):
    """packages.zip, as a directory. Not atomic: the store is."""
    import zipfile
    from io import BytesIO

    with zipfile.ZipFile(BytesIO(__loader__.get_data(os.path.join(__loader__.archive, "packages.zip")))) as packages:
        packages.extractall(path)


def find_packages():
    """The directory of the dependencies on this node, unpacked where it is missing. Raises HpccError."""
    from hpcc.runtime.enter import node_directory
    from hpcc.settings import Settings

    settings = Settings.from_environ()
    path = os.path.join(node_directory(settings, "packages"), DIGEST)
    if not os.path.isdir(path):
        from hpcc.runtime.store import Limits, obtain

        limits = Limits(settings.node_days, settings.node_size)
        obtain(os.path.dirname(path), DIGEST, unpack, limits, 64 << 20, "unpack the packages that hpcc needs")
    return path


def main():
    modules = marshal.loads(__loader__.get_data(os.path.join(__loader__.archive, "modules")))  # noqa: S302
    sys.meta_path.insert(0, Modules(__loader__.archive, modules))
    from hpcc.cli import console, say
    from hpcc.errors import HpccError

    try:
        sys.path.append(find_packages())
    except HpccError as error:
        say("FATAL", error.message)
        say("HINT", error.hint)
        sys.exit(error.exit_code)
    console()


main()
