"""Make installed packages importable in an interpreter that bin/hpcc started with -I -S.

A warm run needs the standard library alone and saves 5 ms by not looking for anything else. What pulls, converts or
reports calls this first.
"""

import os
import sys


def load_site_packages() -> None:
    """What `python` without -S does at its start. Idempotent; nothing to do where that was done."""
    if not sys.flags.no_site or "site" in sys.modules:
        return
    import site

    site.main()
    # With -I a user's own site-packages (pip install --user) are left out; hpcc's own place is among them there.
    site.addsitedir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
