"""What all kinds of archives have in common; and the makers that the other archive tests use."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import shutil
import stat
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from backports import zstd
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.archives import (
    ArchiveKind,
    UnpackedTree,
    UnpackLimits,
    recognise,
    unpack,
)

LIMITS = UnpackLimits(max_bytes=256 << 20)
KINDS = list(ArchiveKind)
TARS = [ArchiveKind.TAR, ArchiveKind.TAR_GZ, ArchiveKind.TAR_ZST]
#: More than one piece, not compressible in one place and very much so in another.
LARGE = os.urandom(1_500_000) + bytes(2_000_001)


@dataclass(frozen=True)
class Member:
    """An entry to be packed."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    target: str = ""
    mode: int = 0o644


def file(name: str, data: bytes = b"x", mode: int = 0o644) -> Member:
    return Member(name, data, mode=mode)


def folder(name: str, mode: int = 0o755) -> Member:
    return Member(name, type=tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str) -> Member:
    return Member(name, type=tarfile.SYMTYPE, target=target)


def hard_link(name: str, target: str) -> Member:
    return Member(name, type=tarfile.LNKTYPE, target=target)


def tar_bytes(members: Sequence[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=form) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.linkname, info.mode = member.type, member.target, member.mode
            info.size = len(member.data)
            info.uid, info.mtime = 12345, 1
            tar.addfile(info, io.BytesIO(member.data))
    return into.getvalue()


def zip_bytes(members: Sequence[Member], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    types = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.DIRTYPE: stat.S_IFDIR}
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", method) as packed:
        for member in members:
            is_folder = member.type == tarfile.DIRTYPE
            info = zipfile.ZipInfo(member.name + ("/" if is_folder else ""))
            info.compress_type = method
            info.create_system = 3
            info.external_attr = (types.get(member.type, stat.S_IFREG) | member.mode) << 16
            packed.writestr(info, member.target.encode() or member.data)
    return into.getvalue()


def pack(kind: ArchiveKind, members: Sequence[Member]) -> bytes:
    if kind is ArchiveKind.ZIP:
        return zip_bytes(members)
    return compressed(kind, tar_bytes(members))


def compressed(kind: ArchiveKind, data: bytes) -> bytes:
    if kind is ArchiveKind.TAR_GZ:
        return gzip.compress(data, 1)
    return zstd.compress(data) if kind is ArchiveKind.TAR_ZST else data


async def unpacked(
    tmp_path: Path, kind: ArchiveKind, data: bytes, limits: UnpackLimits = LIMITS
) -> UnpackedTree:
    """Unpack into `tmp_path / "to"`; the small archives of tests need no disk to be forced."""
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    return await unpack(archive, kind, tmp_path / "to", limits, lambda _: None, durable=False)


async def refusal(
    tmp_path: Path, kind: ArchiveKind, data: bytes, limits: UnpackLimits = LIMITS
) -> str:
    with pytest.raises(SourceFault) as caught:
        await unpacked(tmp_path, kind, data, limits)
    assert caught.value.reason is Reason.UNSAFE_ARCHIVE
    assert caught.value.message.isprintable()
    return caught.value.message


async def run(command: str, folder: Path, output: Path) -> None:
    """Run the system's packers, if it has them."""
    for name in command.split(" | "):
        tool = name.split(maxsplit=1)[0]
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} here")

    def wait() -> None:
        with output.open("wb") as into:
            subprocess.run(command, shell=True, cwd=folder, stdout=into, check=True, timeout=15)

    await asyncio.to_thread(wait)


