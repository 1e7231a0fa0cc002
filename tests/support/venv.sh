#!/usr/bin/env bash
# venv.sh DIR        make the virtual environment DIR anew, with the pip of constraints.txt
# venv.sh --python   print the interpreter that it would take
#
# The interpreter is Python 3.11 or newer. The system's own comes first: as root it must be one that other users
# can execute too, since the tests run hpcc as an unprivileged user, and a Python in root's home is none.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
oldest='import sys; sys.exit(sys.version_info < (3, 11))'

say() { echo "venv.sh: $*" >&2; }
die() { say "$@"; exit 1; }

usable() {
  local real
  [ -x "$1" ] && "$1" -I -c "$oldest" 2>/dev/null || return 1
  [ "$(id -u)" = 0 ] || return 0
  real=$("$1" -I -c 'import os, sys; print(os.path.realpath(sys.executable))') || return 1
  setpriv --reuid=65534 --regid=65534 --clear-groups "$real" -I -c "$oldest" 2>/dev/null
}

find_python() {
  local name path
  for path in ${PYTHON:-} /usr/bin/python3 /usr/local/bin/python3 $(for name in python3 python3.13 python3.12 python3.11; do type -ap $name || true; done); do
    if usable "$path"; then echo "$path"; return; fi
  done
  return 1
}

python=$(find_python) || {
  if [ "$(id -u)" = 0 ] && type apt-get >/dev/null 2>&1; then "$root/tests/support/install.sh" packages python3 python3-venv; fi
  python=$(find_python) || die "no Python 3.11 or newer that all users can execute; install one, or name it: make PYTHON=/path/to/python3"
}
if [ "${1:-}" = --python ]; then echo "$python"; exit; fi
venv=${1:?usage: venv.sh DIR, or venv.sh --python}
pip_pin=$(grep '^pip==' "$root/constraints.txt")

if ! "$python" -I -c 'import venv, ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && type apt-get >/dev/null 2>&1; then
  "$root/tests/support/install.sh" packages python3-venv || true
fi
if "$python" -I -c 'import venv, ensurepip' 2>/dev/null; then
  "$python" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$pip_pin"
elif "$python" -I -c 'import venv' 2>/dev/null && "$python" -m pip --version >/dev/null 2>&1; then
  # Debian without python3-venv: the module is there, ensurepip is not; the host's pip can install into another Python
  "$python" -m venv --clear --without-pip "$venv"
  "$python" -m pip --python "$venv/bin/python" install --quiet --disable-pip-version-check "$pip_pin"
else
  die "$python can make no virtual environment: ask for the package python3-venv (Debian: apt-get install python3-venv), or name another Python: make PYTHON=/path/to/python3"
fi
