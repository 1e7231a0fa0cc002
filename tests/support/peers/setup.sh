#!/usr/bin/env bash
# The peers that hpcc must interoperate with and is measured against, in $HPCC_PEERS (/opt/hpcc-peers).
#
#   setup.sh apptainer   sid/: a Debian sid root with Apptainer and its tools; enter.sh runs them  (3 minutes, 0.6 GB)
#   setup.sh images      images/: an OCI layout with busybox, debian and scipy, for the benchmarks (3 minutes, 1.5 GB)
#
# Idempotent: what is complete is left alone, what is half made is made again. Needs root on Debian.
# Packages come from the mirror that this machine's apt uses.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export HPCC_PEERS=${HPCC_PEERS:-/opt/hpcc-peers} DEBIAN_FRONTEND=noninteractive
user=hpcc-test
in_sid=(apptainer e2fsprogs fuse2fs squashfs-tools squashfuse fuse-overlayfs fuse3 uidmap skopeo util-linux procps strace ca-certificates python3)

say() { echo "setup.sh: $*" >&2; }
die() { say "$@"; exit 1; }

# The mirror that apt knows for this release, without ever naming one here.
mirror() {
  local release known
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  for _ in 1 2; do
    known=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
      awk -v r="$release" '$1 == r && !seen {seen = $2} END {print seen}')
    [ -z "$known" ] || { echo "$known"; return; }
    apt-get update -qq >/dev/null 2>&1 || true
  done
  die "apt knows no mirror of $release; does 'apt-get update' work?"
}

# Run a step that talks at length; show its end only when it fails.
quietly() {
  local name=$1; shift
  "$@" >"$HPCC_PEERS/$name.log" 2>&1 && return
  say "$name failed; the last lines of $HPCC_PEERS/$name.log:"
  tail -n 15 "$HPCC_PEERS/$name.log" | sed -E 's#[a-z]+://[^ ]*#(address)#g' >&2
  exit 1
}

# The machine's own ways out (proxy, resolver) inside another root.
give_network() {
  local root=$1
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
}

# The unprivileged user has the same name, ids and subordinate ids there as here.
give_user() {
  local root=$1 uid file
  uid=$(id -u $user)
  if [ "$(chroot "$root" id -u $user 2>/dev/null)" != "$uid" ]; then
    chroot "$root" userdel $user 2>/dev/null || true
    chroot "$root" groupadd -o -g "$(id -g $user)" $user
    chroot "$root" useradd -o -m -u "$uid" -g $user $user
  fi
  for file in /etc/subuid /etc/subgid; do
    touch "$root$file"
    grep -qxF "$(grep "^$user:" $file)" "$root$file" || { sed -i "/^$user:/d" "$root$file"; grep "^$user:" $file >>"$root$file"; }
  done
}

fill_sid() {
  local root=$1
  chroot "$root" apt-get -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3 update -qq
  chroot "$root" apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends "${in_sid[@]}"
  chroot "$root" apt-get clean
}

apptainer() {
  local sid=$HPCC_PEERS/sid from
  "$here/../install.sh" user
  "$here/../install.sh" fuse
  if [ ! -x "$sid/usr/bin/apptainer" ]; then
    "$here/../install.sh" packages debootstrap uidmap util-linux
    from=$(mirror)
    say "making a Debian sid root with Apptainer in $sid"
    rm -rf "$sid.part" "$sid"
    quietly debootstrap debootstrap --variant=minbase sid "$sid.part" "$from"
    give_network "$sid.part"
    quietly sid-packages fill_sid "$sid.part"
    mv "$sid.part" "$sid"
  elif [ ! -x "$sid/usr/bin/python3" ] || [ ! -x "$sid/usr/bin/fuse2fs" ]; then  # made by an earlier version of this script
    give_network "$sid"
    quietly sid-packages fill_sid "$sid"
  fi
  give_user "$sid"
}

images() {
  [ ! -e "$HPCC_PEERS/images/index.json" ] || return 0
  "$here/../install.sh" packages debootstrap busybox-static pigz util-linux
  local from python
  from=$(mirror)
  python=$("$here/../venv.sh" --python)
  "$python" -I -m pip --version >/dev/null 2>&1 || "$here/../install.sh" packages python3-pip
  say "making the images of the benchmarks in $HPCC_PEERS/images"
  quietly images unshare -m --propagation private "$python" -I "$here/make_images.py" "$HPCC_PEERS" "$from"
}

[ "$(id -u)" = 0 ] || die "needs root; elsewhere the tests that need Apptainer skip, and say so"
[ $# -gt 0 ] || set -- apptainer images
mkdir -p "$HPCC_PEERS"
exec 9>"$HPCC_PEERS/setup.lock"
flock 9
for step in "$@"; do
  case $step in
    apptainer | images) "$step" ;;
    *) die "no step $step" ;;
  esac
done
