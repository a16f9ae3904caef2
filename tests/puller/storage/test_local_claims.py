"""Claims as people have them: caches made of links, fresh file systems, folders closed to us."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from puller.storage.test_download import tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.local import LocalStorage
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

#: The puller's user in its image.
POD_USER = 65532


@pytest.fixture
def claims() -> Iterator[Path]:
    """A folder of claims that any user may look into; pytest's own is root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="trainedmodel-claims-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fresh_ext4(claims: Path) -> Iterator[Path]:
    """A claim on an ext4 that was just made, as a cloud's disk is when it is first mounted."""
    image, claim = claims / "image", claims / "disk"
    claim.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, claim], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 can be mounted here: {error}")
    yield claim
    subprocess.run(["umount", claim], check=True)


@contextlib.contextmanager
def pod_user() -> Iterator[None]:
    """Be no longer root, as the puller in its pod is not."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.seteuid(POD_USER)
    try:
        yield
    finally:
        os.seteuid(0)


async def _fault(storage: LocalStorage, text: str) -> SourceFault:
    with pytest.raises(SourceFault) as caught:
        await storage.list(parse_uri(text))
    return caught.value


async def _fetched(claims: Path, text: str, folder: Path) -> dict[str, bytes]:
    async with (
        StorageRegistry(StorageSettings(pvc_root=claims)) as registry,
        Downloader(registry) as downloader,
    ):
        uri = parse_uri(text)
        await downloader.fetch(uri, await downloader.list(uri), folder, lambda _: None)
    return tree(folder)


async def test_a_file_that_is_a_link_into_a_hub_cache_arrives_under_the_name_that_was_asked_for(
    claims: Path, tmp_path: Path
) -> None:
    cache = claims / "hub" / "models--org--lora"
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "8d2f").write_bytes(b"{}")
    (snapshot / "adapter_config.json").symlink_to("../../blobs/8d2f")
    (claims / "hub" / "current").symlink_to("models--org--lora/snapshots/abc")
    for number, path in enumerate(
        ("models--org--lora/snapshots/abc/adapter_config.json", "current/adapter_config.json")
    ):
        got = await _fetched(claims, f"pvc://hub/{path}", tmp_path / str(number))
        assert got == {"adapter_config.json": b"{}"}
    whole = await _fetched(claims, "pvc://hub/current", tmp_path / "whole")
    assert whole == {"adapter_config.json": b"{}"}


async def test_a_model_at_the_top_of_a_fresh_file_system_is_read_without_its_fsck_folder(
    fresh_ext4: Path, claims: Path, tmp_path: Path
) -> None:
    (fresh_ext4 / "model.bin").write_bytes(b"x")
    assert (fresh_ext4 / "lost+found").is_dir()
    storage = LocalStorage((claims,), claims)
    for text in ("pvc://disk", "pvc://disk/", f"file://{fresh_ext4}"):
        listing = await storage.list(parse_uri(text))
        assert ([item.path for item in listing.objects], listing.folders) == (["model.bin"], ())
        with pod_user():
            again = await storage.list(parse_uri(text))
        assert again == listing
    assert await _fetched(claims, "pvc://disk", tmp_path / "to") == {"model.bin": b"x"}


async def test_a_folder_of_that_name_inside_a_model_is_the_models_own(claims: Path) -> None:
    for path in ("claim/lost+found/x", "claim/m/lost+found/x"):
        (claims / path).parent.mkdir(parents=True)
        (claims / path).touch()
    storage = LocalStorage(pvc_root=claims)
    listing = await storage.list(parse_uri("pvc://claim/m"))
    assert [item.path for item in listing.objects] == ["lost+found/x"]
    listing = await storage.list(parse_uri("pvc://claim"))
    assert [item.path for item in listing.objects] == ["m/lost+found/x"]
    listing = await storage.list(parse_uri("pvc://claim/lost+found"))
    assert [item.path for item in listing.objects] == ["x"]


async def test_what_may_not_be_read_is_named_with_the_user_that_may_not(claims: Path) -> None:
    model = claims / "claim" / "m"
    (model / "closed").mkdir(parents=True)
    (model / "closed").chmod(0o700)
    (model / "weights").write_bytes(b"x")
    storage = LocalStorage(pvc_root=claims)
    with pod_user():
        fault = await _fault(storage, "pvc://claim/m")
    assert fault.reason is Reason.ACCESS_DENIED
    assert "pvc://claim/m: 'closed' cannot be read: Permission denied" in fault.message
    assert f"the puller runs as user {POD_USER}" in fault.message


@pytest.mark.parametrize(
    ("target", "reason", "words"),
    [
        ("nowhere", Reason.OBJECT_NOT_FOUND, "'sub/link' is a link whose target does not exist"),
        ("link", Reason.UNSAFE_PATH, "'sub/link' is a link to itself"),
        ("../sub", Reason.UNSAFE_PATH, "'sub/link' is part of a loop of links"),
        ("/etc/passwd", Reason.ACCESS_DENIED, "'sub/link' lies outside the folders"),
    ],
)
async def test_a_link_that_cannot_be_followed_is_named(
    claims: Path, target: str, reason: Reason, words: str
) -> None:
    (claims / "claim" / "m" / "sub").mkdir(parents=True)
    (claims / "claim" / "m" / "sub" / "link").symlink_to(target)
    (claims / "claim" / "m" / "x").touch()
    fault = await _fault(LocalStorage(pvc_root=claims), "pvc://claim/m")
    assert (fault.reason, words in fault.message) == (reason, True), fault.message
