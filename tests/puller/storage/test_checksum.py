from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest
from multidict import CIMultiDict
from puller.storage.servers import RawServer, Request
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.errors import SourceFault, VolumeFault
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, Listing, SourceObject
from trainedmodel_puller.storage.checksum import (
    entry_checksum,
    header_checksum,
    matches_listing,
    verify_checksums,
)
from trainedmodel_puller.storage.digest import tree_digest
from trainedmodel_puller.storage.download import Downloader

CONTENT = b"model"
MD5, SHA = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
MD5_64 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
SHA_64 = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()


@pytest.mark.parametrize(
    ("headers", "is_whole", "found"),
    [
        ({"Content-MD5": MD5_64}, True, ("md5", MD5)),
        ({"content-md5": MD5_64}, False, None),  # of the part that was sent
        ({"Repr-Digest": f"sha-256=:{SHA_64}:"}, False, ("sha256", SHA)),
        ({"Digest": f"MD5={MD5_64}, SHA-256={SHA_64}"}, True, ("sha256", SHA)),
        ({"x-goog-hash": f"crc32c=AAAAAA==,md5={MD5_64}"}, True, ("md5", MD5)),
        ({"x-goog-hash": "crc32c=AAAAAA=="}, True, None),
        (
            {"x-goog-hash": f"md5={MD5_64}", "x-goog-stored-content-encoding": "gzip"},
            True,
            None,
        ),
        ({"x-ms-blob-content-md5": MD5_64}, False, ("md5", MD5)),
        ({"Content-MD5": "no base64!"}, True, None),
        ({"Content-MD5": SHA_64}, True, None),
        ({"Digest": "SHA-256"}, True, None),
        ({"ETag": f'"{MD5}"'}, True, None),
        ({}, True, None),
    ],
)
def test_only_a_checksum_of_the_whole_object_is_taken_from_headers(
    headers: dict[str, str], is_whole: bool, found: tuple[str, str] | None
) -> None:
    assert header_checksum(CIMultiDict(headers), is_whole=is_whole) == found


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"md5Hash": MD5_64}, ("md5", MD5)),
        ({"content_settings": {"content_md5": bytearray.fromhex(MD5)}}, ("md5", MD5)),
        ({"content_md5": MD5_64}, ("md5", MD5)),
        ({"ETag": f'"{MD5}"'}, None),
    ],
)
def test_what_file_systems_tell_of_an_object(
    entry: dict[str, object], found: tuple[str, str] | None
) -> None:
    assert entry_checksum(entry) == found


def _folder(tmp_path: Path, **files: bytes) -> Path:
    folder = tmp_path / "tree"
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _listing(*items: SourceObject, is_single: bool = False) -> Listing:
    return Listing(items, is_single)


async def test_a_file_that_is_not_what_its_store_says_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a=CONTENT, b=CONTENT, c=b"other")
    good = SourceObject("a", 5, checksum=("md5", MD5))
    unknown = SourceObject("c", 5, f'"{MD5}"')  # an etag that looks like an MD5 accuses nobody
    cannot = SourceObject("c", 5, checksum=("crc32c", "00000000"))
    await verify_checksums(folder, _listing(good, unknown, cannot))
    bad = SourceObject("b", 5, checksum=("sha256", "0" * 64))
    with pytest.raises(SourceFault) as caught:
        await verify_checksums(folder, _listing(good, bad))
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert "'b'" in caught.value.message
    assert SHA in caught.value.message
    with pytest.raises(VolumeFault):
        await verify_checksums(folder, _listing(SourceObject("no", 5, checksum=("md5", MD5))))


