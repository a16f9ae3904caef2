from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from puller.storage.test_download import tree
from trainedmodel_contract.uri import StorageUri, parse_uri
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.transfer.journal import journal_path

pytestmark = pytest.mark.slow

PART = 64 * 1024
FILES = {
    "large": os.urandom(5 * PART),
    "small": b"small",
    "sub/deep/x": os.urandom(100),
    "sub/empty": b"",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder that models come from, and the verified tree of a first one."""

    folder: Path
    uri: StorageUri
    listing: Listing
    tree: Path


@pytest.fixture
async def source(downloader: Downloader, roots: Path, tmp_path: Path) -> Source:
    uri = parse_uri(f"file://{roots / 'm'}")
    for name, content in FILES.items():
        path = roots / "m" / name
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(path.write_bytes, content)
    listing = await downloader.list(uri)
    tree = tmp_path / "first"
    await downloader.fetch(uri, listing, tree, lambda _: None)
    journal_path(tree).unlink()
    return Source(roots / "m", uri, listing, tree)


async def _fetch(
    downloader: Downloader, source: Source, folder: Path, newer: Listing | None = None
) -> tuple[int, int]:
    """Fetch; return how many bytes were there already, and how many came."""
    calls: list[int] = []
    await downloader.fetch(source.uri, newer or source.listing, folder, calls.append)
    return calls[0], sum(calls[1:])


def _inode(path: Path) -> int:
    return path.lstat().st_ino


async def test_another_models_files_are_linked_and_nothing_is_fetched(
    downloader: Downloader, source: Source, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    assert await downloader.seed(second, source.listing, source.tree) == source.listing.total_bytes
    assert await _fetch(downloader, source, second) == (source.listing.total_bytes, 0)
    assert tree(second) == FILES
    for name in FILES:
        assert _inode(second / name) == _inode(source.tree / name)
        assert (second / name).lstat().st_nlink == 2
        assert (second / name).lstat().st_mode & 0o777 == 0o644


async def test_what_was_changed_there_is_fetched(
    downloader: Downloader, source: Source, tmp_path: Path
) -> None:
    (source.tree / "small").write_bytes(b"SMALL")
    second = tmp_path / "second"
    saved = await downloader.seed(second, source.listing, source.tree, changed={"small"})
    assert saved == source.listing.total_bytes - 5
    assert await _fetch(downloader, source, second) == (saved, 5)
    assert tree(second) == FILES
    assert (source.tree / "small").read_bytes() == b"SMALL"
    assert (second / "small").lstat().st_nlink == 1


@pytest.mark.parametrize("harm", ["link", "linked folder", "gone", "size", "pipe", "mode", "root"])
async def test_only_plain_files_of_the_tree_itself_are_linked(
    downloader: Downloader,
    source: Source,
    tmp_path: Path,
    harm: str,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"y" * 100)
    victim = source.tree / "sub/deep/x"
    victim.unlink()
    if harm == "link":
        victim.symlink_to(outside / "x")
    elif harm == "linked folder":
        (source.tree / "sub/deep").rmdir()
        (source.tree / "sub/deep").symlink_to(outside)
    elif harm == "size":
        victim.write_bytes(b"y" * 99)
    elif harm == "pipe":
        os.mkfifo(victim)
    elif harm == "mode":
        victim.write_bytes(FILES["sub/deep/x"])
        victim.chmod(0o600)
    elif harm == "root":
        os.rename(source.tree, tmp_path / "moved")
        os.symlink(tmp_path / "moved", source.tree)
    second = tmp_path / "second"
    await downloader.seed(second, source.listing, source.tree)
    await _fetch(downloader, source, second)
    assert tree(second) == FILES
    assert (second / "sub/deep/x").lstat().st_nlink == 1
    assert (second / "small").lstat().st_nlink == (1 if harm == "root" else 2)
    assert (outside / "x").read_bytes() == b"y" * 100


async def test_a_newer_object_never_goes_into_the_shared_file(
    downloader: Downloader, source: Source, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    await downloader.seed(second, source.listing, source.tree)
    for name in ("large", "small"):
        (source.folder / name).write_bytes(FILES[name][::-1])
    newer = await downloader.list(source.uri)
    kept, came = await _fetch(downloader, source, second, newer)
    assert (kept, came) == (100, len(FILES["large"]) + 5)
    assert tree(source.tree) == FILES
    assert tree(second) == {**FILES, "large": FILES["large"][::-1], "small": b"llams"}


async def test_a_half_written_file_with_two_names_is_made_anew(
    downloader: Downloader, source: Source, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    await downloader.seed(second, source.listing, source.tree)
    # as if a kill had come between two journals: it vouches for some parts of a linked file
    journal = journal_path(second)
    document = json.loads(journal.read_text())
    document["files"]["large"]["parts"] = "1"
    journal.write_text(json.dumps(document))
    (source.tree / "large").write_bytes(b"z" * len(FILES["large"]))
    await _fetch(downloader, source, second)
    assert tree(second) == FILES
    assert (source.tree / "large").read_bytes() == b"z" * len(FILES["large"])


async def test_what_an_earlier_fetch_left_is_kept_and_what_it_began_is_linked(
    downloader: Downloader, source: Source, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    await _fetch(downloader, source, second)
    journal = journal_path(second)
    document = json.loads(journal.read_text())
    document["files"]["large"]["parts"] = "3"
    journal.write_text(json.dumps(document))
    assert await downloader.seed(second, source.listing, source.tree) == len(FILES["large"])
    assert await _fetch(downloader, source, second) == (source.listing.total_bytes, 0)
    assert _inode(second / "large") == _inode(source.tree / "large")
    assert _inode(second / "small") != _inode(source.tree / "small")


async def test_a_file_that_was_begun_goes_on_where_there_is_nothing_to_link(
    downloader: Downloader, source: Source, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    await _fetch(downloader, source, second)
    document = json.loads(journal_path(second).read_text())
    document["files"]["large"]["parts"] = "3"
    journal_path(second).write_text(json.dumps(document))
    (source.tree / "large").unlink()
    assert await downloader.seed(second, source.listing, source.tree) == 0
    kept, came = await _fetch(downloader, source, second)
    assert came == 3 * PART
    assert kept == source.listing.total_bytes - came
    assert tree(second) == FILES


async def test_without_an_identity_nothing_is_linked(
    downloader: Downloader, source: Source, tmp_path: Path
) -> None:
    bare = tuple(
        dataclasses.replace(item, etag=None, last_modified=None) for item in source.listing.objects
    )
    assert (
        await downloader.seed(tmp_path / "second", Listing(bare, is_single=False), source.tree) == 0
    )
    assert tree(tmp_path / "second") == {}


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
async def test_where_no_link_can_be_made_the_file_is_cloned_or_fetched(
    downloader: Downloader,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    second = tmp_path / "second"
    saved = await downloader.seed(second, source.listing, source.tree)
    assert saved in {
        0,
        source.listing.total_bytes,
    }  # all or nothing: the file system knows clones or not
    assert await _fetch(downloader, source, second) == (
        saved,
        source.listing.total_bytes - saved,
    )
    assert tree(second) == FILES
    assert all((second / name).lstat().st_nlink == 1 for name in FILES)


_PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from trainedmodel_puller.storage.base import Listing, SourceObject
from trainedmodel_puller.storage.transfer.hardlinks import seed

folder, source, listed, part_bytes, last = sys.argv[1:]
items = tuple(SourceObject(*item) for item in json.loads(listed))
left = int(last)

def count(event, args):
    global left
    if event in {"os.link", "os.rename", "os.remove", "os.mkdir", "os.chmod"}:
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

sys.addaudithook(count)
seed(Path(folder), Listing(items, False), int(part_bytes), Path(source), ())
"""


@pytest.mark.timeout(60)
async def test_p7_a_kill_before_any_step_of_sharing_converges(
    downloader: Downloader, source: Source, tmp_path: Path
) -> None:
    items = [
        (item.path, item.size, item.etag, item.last_modified) for item in source.listing.objects
    ]
    second = tmp_path / "second"
    # Something is there already: a finished file, a begun one, and one that does not belong.
    await _fetch(downloader, source, second)
    document = json.loads(journal_path(second).read_text())
    document["files"]["large"]["parts"] = "3"
    del document["files"]["sub/deep/x"]
    (second / "stray").touch()
    for step in range(100):
        folder = tmp_path / f"run-{step}"
        await asyncio.to_thread(shutil.copytree, second, folder)
        journal_path(folder).write_text(json.dumps(document))
        arguments = [str(folder), str(source.tree), json.dumps(items), str(PART), str(step)]
        command = [sys.executable, "-c", _PROGRAM, *arguments]
        code = await asyncio.to_thread(subprocess.call, command)
        await _fetch(downloader, source, folder)
        assert tree(folder) == FILES
        assert tree(source.tree) == FILES
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert step > 5
