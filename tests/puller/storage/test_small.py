from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.storage.files import FilePool
from trainedmodel_puller.storage.transfer.small_files import SmallFile, SmallFileWriter


@pytest.fixture
def pool() -> Iterator[FilePool]:
    pool = FilePool(4)
    yield pool
    pool.close()


class Files:
    """Files to be written to a folder, and which of them were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: list[str] = []

    def file(self, name: str, content: bytes = b"new") -> SmallFile:
        chunks = [content[:1], content[1:]]
        return SmallFile(
            str(self.folder / name), chunks, len(content), lambda: self.written.append(name)
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("is_durable", [True, False])
async def test_every_file_is_written_and_told_once(
    pool: FilePool, files: Files, *, is_durable: bool
) -> None:
    writer = SmallFileWriter(pool, 4, is_durable=is_durable)
    names = [f"{number:03}" for number in range(200)]
    for name in names:
        await writer.add(files.file(name, name.encode()))
    await writer.finish()
    assert sorted(files.written) == names
    assert {path.name: path.read_text() for path in files.folder.iterdir()} == {
        name: name for name in names
    }
    assert {path.stat().st_mode & 0o777 for path in files.folder.iterdir()} == {0o644}


async def test_a_file_in_the_way_is_replaced_and_never_written_into(
    pool: FilePool, files: Files
) -> None:
    other = files.folder / "other"
    other.write_bytes(b"another model's")
    os.link(other, files.folder / "linked")
    os.symlink(other, files.folder / "symbolic")
    writer = SmallFileWriter(pool, 1, is_durable=False)
    for name in ("linked", "symbolic"):
        await writer.add(files.file(name))
    await writer.finish()
    assert other.read_bytes() == b"another model's"
    for name in ("linked", "symbolic"):
        assert (files.folder / name).read_bytes() == b"new"
        assert not (files.folder / name).is_symlink()


async def test_a_file_that_cannot_be_written_is_a_fault_and_is_not_told(
    pool: FilePool, files: Files
) -> None:
    (files.folder / "taken").mkdir()
    writer = SmallFileWriter(pool, 1, is_durable=True)
    await writer.add(files.file("good"))
    await writer.add(files.file("taken"))
    with pytest.raises(VolumeFault) as caught:
        await writer.finish()
    assert caught.value.reason is Reason.VOLUME_ERROR
    assert files.written == ["good"]
    with pytest.raises(VolumeFault):
        await writer.add(files.file("later"))
    await writer.abandon()


async def test_abandoning_sees_the_running_job_through_and_starts_no_other(
    pool: FilePool, files: Files
) -> None:
    writer = SmallFileWriter(pool, 1, is_durable=False)
    for number in range(20):
        await writer.add(files.file(str(number)))
    await writer.abandon()
    there = {path.name for path in files.folder.iterdir()}
    assert there == {"0"}  # the first went at once, the others were gathered meanwhile
    assert files.written == ["0"]
