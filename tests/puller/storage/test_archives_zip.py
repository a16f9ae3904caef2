from __future__ import annotations

import asyncio
import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from puller.storage.test_archives import (
    LARGE,
    Member,
    contents,
    file,
    refusal,
    unpacked,
    zip_bytes,
)
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.archives import ArchiveKind, UnpackLimits, declared_bytes

ZIP = ArchiveKind.ZIP
CENTRAL = b"PK\x01\x02"
LOCAL = b"PK\x03\x04"
END = b"PK\x05\x06"


def _patched(data: bytes, magic: bytes, offset: int, value: bytes) -> bytes:
    """Replace bytes of the first record of a kind."""
    changed = bytearray(data)
    at = data.index(magic) + offset
    changed[at : at + len(value)] = value
    return bytes(changed)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
async def test_files_come_out_whole(method: int, tmp_path: Path) -> None:
    members = [file("a", LARGE), file("b", bytes(5_000_000)), file("c", b"")]
    await unpacked(tmp_path, ZIP, zip_bytes(members, method))
    assert contents(tmp_path / "to") == {member.name: member.data for member in members}


async def test_a_zip_written_to_a_pipe_with_64_bit_sizes_comes_out_whole(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    into = Pipe()
    with zipfile.ZipFile(into, "w") as packed, packed.open("a", "w", force_zip64=True) as entry:
        entry.write(LARGE)
    await unpacked(tmp_path, ZIP, into.getvalue())
    assert contents(tmp_path / "to") == {"a": LARGE}


async def test_64_bit_fields_are_read(tmp_path: Path) -> None:
    # what packers write for more than 4 GiB, at the size of a test
    name, data = b"model.bin", b"content"
    crc = zlib.crc32(data)
    local = LOCAL + struct.pack("<5H3L2H", 45, 0, 0, 0, 33, crc, 7, 7, len(name), 0) + name + data
    extra = struct.pack("<2H3Q", 1, 24, 7, 7, 0)
    most = 0xFFFFFFFF
    central = CENTRAL + struct.pack(
        "<2B5H3L5H2L",
        *(45, 3, 45, 0, 0, 0, 33, crc, most, most),
        *(len(name), len(extra), 0, 0, 0, 0o100644 << 16, most),
    )
    central += name + extra
    end64 = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(central), len(local)
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(local) + len(central), 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, most, most, 0)
    await unpacked(tmp_path, ZIP, local + central + end64 + locator + end)
    assert contents(tmp_path / "to") == {"model.bin": data}
    # a count of 64 bits is checked before anything is read
    many = bytearray(end64)
    many[24:40] = struct.pack("<2Q", 1 << 40, 1 << 40)
    message = await refusal(tmp_path, ZIP, local + central + bytes(many) + locator + end)
    assert "more than 100000 entries" in message


async def test_an_encrypted_entry_is_refused_by_name(tmp_path: Path) -> None:
    message = await refusal(tmp_path, ZIP, _patched(WHOLE, CENTRAL, 8, b"\x01"))
    assert "'a' is encrypted; pack it again without a password" in message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
async def test_an_unread_method_is_refused_with_the_fix(method: int, tmp_path: Path) -> None:
    message = await refusal(tmp_path, ZIP, zip_bytes([file("a", LARGE)], method))
    assert f"method {method}" in message
    assert "zip -r" in message


@pytest.mark.parametrize("name", ["..\\x", "a\\b", "\\\\server\\x", "C:\\x"])
async def test_a_backslash_is_refused_with_the_fix(name: str, tmp_path: Path) -> None:
    assert "backslash" in await refusal(tmp_path, ZIP, zip_bytes([file(name)]))


async def test_names_of_old_and_new_packers_are_read(tmp_path: Path) -> None:
    marked = zip_bytes([file("ünï")])
    unmarked = _patched(_patched(marked, CENTRAL, 8, b"\0\0"), LOCAL, 6, b"\0\0")
    await unpacked(tmp_path, ZIP, unmarked)
    old = zip_bytes([file("xyz")]).replace(b"xyz", b"\x81\x84\x94")
    await unpacked(tmp_path, ZIP, old)
    assert set(contents(tmp_path / "to")) == {"ünï", "üäö"}


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
async def test_what_is_no_file_is_refused(kind: int, tmp_path: Path) -> None:
    data = _patched(zip_bytes([file("odd")]), CENTRAL, 38, struct.pack("<L", (kind | 0o644) << 16))
    assert "'odd' is a device, a pipe or a socket" in await refusal(tmp_path, ZIP, data)


