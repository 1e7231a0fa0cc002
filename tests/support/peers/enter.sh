#!/usr/bin/env bash
# enter.sh [-u UID:GID] COMMAND...   run a command in the Debian sid root of setup.sh; environment and directory are kept
#
# Its own mount namespace and pivot_root, since chroot would forbid the user namespaces that Apptainer needs; network,
# processes, /tmp, /var/tmp and $HPCC_PEERS are the host's. Needs root.
set -euo pipefail
export HPCC_PEERS=${HPCC_PEERS:-/opt/hpcc-peers}
ids=
if [ "${1:-}" = -u ]; then ids=$2; shift 2; fi
exec unshare -m --propagation private bash -euc '
ids=$1 cwd=$2 root=$HPCC_PEERS/sid; shift 2
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount --bind "$root" "$root"
mkdir -p "$root$HPCC_PEERS" "$root/.host"
for shared in proc sys dev tmp var/tmp; do mount --rbind "/$shared" "$root/$shared"; done
mount --bind "$HPCC_PEERS" "$root$HPCC_PEERS"
cd "$root"
pivot_root . .host
umount -l /.host
cd "$cwd" 2>/dev/null || cd /
[ -n "$ids" ] || exec "$@"
exec setpriv --reuid="${ids%:*}" --regid="${ids#*:}" --init-groups --inh-caps=-all -- "$@"
' enter "$ids" "$PWD" "$@"
