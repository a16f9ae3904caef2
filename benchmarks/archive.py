"""Unpacking archives of each kind: seconds, rate, peak memory of a process of its own.

    python benchmarks/archive.py [GIB]

One archive at a time is made in a temporary folder (below TMPDIR), of 4 GiB unless told otherwise,
unpacked durably, and removed. Its content is like weights: one byte of four compresses well, in
three files of which one has nearly everything, and a thousand small ones. The zst is made with the
largest window that is accepted. MB/s is what was unpacked; the plain tar's is the disk's.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from backports import zstd
from rich.console import Console
from rich.table import Table
from trainedmodel_puller.storage.archives import (
    ArchiveKind,
    UnpackLimits,
    recognise,
    unpack,
)
from trainedmodel_puller.storage.archives.streams import MAX_WINDOW_LOG

LIMIT_MIB = 200
SMALL_FILES = 1000
PERIOD_BYTES = 64 << 20


class Weights(io.RawIOBase):
    """A file of a given size without being one."""

    def __init__(self, size: int, period: bytes) -> None:
        self._left = size
        self._period = period
        self._at = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: object) -> int:
        """Give the next bytes."""
        view = memoryview(cast("bytearray", buffer))
        size = min(len(view), self._left, len(self._period) - self._at)
        view[:size] = self._period[self._at : self._at + size]
        self._at = (self._at + size) % len(self._period)
        self._left -= size
        return size


def make_period() -> bytes:
    """Return bytes that look like float32 weights."""
    period = bytearray(random.Random(1).randbytes(PERIOD_BYTES))
    period[3::4] = b"\x3d" * (PERIOD_BYTES // 4)
    return bytes(period)


def files(size: int) -> Iterator[tuple[str, int]]:
    """Yield names and sizes."""
    yield "1/model.bin", size
    yield "1/second.bin", 1 << 20
    yield "config.pbtxt", 200
    for number in range(SMALL_FILES):
        yield f"1/shards/{number}.txt", 4096


@contextmanager
def opened(path: Path, kind: ArchiveKind) -> Iterator[IO[bytes]]:
    """Open an archive for writing through its compression."""
    with path.open("wb") as raw:
        if kind is ArchiveKind.TAR_GZ:
            # the command is quicker than the module, and the archive is no part of the measurement
            packer = subprocess.Popen(["gzip", "-1"], stdin=subprocess.PIPE, stdout=raw)
            assert packer.stdin is not None
            with packer.stdin as pipe:
                yield pipe
            assert packer.wait() == 0
        elif kind is ArchiveKind.TAR_ZST:
            options: dict[int, int] = {
                zstd.CompressionParameter.compression_level: 1,
                zstd.CompressionParameter.window_log: MAX_WINDOW_LOG,
            }
            with zstd.ZstdFile(raw, "wb", options=options) as packed:
                yield cast("IO[bytes]", packed)
        else:
            yield raw


def make(path: Path, kind: ArchiveKind, size: int) -> None:
    """Write an archive."""
    period = make_period()
    with opened(path, kind) as raw:
        if kind is ArchiveKind.ZIP:
            with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
                for name, length in files(size):
                    with packed.open(name, "w", force_zip64=True) as into:
                        copy(Weights(length, period), into)
            return
        with tarfile.open(fileobj=raw, mode="w|") as tar:
            for name, length in files(size):
                info = tarfile.TarInfo(name)
                info.size = length
                tar.addfile(info, io.BufferedReader(Weights(length, period), 1 << 20))


def copy(source: io.RawIOBase, into: IO[bytes]) -> None:
    """Copy everything."""
    while chunk := source.read(1 << 20):
        into.write(chunk)


def unpack_and_tell(path: Path, kind: ArchiveKind, folder: Path) -> None:
    """Unpack in this process and print what it took."""
    progress: list[int] = []
    assert recognise(path) is kind
    began = time.monotonic()
    limits = UnpackLimits(max_bytes=1 << 50)
    tree = asyncio.run(unpack(path, kind, folder, limits, progress.append))
    took = time.monotonic() - began
    assert sum(progress) == tree.bytes
    # not getrusage: that of a child begins with what its parent had when it forked
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    print(json.dumps({"s": took, "bytes": tree.bytes, "mib": peak / 1024}))


def measure(kind: ArchiveKind, size: int) -> tuple[float, float, float, float]:
    """Return the archive's size in GiB, seconds, MB/s, and the peak in MiB."""
    with tempfile.TemporaryDirectory(prefix="archive-bench-") as name:
        folder = Path(name)
        path = folder / "archive"
        make(path, kind, size)
        command = [sys.executable, __file__, "--unpack", str(path), kind, str(folder / "to")]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        told = json.loads(done.stdout)
        rate = told["bytes"] / told["s"] / 1e6
        return path.stat().st_size / 2**30, told["s"], rate, told["mib"]


def main() -> None:
    """Print one table; exit 1 when the memory limit is missed."""
    if sys.argv[1:2] == ["--unpack"]:
        path, kind, folder = sys.argv[2:]
        unpack_and_tell(Path(path), ArchiveKind(kind), Path(folder))
        return
    gib = float(sys.argv[1]) if len(sys.argv) > 1 else 4
    table = Table(title=f"unpacking {gib:g} GiB and {SMALL_FILES} small files, durably")
    for column in ("kind", "archive GiB", "seconds", "MB/s", "peak RSS MiB"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    is_flat = True
    for kind in ArchiveKind:
        packed, seconds, rate, peak = measure(kind, int(gib * 2**30))
        is_flat = is_flat and peak < LIMIT_MIB
        cells = (f"{packed:.2f}", f"{seconds:.1f}", f"{rate:.0f}", f"{peak:.0f}")
        table.add_row(kind, *cells)
    console = Console()
    console.print(table)
    console.print(f"limit {LIMIT_MIB} MiB")
    sys.exit(not is_flat)


if __name__ == "__main__":
    main()