async def test_a_servers_checksum_is_checked_after_the_fetch(
    downloader: Downloader, tmp_path: Path
) -> None:
    sent = CONTENT

    async def respond(request: Request) -> None:
        await request.serve(sent, Content_MD5=MD5_64)

    async with RawServer(respond) as server:
        uri = server.uri("m")
        listing = await downloader.list(uri)
        assert listing.objects[0].checksum == ("md5", MD5)
        await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
        await verify_checksums(tmp_path / "to", listing)
        sent = CONTENT[::-1]
        await downloader.fetch(uri, listing, tmp_path / "to2", lambda _: None)
        with pytest.raises(SourceFault):
            await verify_checksums(tmp_path / "to2", listing)


PROVEN = SourceObject("a", 5, f'"{MD5}"')


async def test_a_folder_with_proof_for_each_file_is_taken(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a=CONTENT, sub__b=CONTENT)
    listing = _listing(PROVEN, SourceObject("sub/b", 5, checksum=("sha256", SHA)))
    assert await matches_listing(folder, listing, None)
    (folder / "SUCCESS.abc").touch()
    assert not await matches_listing(folder, listing, None)
    assert await matches_listing(folder, listing, None, ignored=frozenset({"SUCCESS.abc"}))


@pytest.mark.parametrize(
    "item",
    [
        SourceObject("a", 5),
        SourceObject("a", 5, '"abc-2"'),  # a multipart etag
        SourceObject("a", 5, f'W/"{MD5}"'),
        SourceObject("a", 5, f'"{"0" * 32}"'),
        SourceObject("a", 6, f'"{MD5}"'),
        SourceObject("a", 5, f'"{MD5}"', checksum=("sha256", "0" * 64)),
        SourceObject("a", 5, checksum=("crc32c", "00000000")),
    ],
)
async def test_without_proof_a_folder_is_not_taken(tmp_path: Path, item: SourceObject) -> None:
    assert not await matches_listing(_folder(tmp_path, a=CONTENT), _listing(item), None)


@pytest.mark.parametrize("harm", ["extra", "missing", "link", "folder", "pipe", "root", "no root"])
async def test_a_folder_that_holds_anything_else_is_not_taken(tmp_path: Path, harm: str) -> None:
    folder = _folder(tmp_path, a=CONTENT)
    listing = _listing(PROVEN)
    assert await matches_listing(folder, listing, None)
    if harm == "extra":
        (folder / "b").touch()
    elif harm == "missing":
        listing = _listing(PROVEN, SourceObject("b", 5, f'"{MD5}"'))
    elif harm == "link":
        (folder / "a").rename(tmp_path / "moved")
        (folder / "a").symlink_to(tmp_path / "moved")
    elif harm == "folder":
        (folder / "empty").mkdir()
    elif harm == "pipe":
        (folder / "a").unlink()
        os.mkfifo(folder / "a")
    elif harm == "root":
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
    else:
        folder = tmp_path / "nowhere"
    assert not await matches_listing(folder, listing, None)


async def test_a_digest_decides_alone(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a=CONTENT)
    unproven = _listing(SourceObject("a", UNKNOWN_SIZE))
    digest = await tree_digest(folder, unproven)
    assert await matches_listing(folder, unproven, digest)
    assert not await matches_listing(folder, _listing(PROVEN), "sha256:" + "0" * 64)


@pytest.mark.integration
async def test_what_another_program_fetched_from_s3_is_taken(
    downloader: Downloader, s3_env: S3Store, tmp_path: Path
) -> None:
    for name in ("a", "sub/b"):
        s3_env.put("adopt", f"m/{name}", CONTENT + name.encode())
    folder = _folder(tmp_path, a=CONTENT + b"a", sub__b=CONTENT + b"sub/b")
    uri = parse_uri("s3://adopt/m")
    listing = await downloader.list(uri)
    assert await matches_listing(folder, listing, None)
    (folder / "a").write_bytes(CONTENT + b"b")
    assert not await matches_listing(folder, listing, None)
    (folder / "a").write_bytes(CONTENT + b"a")
    s3_env.put("adopt", "m/a", CONTENT + b"c")
    assert not await matches_listing(folder, await downloader.list(uri), None)
