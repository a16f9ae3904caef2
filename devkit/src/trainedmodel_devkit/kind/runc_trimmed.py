"""An OCI runtime for a Docker daemon: runc, asked for no capability that this machine lacks.

Docker gives a privileged container, and a privileged `docker exec`, all capabilities that the
kernel knows. runc cannot give what its own bounding set lacks and ends with "operation not
permitted": many sandboxes lack CAP_SYS_RESOURCE. kind's nodes are privileged containers. So the
missing ones are taken out of what Docker hands to runc, a file each time.

It is run with the standard library alone: it must import nothing of the project.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# fmt: off
_NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)
# fmt: on
"""The kernel's capabilities by number."""


def missing_capabilities(status: str) -> set[str]:
    """Read `/proc/PID/status`: the capabilities that the process can never give."""
    lines = [line.split() for line in status.splitlines()]
    bounding = next(int(line[1], 16) for line in lines if line[:1] == ["CapBnd:"])
    return {f"CAP_{name}" for bit, name in enumerate(_NAMES) if not bounding >> bit & 1}


def trimmed(process: dict[str, Any], missing: set[str]) -> dict[str, Any]:
    """Return a process of the runtime specification without the capabilities that are missing."""
    sets = process.get("capabilities") or {}
    less = {key: [one for one in names or () if one not in missing] for key, names in sets.items()}
    return {**process, "capabilities": less} if sets else process


def described_in(words: list[str]) -> tuple[Path, bool] | None:
    """Find the file that describes the process to be started.

    Returns:
        The file, and whether it describes a whole container; None if nothing is to be started.
    """
    if "create" in words or "run" in words:
        return Path(_option(words, "-b", "--bundle") or ".") / "config.json", True
    if "exec" in words and (process := _option(words, "-p", "--process")):
        return Path(process), False
    return None


def _option(words: list[str], *names: str) -> str | None:
    return next(_values(words, names), None)


def _values(words: list[str], names: tuple[str, ...]) -> Iterator[str]:
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, given, value = word.partition("=")
        if name in names:
            yield value if given else after


def _main() -> None:
    words = sys.argv[1:]
    found = described_in(words)
    if found is not None:
        path, is_container = found
        missing = missing_capabilities(Path("/proc/self/status").read_text())
        content = json.loads(path.read_text())
        if is_container:
            content["process"] = trimmed(content.get("process", {}), missing)
        else:
            content = trimmed(content, missing)
        path.write_text(json.dumps(content))
    os.execvp("runc", ["runc", *words])  # noqa: S606 - that is what this program is for


if __name__ == "__main__":
    _main()
