"""What a process costs: processor time, memory, and whether it is at rest."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

#: At rest: less than this much of a core, over a whole second, twice.
_REST_S: Final = 0.03
_LOOK_EVERY_S: Final = 1.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(pid: int, *, peak: bool = False) -> float:
    """Return a process's resident memory in MiB, now or at its peak."""
    field = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


async def at_rest(pid: int, timeout_s: float = 300.0) -> float:
    """Wait until a process does nothing any more; return the monotonic time since when it does.

    Raises:
        TimeoutError: it went on working.
    """
    async with asyncio.timeout(timeout_s):
        since, quiet, before = time.monotonic(), 0, cpu_s(pid)
        while quiet < 2:
            began = time.monotonic()
            await asyncio.sleep(_LOOK_EVERY_S)
            now = cpu_s(pid)
            if now - before > _REST_S:
                quiet = 0
            else:
                since = since if quiet else began
                quiet += 1
            before = now
    return since
