#!/bin/sh
# Puts the archives in /images into the store of the node's containerd, in the image's build. They
# stay packed: what they unpack to would be layers on the layers of this image.
set -eu
socket=/run/import.sock
containerd --config /dev/null --address "$socket" --state /run/import 2>/build/containerd.log &
server=$!
store() { ctr --address "$socket" --namespace k8s.io "$@"; }
tries=0
until store version >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 300 ] || { cat /build/containerd.log; exit 1; }
  sleep 0.1
done
for archive in /images/*.tar; do
  store images import --all-platforms --digests --no-unpack "$archive" >/dev/null
done
store images list --quiet
kill "$server"
wait "$server" || true
rm -rf "$socket" "$socket.ttrpc" /run/import
