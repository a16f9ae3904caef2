#!/bin/sh
# Collects iptables with all that it loads below a folder, in the image's build: kube-proxy runs it.
set -eu
target=$1
extensions=$(dirname "$(find /usr/lib -name libxt_comment.so)")
programs="/usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi"
libraries=$(ldd $programs "$extensions"/*.so | grep -o '/[^ :]*\.so[^ :]*' | sort -u)
for link in bin lib lib64 sbin; do
  [ -L "/$link" ] || continue
  mkdir -p "$target/usr/$link"
  ln -s "usr/$link" "$target/$link"
done
for file in $programs $libraries "$extensions"/*.so; do
  mkdir -p "$target$(dirname "$file")"
  cp -L "$file" "$target$file"
done
for name in iptables iptables-save iptables-restore; do
  ln -s xtables-nft-multi "$target/usr/sbin/$name"
  ln -s xtables-nft-multi "$target/usr/sbin/ip6${name#ip}"
done
mkdir -p "$target/run" "$target/etc" "$target/tmp" "$target/var"
