#!/usr/bin/env bash
# build.sh [DIRECTORY]   the RPM of this tree, made of the pyz, into DIRECTORY (default: dist). Needs rpmbuild.
# The Python that it needs is the one of .venv, as for `make zipapp`.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$(mkdir -p "${1:-$root/dist}" && cd "${1:-$root/dist}" && pwd)
python=${HPCC_BUILD_PYTHON:-$root/.venv/bin/python}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/hpcc/version.py")
type rpmbuild >/dev/null 2>&1 || { echo "build.sh: rpmbuild is missing; its package is rpm-build, on Debian rpm" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/SOURCES"
"$python" "$root/packaging/zipapp/build.py" "$work/SOURCES/hpcc-$version.pyz" >/dev/null
cp "$root/LICENSE" "$work/SOURCES/"
# the file is not touched: stripping or compressing it would break the zip, and its shebang is meant
rpmbuild --quiet -bb --define "_topdir $work" --define "hpcc_version $version" \
  --define "python_version $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
  --define '__os_install_post %{nil}' "$root/packaging/rpm/hpcc.spec"
find "$work/RPMS" -name '*.rpm' -exec cp {} "$out/" \; -printf "$out/%f\n"
