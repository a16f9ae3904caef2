"""What a node or a cluster may leave on the machine, and what of the machine it may change."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path


def traces(folder: Path, device: str) -> list[str]:
    """List what is left of a node: processes, mounts, devices, folders."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command:
                found.append(f"process {entry.name}: {command[:100]}")
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [line for line in mounts if str(folder) in line]
    found += [one["ifname"] for one in links() if one["ifname"].startswith(device)]
    found += [str(one) for one in (folder, *cgroups(folder)) if one.exists()]
    return found


def links() -> list[dict[str, str]]:
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout
    return list(json.loads(shown))


def cgroups(folder: Path) -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [*top.glob(folder.name), *top.glob(f"*/{folder.name}")]


def of_the_machine() -> dict[str, str]:
    """Read what holds for the whole machine and a node would like to have otherwise."""
    settings = Path("/proc/sys")
    names = [f"kernel/{one}" for one in ("panic", "panic_on_oops")]
    names += [f"kernel/keys/{one}" for one in ("root_maxkeys", "root_maxbytes")]
    names += [f"vm/{one}" for one in ("overcommit_memory", "panic_on_oom")]
    names += ["net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet"]
    names += ["fs/nr_open", "fs/file-max", "kernel/pid_max", "fs/protected_symlinks"]
    names += [f"net/netfilter/nf_conntrack_{one}" for one in ("max", "tcp_timeout_established")]
    found = {one: (settings / one).read_text() for one in names if (settings / one).exists()}
    places = ["/var/lib/cni", "/var/lib/kubelet", "/var/log/pods", "/var/log/containers"]
    places += ["/run/containerd", "/etc/cni", "/etc/docker", "/lib/modules", "/opt/containerd"]
    places += ["/run/docker", "/run/docker.pid", "/run/docker.sock", "/var/lib/docker"]
    found |= {one: str(os.path.lexists(one)) for one in places}
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    found["rules"] = "\n".join(line for line in rules.splitlines() if line[:1] in "*-")
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    ours = ("/var/l", "/proc/sys", "/run", str(Path(tempfile.gettempdir()) / "trainedmodel-node"))
    found["mounts"] = "\n".join(sorted(one for one in mounted if one.startswith(ours)))
    top = Path("/sys/fs/cgroup")
    groups = {one.name for one in (*top.glob("*"), *top.glob("*/*")) if one.is_dir()}
    own = {one for one in groups if one.startswith("trainedmodel-node-")}
    found["cgroups"] = "\n".join(sorted(groups - own))
    return found


def traces_after(seconds: float, folder: Path, device: str) -> list[str]:
    """List what is left, at the latest after some seconds, as soon as nothing is."""
    deadline = time.monotonic() + seconds
    while (left := traces(folder, device)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
