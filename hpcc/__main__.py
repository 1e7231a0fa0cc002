"""`python -m hpcc`, and what bin/hpcc executes with -I -S: keep it small, a script is compiled at each start."""

import sys

if not __package__:
    import os

    sys.path.insert(0, __file__.rpartition("/")[0].rpartition("/")[0])
    # Where installed packages lie, so that isal can say its version on the way of a docker:// run without `site`.
    sys.path += filter(None, [os.environ.pop("HPCC_SITE_PACKAGES", "")])

from hpcc.cli import console

console()