def contents(root: Path) -> dict[str, bytes]:
    """Return all files by their paths, links followed."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


TREE = [
    file("./config.pbtxt", b"name"),
    folder("1", 0o700),
    file("1/model.bin", LARGE),
    file("1/run.sh", b"#!", 0o4711),
    file("1/private", b"p", 0o600),
    file("1/open", b"o", 0o666),
    file("deep/er/ünï cödé", b""),
    link("1/latest", "../1/./model.bin"),
    link("2", "1"),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_is_recognised_and_unpacked_with_plain_modes(
    kind: ArchiveKind, tmp_path: Path
) -> None:
    data = pack(kind, TREE)
    before = os.umask(0o077)  # a strict one must not leave the server without its files
    try:
        tree = await unpacked(tmp_path, kind, data)
    finally:
        os.umask(before)
    assert await asyncio.to_thread(recognise, tmp_path / "archive") is kind
    to = tmp_path / "to"
    assert (to / "1" / "model.bin").read_bytes() == LARGE
    assert (to / "deep/er/ünï cödé").read_bytes() == b""
    assert (to / "1" / "latest").readlink() == Path("../1/./model.bin")
    assert (to / "2" / "model.bin").read_bytes() == LARGE
    modes = {
        str(path.relative_to(to)): stat.S_IMODE(path.lstat().st_mode)
        for path in [to, *to.rglob("*")]
        if not path.is_symlink() and not path.is_relative_to(to / "2")
    }
    assert modes.pop("1/run.sh") == 0o755
    assert {modes[name] for name in (".", "1", "deep", "deep/er")} == {0o755}
    assert {modes[name] for name in ("1/private", "1/open", "config.pbtxt")} == {0o644}
    assert tree == UnpackedTree(files=8, bytes=len(LARGE) + 8)
    assert (to / "config.pbtxt").stat().st_uid == os.getuid()


@pytest.mark.parametrize("command", ["tar", "tar.gz", "tar.zst", "zip", "tar --sparse"])
async def test_what_the_systems_own_packers_made_comes_out_equal(
    command: str, tmp_path: Path
) -> None:
    source = tmp_path / "from"
    (source / "a" / ("long" * 40)).mkdir(parents=True)
    (source / "a" / ("long" * 40) / ("name" * 40)).write_bytes(LARGE)
    (source / "empty").mkdir()
    (source / "b").write_bytes(b"b")
    (source / "same").hardlink_to(source / "b")
    (source / "link").symlink_to("a")
    with (source / "holes").open("wb") as holes:
        for at in range(0, 40 << 20, 1 << 20):
            holes.seek(at)
            holes.write(b"data")
        holes.truncate(50 << 20)
    archive = tmp_path / "archive"
    pipes = {
        "tar": "tar -cf - .",
        "tar.gz": "tar -cf - . | gzip -1",
        "tar.zst": "tar -cf - . | zstd -q",
        "zip": "zip -q -1 -r -y - .",
        "tar --sparse": "tar --sparse -cf - .",
    }
    await run(pipes[command], source, archive)
    kind = await asyncio.to_thread(recognise, archive)
    assert kind == command.removesuffix(" --sparse")
    to = tmp_path / "to"
    await unpack(archive, ArchiveKind(kind), to, LIMITS, lambda _: None)
    assert contents(to) == contents(source)
    assert (to / "empty").is_dir()
    assert (to / "link").readlink() == Path("a")
    if kind is not ArchiveKind.ZIP:
        assert (to / "b").samefile(to / "same")


@pytest.mark.parametrize("kind", KINDS)
async def test_progress_adds_up_and_comes_in_the_event_loop(
    kind: ArchiveKind, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(pack(kind, TREE))
    told: list[int] = []

    def progress(count: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append(count)

    tree = await unpack(archive, kind, tmp_path / "to", LIMITS, progress)
    assert sum(told) == tree.bytes


NAMES = {
    "/etc/passwd": "absolute",
    "../x": "'..'",
    "a/../../x": "'..'",
    "a/./x": "'.'",
    "a//x": "empty",
    "a\nb": "control",
    "x" * 256: "255 bytes",
    "/".join(["x" * 200] * 11): "2048 bytes",
    "/".join(["x"] * 150): "100 folders deep",
}


@pytest.mark.parametrize("kind", [ArchiveKind.TAR, ArchiveKind.ZIP])
@pytest.mark.parametrize("name", list(NAMES))
async def test_p9_a_name_that_cannot_safely_be_a_file_is_refused_and_named(
    kind: ArchiveKind, name: str, tmp_path: Path
) -> None:
    message = await refusal(tmp_path, kind, pack(kind, [file("fine"), file(name)]))
    assert NAMES[name] in message
    assert repr(name)[1:30] in message
    assert "pack the archive again" in message


@pytest.mark.parametrize("kind", [ArchiveKind.TAR, ArchiveKind.ZIP])
@pytest.mark.parametrize(
    "members",
    [
        [file("a"), file("a")],
        [file("a"), file("./a")],
        [file("a"), file("a/b")],
        [file("a/b"), file("a")],
        [file("a"), folder("a")],
        [file("a"), link("a", "b"), file("b")],
        [file("b"), link("a", "b"), file("a")],
        [file("b"), link("a", "b"), link("a", "b")],
        [folder("b"), file("c"), link("a", "b"), file("a/x")],
        [folder("a"), file("b"), link("a", "b")],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
async def test_a_name_with_two_meanings_is_refused(
    kind: ArchiveKind, members: list[Member], tmp_path: Path
) -> None:
    message = await refusal(tmp_path, kind, pack(kind, members))
    assert "'a" in message
    assert "pack it again" in message


@pytest.mark.parametrize("kind", KINDS)
async def test_litter_and_the_pullers_own_file_are_left_out(
    kind: ArchiveKind, tmp_path: Path
) -> None:
    members = [
        folder("."),
        file(".trainedmodel.json", b"forged"),
        file("__MACOSX/m/._x"),
        file("m/._x"),
        file("m/.DS_Store"),
        file("m/x"),
        folder("m"),
        file("m/.trainedmodel.json"),
    ]
    tree = await unpacked(tmp_path, kind, pack(kind, members))
    assert set(contents(tmp_path / "to")) == {"m/x", "m/.trainedmodel.json"}
    assert tree.files == 2


@pytest.mark.parametrize("kind", [ArchiveKind.TAR, ArchiveKind.ZIP])
@pytest.mark.parametrize("members", [[], [folder("a")], [file(".trainedmodel.json")]])
async def test_an_archive_without_a_file_is_refused(
    kind: ArchiveKind, members: list[Member], tmp_path: Path
) -> None:
    assert "holds no file" in await refusal(tmp_path, kind, pack(kind, members))


@pytest.mark.parametrize("kind", KINDS)
async def test_archives_inside_are_files_like_others(kind: ArchiveKind, tmp_path: Path) -> None:
    inner = pack(kind, [file("x")])
    await unpacked(tmp_path, kind, pack(kind, [file("inner", inner)]))
    assert contents(tmp_path / "to") == {"inner": inner}
