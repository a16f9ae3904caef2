from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from puller.storage.test_download import CONTENT, tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.local import LocalStorage
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.download import Downloader


async def _refusal(storage: LocalStorage, text: str) -> SourceFault:
    with pytest.raises(SourceFault) as caught:
        await storage.list(parse_uri(text))
    return caught.value


async def test_a_folder_is_copied_with_links_followed(
    downloader: Downloader, roots: Path, tmp_path: Path
) -> None:
    (roots / "blobs").mkdir()
    (roots / "blobs" / "1").write_bytes(CONTENT)
    (roots / "m" / "sub").mkdir(parents=True)
    (roots / "m" / "weights").symlink_to("../blobs/1")
    (roots / "m" / "linked").symlink_to("sub", target_is_directory=True)
    (roots / "m" / "sub" / "x").write_bytes(b"x")
    (roots / "m10").mkdir()
    uri = parse_uri(f"file://{roots}/m")
    listing = await downloader.list(uri)
    await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
    assert tree(tmp_path / "to") == {"weights": CONTENT, "sub/x": b"x", "linked/x": b"x"}


async def test_a_single_file_has_its_own_name(roots: Path) -> None:
    (roots / "m.bin").write_bytes(b"x")
    listing = await LocalStorage([roots]).list(parse_uri(f"file://{roots}/m.bin"))
    assert listing.is_single
    assert listing.objects[0].path == "m.bin"
    fault = await _refusal(LocalStorage([roots]), f"file://{roots}/m.bin/")
    assert fault.reason is Reason.OBJECT_NOT_FOUND


async def test_nothing_outside_the_roots_is_read_however_it_is_named(
    roots: Path, tmp_path: Path
) -> None:
    (tmp_path / "root-not").mkdir()
    (tmp_path / "root-not" / "x").touch()
    (tmp_path / "secret").write_text("token")
    (roots / "link").symlink_to(tmp_path / "secret")
    (roots / "up").symlink_to(tmp_path)
    (roots / "m").mkdir()
    (roots / "m" / "inner").symlink_to("/etc/passwd")
    storage = LocalStorage([roots])
    for path in ("/etc/passwd", "/nowhere", f"{tmp_path}/root-not", f"{roots}/link", f"{roots}/up"):
        fault = await _refusal(storage, f"file://{path}")
        assert fault.reason is Reason.ACCESS_DENIED
        assert "--file-root" in fault.message
    assert (await _refusal(storage, f"file://{roots}/m")).reason is Reason.ACCESS_DENIED
    assert (await _refusal(LocalStorage(), f"file://{roots}")).reason is Reason.ACCESS_DENIED
    assert (await _refusal(storage, f"file://host{roots}")).reason is Reason.INVALID_URI


async def test_a_claim_is_read_below_its_own_folder_only(tmp_path: Path) -> None:
    (tmp_path / "claims" / "one" / "m").mkdir(parents=True)
    (tmp_path / "claims" / "two").mkdir()
    (tmp_path / "claims" / "two" / "x").touch()
    (tmp_path / "claims" / "one" / "m" / "x").touch()
    (tmp_path / "claims" / "one" / "over").symlink_to("../two")
    storage = LocalStorage(pvc_root=tmp_path / "claims")
    listing = await storage.list(parse_uri("pvc://one/m"))
    assert [item.path for item in listing.objects] == ["x"]
    assert (await _refusal(storage, "pvc://one/over")).reason is Reason.ACCESS_DENIED
    assert (await _refusal(storage, "pvc://three/m")).reason is Reason.OBJECT_NOT_FOUND
    assert (await _refusal(storage, "pvc:///one/m")).reason is Reason.INVALID_URI
    assert "--pvc-root" in (await _refusal(LocalStorage(), "pvc://one/m")).message


async def test_pipes_and_circles_and_missing_things_have_reasons(roots: Path) -> None:
    storage = LocalStorage([roots])
    (roots / "circle").mkdir()
    (roots / "circle" / "again").symlink_to("..")
    assert (await _refusal(storage, f"file://{roots}/circle")).reason is Reason.UNSAFE_PATH
    (roots / "pipes").mkdir()
    os.mkfifo(roots / "pipes" / "p")
    assert (await _refusal(storage, f"file://{roots}/pipes")).reason is Reason.UNSAFE_PATH
    assert (await _refusal(storage, f"file://{roots}/none")).reason is Reason.OBJECT_NOT_FOUND
    (roots / "empty").mkdir()
    assert (await _refusal(storage, f"file://{roots}/empty")).reason is Reason.OBJECT_NOT_FOUND


@pytest.mark.parametrize("harm", ["changed", "gone", "link out", "pipe"])
async def test_a_file_that_is_exchanged_after_the_listing_is_not_read(
    roots: Path, harm: str
) -> None:
    path, uri = roots / "m", parse_uri(f"file://{roots}/m")
    path.write_bytes(b"one")
    storage = LocalStorage([roots])
    listing = await storage.list(uri)
    path.unlink()
    if harm == "changed":
        path.write_bytes(b"two")
    elif harm == "link out":
        path.symlink_to("/etc/passwd")
    elif harm == "pipe":
        os.mkfifo(path)
    with pytest.raises(SourceFault) as caught:
        async with asyncio.timeout(2):
            await _drain(storage, listing, str(roots / "m"))
    assert caught.value.reason in {Reason.SOURCE_CHANGED, Reason.ACCESS_DENIED}


async def _drain(storage: LocalStorage, listing: Listing, path: str) -> None:
    item = listing.objects[0]
    async for _ in storage.read(parse_uri(f"file://{path}"), item, 0, item.size):
        pass
