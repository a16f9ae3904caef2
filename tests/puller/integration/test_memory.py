"""P11: memory is flat, whatever the size of a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.puller.processes import Puller
from trainedmodel_devkit.stores import S3Store

pytestmark = [pytest.mark.integration, pytest.mark.scale, pytest.mark.timeout(120)]

GIB = 1 << 30


def peak_rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def test_p11_an_object_of_one_gib_needs_less_than_200_mib(
    store: S3Store, files_puller: Callable[..., Puller]
) -> None:
    store.put("large", "seed", b"")
    path = store.folder / "buckets" / "large" / "one-gib.bin"
    with path.open("wb") as file:
        block = os.urandom(1 << 20)
        for _ in range(GIB >> 20):
            file.write(block)
    puller = files_puller()
    assert puller.process is not None
    puller.put("big", "s3://large/one-gib.bin")
    puller.wait("big", state="Loaded", timeout_s=90)
    peak = peak_rss_mib(puller.process.pid)
    assert (puller.models / "big" / "one-gib.bin").stat().st_size == GIB
    path.unlink()
    assert peak < 200, f"peak RSS {peak:.0f} MiB"
