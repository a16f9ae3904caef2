"""Limits, a volume that refuses, a caller that cancels, and bytes that make no sense."""

from __future__ import annotations

import asyncio
import gzip
import os
import resource
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from puller.storage.test_archives import (
    KINDS,
    LIMITS,
    TREE,
    compressed,
    file,
    hard_link,
    link,
    pack,
    refusal,
    tar_bytes,
    unpacked,
    zip_bytes,
)
from support.examples import examples
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import SourceFault, VolumeFault
from trainedmodel_puller.storage.archives import (
    ArchiveKind,
    UnpackLimits,
    declared_bytes,
    recognise,
    unpack,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bomb_ends_at_the_limit_not_behind_it(kind: ArchiveKind, tmp_path: Path) -> None:
    data = pack(kind, [file("zeros", bytes(30_000_000)), file("more")])
    message = await refusal(tmp_path, kind, data, UnpackLimits(5_000_000))
    assert "more than 5000000 bytes" in message
    assert sum(path.stat().st_size for path in (tmp_path / "to").iterdir()) <= 5_000_000


@pytest.mark.parametrize("kind", KINDS)
async def test_an_archive_of_exactly_the_limits_passes(kind: ArchiveKind, tmp_path: Path) -> None:
    data = pack(kind, [file("a", bytes(10)), file("b", bytes(10))])
    assert (await unpacked(tmp_path, kind, data, UnpackLimits(20, 2))).bytes == 20


@pytest.mark.parametrize("kind", [ArchiveKind.TAR_GZ, ArchiveKind.TAR_ZST])
async def test_what_is_only_passed_over_counts_as_well(kind: ArchiveKind, tmp_path: Path) -> None:
    for data in (
        pack(kind, [file("__MACOSX/x", bytes(30_000_000)), file("x")]),
        compressed(kind, tar_bytes([file("x")]) + bytes(30_000_000)),
    ):
        assert "5000000" in await refusal(tmp_path, kind, data, UnpackLimits(5_000_000, 20))
        (tmp_path / "to" / "x").unlink(missing_ok=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_entries_and_the_folders_they_imply_are_limited(
    kind: ArchiveKind, tmp_path: Path
) -> None:
    limits = UnpackLimits(1 << 20, max_entries=20)
    many = [file(str(number)) for number in range(21)]
    assert "more than 20 entries" in await refusal(tmp_path, kind, pack(kind, many), limits)
    litter = [file("x"), *(file(f"._{number}") for number in range(20))]
    assert "more than 20 entries" in await refusal(tmp_path, kind, pack(kind, litter), limits)
    deep = [file("/".join("abcdefghijklmnopqrstuvwxyz"))]
    assert "more than 20 entries" in await refusal(tmp_path, kind, pack(kind, deep), limits)


def test_what_an_archive_declares_is_known_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    found = {}
    for kind in KINDS:
        path.write_bytes(pack(kind, [file("a", bytes(100_000)), file("b", bytes(50_000))]))
        found[kind] = declared_bytes(path, kind)
    assert found[ArchiveKind.ZIP] == 150_000
    assert 150_000 < (found[ArchiveKind.TAR] or 0) < 170_000
    assert found[ArchiveKind.TAR_GZ] is found[ArchiveKind.TAR_ZST] is None


# -- the volume and the caller ----------------------------------------------------------


async def test_a_volume_that_refuses_is_not_the_archives_fault(tmp_path: Path) -> None:
    data = pack(ArchiveKind.TAR, [file("x")])
    (tmp_path / "to").write_text("a file in the way")
    with pytest.raises(VolumeFault) as caught:
        await unpacked(tmp_path, ArchiveKind.TAR, data)
    assert caught.value.reason is Reason.VOLUME_ERROR


async def test_a_volume_without_room_is_told_as_such(tmp_path: Path) -> None:
    # the limit on a file's size stands in for a full disk: the kernel stops the write half-way
    data = pack(ArchiveKind.TAR_ZST, [file("x", bytes(4 << 20))])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(VolumeFault) as caught:
            await unpacked(tmp_path, ArchiveKind.TAR_ZST, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.reason is Reason.INSUFFICIENT_DISK


@pytest.mark.parametrize("durable", [True, False])
async def test_every_file_and_folder_is_forced_to_the_disk_if_asked(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = set()
    real = os.fsync

    def spy(fd: int) -> None:
        synced.add(Path(f"/proc/self/fd/{fd}").readlink())
        real(fd)

    monkeypatch.setattr(os, "fsync", spy)
    archive, to = tmp_path / "archive", tmp_path / "to"
    archive.write_bytes(pack(ArchiveKind.TAR, TREE))
    await unpack(archive, ArchiveKind.TAR, to, LIMITS, lambda _: None, durable=durable)
    made = {path for path in [to, *to.rglob("*")] if not path.is_symlink()}
    assert synced == ({path for path in made if to / "2" not in path.parents} if durable else set())


async def _cancelled(archive: Path, kind: ArchiveKind, to: Path, durable: bool) -> None:
    """Cancel an unpacking at its first progress, and wait until it has ended."""
    began = asyncio.Event()
    limits = UnpackLimits(1 << 40)
    task = asyncio.create_task(
        unpack(archive, kind, to, limits, lambda _: began.set(), durable=durable)
    )
    async with asyncio.timeout(15):
        await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("kind", KINDS)
async def test_p8_a_cancelled_unpacking_ends_soon_and_writes_nothing_more(
    kind: ArchiveKind, tmp_path: Path
) -> None:
    archive, to = tmp_path / "archive", tmp_path / "to"
    size = 512 << 20
    await asyncio.to_thread(_make_large, archive, kind, size)
    await _cancelled(archive, kind, to, durable=True)
    threads = [t.name for t in threading.enumerate() if t.name.startswith("unpack")]
    left = sum(path.stat().st_size for path in to.iterdir())
    assert left < size
    await asyncio.sleep(0.05)
    assert sum(path.stat().st_size for path in to.iterdir()) == left
    assert len(threads) <= 1  # idle, on its way out


def _make_large(archive: Path, kind: ArchiveKind, size: int) -> None:
    piece = bytes(1 << 20)

    def fill(write: Callable[[bytes], object]) -> None:
        for _ in range(size >> 20):
            write(piece)

    if kind is ArchiveKind.ZIP:
        with (
            zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
            packed.open("large", "w") as into,
        ):
            fill(into.write)
        return
    info = tarfile.TarInfo("large")
    info.size = size
    with archive.open("wb") as raw:
        if kind is ArchiveKind.TAR:
            raw.write(info.tobuf())
            raw.truncate(512 + size + 1024)
            return
        with gzip.open(raw, "wb", 1) if kind is ArchiveKind.TAR_GZ else zstd.open(raw, "wb") as to:
            to.write(info.tobuf())
            fill(to.write)
            to.write(bytes(1024))


# -- nonsense ---------------------------------------------------------------------------

SMALL = [file("a/b", b"abc" * 200), link("l", "a/b"), file("n" * 120)]
SOUND = {
    ArchiveKind.TAR: tar_bytes([*SMALL, hard_link("h", "a/b")])
    + tar_bytes([file("m" * 120)], tarfile.GNU_FORMAT),
    ArchiveKind.ZIP: zip_bytes(SMALL),
}
CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
)


@pytest.mark.timeout(120)
@settings(max_examples=examples(300))
@given(kind=st.sampled_from(list(SOUND)), changes=CHANGES, mends=st.booleans())
async def test_whatever_bytes_are_changed_the_fault_is_one_of_ours(
    kind: ArchiveKind, changes: list[tuple[int, bytes]], mends: bool
) -> None:
    data = bytearray(SOUND[kind])
    for place, new in changes:
        at = place % (len(data) - len(new))
        data[at : at + len(new)] = new
    if mends and kind is ArchiveKind.TAR:
        _mend_checksums(data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = folder / "archive"
        archive.write_bytes(data)
        await asyncio.to_thread(recognise, archive)
        try:
            await asyncio.to_thread(declared_bytes, archive, kind)
            await unpack(archive, kind, folder / "to", LIMITS, lambda _: None, durable=False)
            reason = Reason.UNSAFE_ARCHIVE
        except SourceFault as fault:
            reason = fault.reason
        assert reason is Reason.UNSAFE_ARCHIVE
        assert set(os.listdir(folder)) <= {"archive", "to"}


def _mend_checksums(data: bytearray) -> None:
    """Make every block that was a header one again, so that what it says is read."""
    for at in range(0, len(data) - 511, 512):
        if SOUND[ArchiveKind.TAR][at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
