from __future__ import annotations

import asyncio
import hashlib
import subprocess
from pathlib import Path

import pytest
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import SourceFault, VolumeFault
from trainedmodel_puller.storage import digest
from trainedmodel_puller.storage.base import Listing, SourceObject


def _listing(folder: Path, *, is_single: bool = False) -> Listing:
    found = [p for p in folder.rglob("*") if p.is_file()]
    return Listing(
        tuple(SourceObject(p.relative_to(folder).as_posix(), p.stat().st_size) for p in found),
        is_single,
    )


async def test_a_single_object_has_its_own_digest(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"model")
    wanted = f"sha256:{hashlib.sha256(b'model').hexdigest()}"
    assert await digest.tree_digest(tmp_path, _listing(tmp_path, is_single=True)) == wanted


async def test_a_folder_has_the_digest_that_the_documented_command_prints(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/ü", "b/z", "a b", "B", "empty"):
        (tmp_path / name).write_text(name if name != "empty" else "")
    doc = digest.__doc__ or ""
    command = " ".join(line for line in doc.splitlines() if line.startswith("    "))
    said = await asyncio.to_thread(
        subprocess.check_output, ["bash", "-c", command], cwd=tmp_path, text=True
    )
    found = await digest.tree_digest(tmp_path, _listing(tmp_path))
    assert found == f"sha256:{said.split()[0]}"


async def test_a_wrong_digest_is_shown_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"model")
    listing, wanted = _listing(tmp_path), "sha256:" + "0" * 64
    with pytest.raises(SourceFault) as caught:
        await digest.verify(tmp_path, listing, wanted)
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    found = await digest.tree_digest(tmp_path, listing)
    assert wanted in caught.value.message
    assert found in caught.value.message
    await digest.verify(tmp_path, listing, found)


async def test_a_file_that_is_gone_is_the_volumes_fault(tmp_path: Path) -> None:
    listing = Listing((SourceObject("m", 1),), is_single=True)
    with pytest.raises(VolumeFault):
        await digest.tree_digest(tmp_path, listing)
