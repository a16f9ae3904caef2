from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest
from backports import zstd
from puller.storage.test_archives import (
    LARGE,
    TARS,
    compressed,
    contents,
    file,
    folder,
    hard_link,
    link,
    refusal,
    run,
    tar_bytes,
    unpacked,
)
from trainedmodel_puller.storage.archives import ArchiveKind, UnpackLimits
from trainedmodel_puller.storage.archives.streams import MAX_WINDOW_LOG

TAR, GZ, ZST = TARS


def _header(name: str, **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)


def _sparse(pieces: str, size: int) -> bytes:
    """Make the headers of a sparse file with two blocks of data."""
    records = b""
    for record in (f"GNU.sparse.map={pieces}", f"GNU.sparse.size={size}"):
        records += b"%02d %s\n" % (len(record) + 4, record.encode())
    head = _header("x", type=b"x", size=len(records)) + records.ljust(512, b"\0")
    return head + _header("holes", size=1024)


async def test_a_sparse_file_made_by_hand_is_read(tmp_path: Path) -> None:
    packed = _sparse("512,1000,2000,24", 4096) + b"a" * 1000 + b"b" * 24 + END
    await unpacked(tmp_path, TAR, packed)
    wanted = bytes(512) + b"a" * 1000 + bytes(488) + b"b" * 24 + bytes(2072)
    assert contents(tmp_path / "to") == {"holes": wanted}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_long_names_of_every_dialect_are_whole(form: int, tmp_path: Path) -> None:
    name = "/".join(["folder" * 10] * 3) + "/file"
    target = "/".join([".."] * 3) + "/target"
    members = [file(name, b"n"), file("target", b"t"), link(f"{'folder' * 10}/a/b/link", target)]
    await unpacked(tmp_path, TAR, tar_bytes(members, form))
    assert (tmp_path / "to" / name).read_bytes() == b"n"
    assert (tmp_path / "to" / ("folder" * 10) / "a/b/link").read_bytes() == b"t"


@pytest.mark.parametrize("version", ["old", "0.1", "1.0"])
async def test_sparse_files_of_every_form_are_whole(version: str, tmp_path: Path) -> None:
    data = os.urandom(8192)
    with (tmp_path / "holes").open("wb") as holes:
        for number in range(30):
            holes.seek(number * (1 << 16))
            holes.write(data)
        holes.truncate(3 << 20)
    options = "-Hgnu" if version == "old" else f"-Hpax --sparse-version={version}"
    await run(f"tar --sparse {options} -cf - holes", tmp_path, tmp_path / "packed")
    packed = (tmp_path / "packed").read_bytes()
    assert len(packed) < 1 << 20
    tree = await unpacked(tmp_path, TAR, packed)
    assert contents(tmp_path / "to") == {"holes": (tmp_path / "holes").read_bytes()}
    assert tree.bytes == 3 << 20
    (tmp_path / "to" / "holes").unlink()
    assert "1000000" in await refusal(tmp_path, TAR, packed, UnpackLimits(1_000_000))


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (b"M", "another archive"),
        (b"Z", "unknown kind, 'Z'"),
    ],
)
async def test_what_is_no_file_is_refused(kind: bytes, word: str, tmp_path: Path) -> None:
    message = await refusal(tmp_path, TAR, _header("odd", type=kind) + END)
    assert word in message
    assert "'odd'" in message


async def test_a_hard_link_inside_is_kept_and_its_bytes_count_once(tmp_path: Path) -> None:
    members = [file("a", b"12"), hard_link("b/c", "./a"), link("l", "a"), hard_link("k", "l")]
    tree = await unpacked(tmp_path, TAR, tar_bytes(members))
    to = tmp_path / "to"
    assert (to / "a").samefile(to / "b" / "c")
    assert (to / "k").readlink() == Path("a")
    assert (tree.files, tree.bytes) == (4, 2)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../archive", "later", "d", "b", ".trainedmodel.json", "."]
)
async def test_a_hard_link_to_anything_but_an_earlier_file_is_refused(
    target: str, tmp_path: Path
) -> None:
    own = file(".trainedmodel.json")
    members = [own, folder("d"), hard_link("b", target), file("later")]
    assert "archive's entry" in await refusal(tmp_path, TAR, tar_bytes(members))
    assert (tmp_path / "archive").stat().st_nlink == 1


@pytest.mark.parametrize("kind", TARS)
async def test_every_truncation_is_noticed(kind: ArchiveKind, tmp_path: Path) -> None:
    whole = compressed(kind, tar_bytes([file("a", os.urandom(3000)), file("b", b"b" * 600)]))
    end = len(whole.rstrip(b"\0")) + 512 if kind is TAR else len(whole)
    for size in {1, 511, 512, 513, 1024, 2048, 3584, 4096, 4200, 5000, end - 512, end - 1}:
        if not 0 < size < end or (kind is TAR and size > end - 512):
            continue
        words = await refusal(tmp_path, kind, whole[:size])
        assert "truncated" in words or "broken" in words
        for path in (tmp_path / "to").iterdir():
            path.unlink()


