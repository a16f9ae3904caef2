#!/bin/sh
# The node's first program: makes the kernel's settings read-only in the node, and starts the rest.
# They hold for the whole machine; those of the node's own network can be written. systemd (file
# handles) and the kubelet (the others) would set them otherwise.
set -eu
own=/run/own-settings
give() {
  [ -e "/proc/sys/$1" ] || return 0
  file=$own/$(echo "$1" | tr / .)
  echo "$2" >"$file"
  mount --bind "$file" "/proc/sys/$1"
}
mkdir -p "$own/net"
mount --bind /proc/sys/net "$own/net"
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind "$own/net" /proc/sys/net
# A kubelet ends if it cannot have these.
give vm/overcommit_memory 1
give vm/panic_on_oom 0
give kernel/panic 10
give kernel/panic_on_oops 1
give kernel/keys/root_maxkeys 1000000
give kernel/keys/root_maxbytes 25000000
exec "$@"
