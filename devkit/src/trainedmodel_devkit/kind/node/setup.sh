#!/bin/sh
# Makes kind's node of a Debian with kind's own files, in the image's build. VERSION: Kubernetes';
# PAUSE: the image that holds a pod's namespaces.
set -eu
units=/lib/systemd/system

chmod 755 /usr/local/bin/entrypoint /kind/bin/*
ln -sf /lib/systemd/systemd /sbin/init
printf %s "$VERSION" >/kind/version
mkdir -p /etc/kubernetes/manifests /opt/cni
# kind's unit files and kubeadm look where others install these.
for program in containerd containerd-shim-runc-v2 ctr; do
  ln -s "/usr/bin/$program" "/usr/local/bin/$program"
done
ln -s /usr/lib/cni /opt/cni/bin

# A container has no consoles, disks, kernel log or temporary files of a boot to look after.
for target in multi-user local-fs basic; do
  find "$units/$target.target.wants" -type l -delete 2>/dev/null || true
done
find /etc/systemd/system -path '*.wants/*' -delete
find "$units/sockets.target.wants" \( -name '*udev*' -o -name '*initctl*' \) -delete
rm -f "$units/sysinit.target.wants/systemd-tmpfiles-setup.service"
printf 'ReadKMsg=no\n' >>/etc/systemd/journald.conf
# Debian's settings are the whole kernel's; kind's, in /etc/sysctl.d, are those of the network.
rm -f /usr/lib/sysctl.d/*.conf /etc/sysctl.d/99-*.conf
systemctl mask systemd-binfmt.service
systemctl enable containerd.service kubelet.service undo-mount-hacks.service

# What kind adds to each container: the node's own product id, and no limits of Debian's runc.
ctr oci spec | jq 'del(.process.rlimits)
  | .hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}]' \
  >/etc/containerd/cri-base.json
# Where CAP_SYS_RESOURCE is missing no score can be lowered, and the control plane asks for it.
sed -i -e 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' \
  -e "s|sandbox_image = .*|sandbox_image = \"$PAUSE\"|" \
  -e '/^\[proxy_plugins/,/^  address/d' /etc/containerd/config.toml
