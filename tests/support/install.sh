#!/usr/bin/env bash
# What the tests need from the system. Idempotent, and quick when all is there.
#
#   install.sh                     Debian packages, the unprivileged user hpcc-test, …: all of the below
#   install.sh packages NAME...    Debian packages by name
#   install.sh user                a user with subordinate ids, who owns nothing else
#   install.sh fuse                /dev/fuse for everybody, as udev makes it on a real machine
#   install.sh modules             modulecmd of Environment Modules, beside lmod, which Debian does not let it be
#
# As another user than root it only says what is missing; the tests that need it then skip, and say so.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
user=hpcc-test
needed=(
  attr              # getfattr, setfattr: extended attributes as others see them
  busybox-static    # the smallest payload
  chromium          # a browser for JupyterLab
  cpio              # what is in an RPM
  dbus              # by it systemd --user asks the other systemd to move processes
  debootstrap       # a base for a build with apt
  docker-registry   # a real registry
  docker.io         # dockerd: a real one, which keeps images
  e2fsprogs         # mke2fs, e2fsck, debugfs: makers and judges of ext3 images
  fish              # completes words of hpcc
  fuse-overlayfs    # writable layers with squashed owners
  fuse2fs           # ext3 images of users
  fuse3             # fusermount3, which only other people's tools need
  gcc               # libraries that make file locks misbehave; with libc6-dev
  gpg               # another reader of the OpenPGP keys that hpcc makes; gpgconf ends its agent
  gpg-agent         # without which gpg takes no secret key
  gpgconf           # as above
  iproute2          # ip: an address in a network namespace of a test's own
  libc6-dev         # headers for the above
  lmod              # modulefiles in Lua; brings Tcl
  libmpich-dev      # mpicc, for an MPI program in an image; its libraries
  libpmix-dev       # libpmix.so, which Slurm's PMIx plugin opens by that name; without it a step with PMIx hangs
  libseccomp2       # a judge of our seccomp programs
  mandoc            # a judge of man pages
  moosefs-chunkserver  # a distributed filesystem, mounted twice: two nodes that share a cache
  moosefs-client    # its mounts
  moosefs-master    # its metadata
  munge             # who speaks to Slurm
  procps            # ps: what is left running after a run
  qemu-user         # the converter's bytes on another CPU
  rpm               # rpmbuild: the RPM of packaging/rpm
  skopeo            # another client of registries: it must find ours and the real one alike
  slurm-client      # sbatch, srun, scancel, squeue
  slurmctld         # a real Slurm: its controller
  slurmd            # its nodes
  squashfs-tools    # unsquashfs and mksquashfs: judges of our SquashFS
  squashfuse        # squashfuse_ll: root filesystems of users
  tini              # an init that images bring
  strace            # what a waiter asks of a filesystem
  systemd           # who gives users cgroups, in a kernel of its own
  uidmap            # newuidmap, newgidmap
  umoci             # unpacks the same layers: a judge of how they merge
  util-linux        # setpriv, unshare
  zsh               # completes words of hpcc
)
# a kernel with cgroups of version 2, whatever this machine has; Debian has it for this architecture alone
if [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ]; then needed+=(user-mode-linux); fi

say() { echo "install.sh: $*" >&2; }

missing() {
  local name
  for name in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || echo "$name"
  done
}

# One try of apt-get; on failure its complaints, without the addresses of this machine's mirrors.
apt_once() {
  apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >"$log" 2>&1
}

# Several tries: another apt-get may hold the lists' lock, and a mirror may be in the middle of a change.
apt() {
  local try
  for try in 1 2 3 4; do
    if apt_once "$@"; then return; fi
    sleep $((try * 4))
  done
  grep -E '^(E|W):' "$log" | sed -E 's#[a-z]+://[^ ]*#(address)#g' | tail -n 5 >&2
  return 1
}

packages() {
  local names log policy=/usr/sbin/policy-rc.d
  type dpkg-query >/dev/null 2>&1 || { say "no Debian: install by hand what the tests need: $*"; return 0; }
  mapfile -t names < <(missing "$@")
  [ ${#names[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then say "missing Debian packages: ${names[*]}"; return 0; fi
  say "installing ${names[*]}"
  log=$(mktemp)
  cleanup="$log"
  trap 'rm -f $cleanup' EXIT
  if [ ! -e $policy ]; then  # the packages' own daemons are of no use here
    cleanup="$log $policy"
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
  fi
  if ! apt_once install -y --no-install-recommends "${names[@]}"; then  # perhaps only the lists are missing or old
    apt update && apt install -y --no-install-recommends "${names[@]}" || { say "apt-get could not install ${names[*]}"; return 1; }
  fi
  rm -f $cleanup
}

# The first id above all ranges of a file like /etc/subuid; aligned, so that ranges are easy to tell apart.
next_range() { awk -F: '$2 + $3 > top {top = $2 + $3} END {if (top < 100000) top = 100000; print top}' "$1"; }

user() {
  if [ "$(id -u)" != 0 ]; then return 0; fi
  getent passwd $user >/dev/null || useradd --create-home --shell /bin/bash --comment "runs hpcc's tests" $user
  [ -d /home/$user ] || install -d -m 700 -o $user -g $user /home/$user
  local file
  for file in /etc/subuid /etc/subgid; do
    touch $file
    grep -q "^$user:" $file || echo "$user:$(next_range $file):65536" >>$file
  done
}

fuse() {
  if [ "$(id -u)" != 0 ]; then return 0; fi
  [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229 || say "no /dev/fuse here: tests of FUSE mounts will skip"
  [ ! -e /dev/fuse ] || [ "$(stat -c %a /dev/fuse)" = 666 ] || chmod 666 /dev/fuse
}

modules() {
  local command=/usr/local/bin/hpcc-test-modulecmd place=/usr/local/lib/hpcc-tests/modules
  if [ -x $command ] || ! type dpkg-query >/dev/null 2>&1; then return 0; fi
  if [ "$(id -u)" != 0 ]; then say "missing: $command, of Debian's environment-modules"; return 0; fi
  say "unpacking environment-modules"
  local log new
  log=$(mktemp)
  new=$(mktemp -d)
  cleanup="$log $new"
  trap 'rm -rf $cleanup' EXIT
  chmod 755 "$new"
  (cd "$new" && apt_once -o APT::Sandbox::User=root download environment-modules) \
    || (cd "$new" && apt update && apt -o APT::Sandbox::User=root download environment-modules) \
    || { say "apt-get could not download environment-modules"; return 1; }
  rm -rf $place
  mkdir -p $place
  dpkg -x "$new"/environment-modules_*.deb $place
  printf '#!/bin/sh\nexec tclsh8.6 %s "$@"\n' "$(find $place -path '*-linux-gnu/modulecmd.tcl')" >$command
  chmod 755 $command
  rm -rf $cleanup
}

case "${1:-all}" in
  all) packages "${needed[@]}"; user; fuse; modules ;;
  packages) shift; packages "$@" ;;
  user | fuse | modules) "$1" ;;
  *) say "unknown step $1"; exit 2 ;;
esac