@pytest.mark.parametrize("kind", [GZ, ZST])
async def test_a_flipped_bit_is_noticed(kind: ArchiveKind, tmp_path: Path) -> None:
    plain = tar_bytes([file("a", os.urandom(100_000))])
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    packed = zstd.compress(plain, options=options) if kind is ZST else compressed(kind, plain)
    data = bytearray(packed)
    data[50_000] ^= 4
    assert "is broken" in await refusal(tmp_path, kind, bytes(data))


async def test_a_gzip_checksum_at_the_very_end_is_read(tmp_path: Path) -> None:
    data = bytearray(compressed(GZ, tar_bytes([file("a")])))
    data[-6] ^= 1
    assert "is broken" in await refusal(tmp_path, GZ, bytes(data))


@pytest.mark.parametrize("kind", [GZ, ZST])
async def test_members_that_follow_each_other_are_one_archive(
    kind: ArchiveKind, tmp_path: Path
) -> None:
    plain = tar_bytes([file("a", LARGE), file("b")])
    packed = b"".join(
        compressed(kind, plain[at : at + 300_001]) for at in range(0, 5 << 20, 300_001)
    )
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    data = skippable + packed + skippable if kind is ZST else packed + bytes(700)
    assert (await unpacked(tmp_path, kind, data)).files == 2
    assert (tmp_path / "to" / "a").read_bytes() == LARGE


@pytest.mark.parametrize("kind", [GZ, ZST])
async def test_garbage_behind_the_last_member_is_refused(kind: ArchiveKind, tmp_path: Path) -> None:
    data = compressed(kind, tar_bytes([file("a")]))
    assert "data after the end" in await refusal(tmp_path, kind, data + b"garbage")
    (tmp_path / "to" / "a").unlink()
    assert "data after the end" in await refusal(tmp_path, kind, data + bytes(10) + b"g")


async def test_tars_that_were_joined_are_refused_rather_than_half_read(tmp_path: Path) -> None:
    data = tar_bytes([file("a")]) + tar_bytes([file("b")])
    assert "after its end mark, after entry 'a'" in await refusal(tmp_path, TAR, data)


async def test_a_zstd_window_that_takes_too_much_memory_is_refused_with_the_fix(
    tmp_path: Path,
) -> None:
    def packed(window: int) -> bytes:
        options: dict[int, int] = {zstd.CompressionParameter.window_log: window}
        packer = zstd.ZstdCompressor(options=options)
        plain = tar_bytes([file("a", LARGE)])
        return packer.compress(plain[:1000]) + packer.compress(plain[1000:]) + packer.flush()

    assert (await unpacked(tmp_path, ZST, packed(MAX_WINDOW_LOG))).files == 1
    for window in (MAX_WINDOW_LOG + 1, 31):
        message = await refusal(tmp_path, ZST, packed(window))
        assert f"--long={MAX_WINDOW_LOG}" in message


@pytest.mark.parametrize(
    "data",
    [
        _header("x", type=b"x", size=1 << 40),
        _header("x", type=b"L", size=1 << 30) + bytes(1024),
        _header("x", size=1 << 80),
        _header("x" * 20, type=b"x", size=100) + b"99999999 path=a\n".ljust(512, b"\0"),
        _header("x", type=b"x", size=512) + b"-5 a=b\n".ljust(512, b"\0") + _header("a") + END,
        _header("x", type=b"x", size=20)
        + b"20 size=9999999999x\n".ljust(512, b"\0")
        + _header("a")
        + END,
        (_header("x", type=b"x", size=0)) * 50,
        _header("x", type=b"S", size=512) + END,
        _header("x", type=b"D", size=1 << 80) + END,
        _sparse("1000,512,0,512", 4096) + bytes(1024) + END,
        _sparse("0,512,100,512", 4096) + bytes(1024) + END,
        _sparse("0,1024", 1000) + bytes(1024) + END,
        _sparse("0,512", 4096) + bytes(1024) + END,
        _sparse("0,-512,0,1536", 4096) + bytes(1024) + END,
        _sparse("0", 4096) + bytes(1024) + END,
        b"garbage" * 100,
        b"",
    ],
    ids=range(17),
)
async def test_a_header_that_asks_for_the_impossible_is_one_clear_fault(
    data: bytes, tmp_path: Path
) -> None:
    assert "archive" in await refusal(tmp_path, TAR, data)


async def test_a_size_of_base_256_that_is_negative_is_refused(tmp_path: Path) -> None:
    block = bytearray(_header("x"))
    block[124:136] = (-512).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert "unreadable header" in await refusal(tmp_path, TAR, bytes(block) + END)


async def test_a_global_record_of_git_is_passed_over(tmp_path: Path) -> None:
    record = b"52 comment=" + b"a" * 40 + b"\n"
    data = _header("pax_global_header", type=b"g", size=52) + record.ljust(512, b"\0")
    await unpacked(tmp_path, GZ, gzip.compress(data + tar_bytes([file("a")])))
    assert set(contents(tmp_path / "to")) == {"a"}