async def test_modes_of_a_system_without_them_are_not_believed(tmp_path: Path) -> None:
    link_like = struct.pack("<L", (stat.S_IFLNK | 0o777) << 16)
    data = _patched(zip_bytes([file("x", b"/etc/passwd")]), CENTRAL, 38, link_like)
    await unpacked(tmp_path, ZIP, _patched(data, CENTRAL, 5, b"\x00"))
    assert (tmp_path / "to" / "x").read_bytes() == b"/etc/passwd"
    assert not (tmp_path / "to" / "x").is_symlink()


WHOLE = zip_bytes([file("a", os.urandom(5000)), file("b", os.urandom(5000))])
TEXT = zip_bytes([file("a", b"text " * 1000)])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WHOLE[:-1], "directory"),
        (WHOLE[:-30], "directory"),
        (WHOLE[:5000], "directory"),
        (LOCAL, "directory"),
        (b"", "directory"),
        (WHOLE + b"appended", "directory"),
        (WHOLE[:2000] + WHOLE[2001:], "is not where|directory"),
        (_patched(WHOLE, END, 8, b"\x01\0\x01\0"), "more entries than it says"),
        (_patched(WHOLE, END, 8, b"\x03\0\x03\0"), "directory"),
        (_patched(WHOLE, END, 4, b"\x01\0"), "one part of several"),
        (_patched(WHOLE, CENTRAL, 16, b"\0\0\0\0"), "'a' is broken: wrong size or checksum"),
        (_patched(WHOLE, LOCAL, 30, b"z"), "'a' has another name"),
        (_patched(WHOLE, LOCAL, 100, b"other bytes"), "'a' is broken"),
        (_patched(WHOLE, CENTRAL, 42, b"\xf0\0\0\0"), "'a' is not where"),
        (_patched(TEXT, CENTRAL, 24, b"\x01\0\0\0"), "'a' unpacks to more than it declares"),
        (_patched(TEXT, CENTRAL, 24, b"\xff\xff\xff\x7f"), "'a' is broken"),
        (_patched(TEXT, CENTRAL, 20, b"\x05\0\0\0"), "'a' is truncated"),
        (_patched(TEXT, LOCAL, 31, b"\xff\xff\xff\xff"), "'a' is broken"),
    ],
    ids=range(18),
)
async def test_each_kind_of_damage_is_one_clear_fault(
    data: bytes, words: str, tmp_path: Path
) -> None:
    message = await refusal(tmp_path, ZIP, data, UnpackLimits(1 << 40))
    assert any(word in message for word in words.split("|"))


async def test_entries_that_share_their_data_are_refused(tmp_path: Path) -> None:
    data = zip_bytes([file("a", os.urandom(100_000))], zipfile.ZIP_STORED)
    central = data.index(CENTRAL)
    end = data.index(END)
    item = data[central:end]
    many = b"".join(
        item.replace(b"a", b"%c" % letter, 1) if letter != ord("a") else item
        for letter in b"abcdefghij"
    )
    record = bytearray(data[end:])
    record[8:16] = struct.pack("<2HL", 10, 10, len(many))
    bomb = data[:central] + many + bytes(record)
    message = await refusal(tmp_path, ZIP, bomb)
    assert "'b' shares its data" in message


async def test_a_count_over_the_limit_is_refused_before_the_directory_is_read(
    tmp_path: Path,
) -> None:
    data = _patched(WHOLE, END, 8, b"\x10\0\x10\0")
    data = _patched(data, CENTRAL, 0, b"XXXX")
    message = await refusal(tmp_path, ZIP, data, UnpackLimits(1 << 30, max_entries=15))
    assert "more than 15 entries" in message
    archive = tmp_path / "archive"
    with pytest.raises(SourceFault) as caught:
        await asyncio.to_thread(declared_bytes, archive, ZIP, max_entries=15)
    assert caught.value.reason is Reason.UNSAFE_ARCHIVE


async def test_a_link_with_a_long_text_is_refused_unread(tmp_path: Path) -> None:
    member = Member("l", type=b"2", target="x" * 2000)
    assert "link of more than 1024 bytes" in await refusal(tmp_path, ZIP, zip_bytes([member]))
