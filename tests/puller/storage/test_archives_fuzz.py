"""Archives with bytes changed, cut and doubled: a fault in words or a tree, never anything else."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from puller.storage.test_archives import KINDS, file, folder, link, pack
from support.examples import examples
from trainedmodel_puller.errors import ModelFault
from trainedmodel_puller.storage.archives import ArchiveKind, UnpackLimits, recognise, unpack

LIMITS = UnpackLimits(max_bytes=16 << 20)
MEMBERS = [folder("sub"), file("sub/weights", b"w" * 300), link("again", "sub/weights"), file("x")]
#: Where, how many bytes go, and what comes in their place.
CHANGE = st.tuples(st.integers(0, 2**20), st.integers(0, 600), st.binary(max_size=16))


def changed(whole: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, new in changes:
        start = at % (len(whole) + 1)
        whole = whole[:start] + new + whole[start + length :]
    return whole


def beside(root: Path) -> list[str]:
    """Return what lies beside the folder that is unpacked into."""
    return sorted(path.name for path in root.iterdir() if path.name != "target")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(40))
@given(changes=st.lists(CHANGE, min_size=1, max_size=4))
async def test_a_changed_archive_is_a_fault_or_a_tree(
    kind: ArchiveKind, changes: list[tuple[int, int, bytes]]
) -> None:
    root = Path(tempfile.mkdtemp(prefix="trainedmodel-test-"))
    try:
        archive, target = root / "archive", root / "target"
        archive.write_bytes(changed(pack(kind, MEMBERS), changes))
        words = ""
        try:
            told = await asyncio.to_thread(recognise, archive)
            await unpack(archive, told or kind, target, LIMITS, lambda _: None, durable=False)
        except ModelFault as fault:
            words = fault.message
        assert words.isprintable()
        assert beside(root) == ["archive"]
        for path in target.rglob("*"):
            if path.is_symlink():
                assert path.resolve().is_relative_to(target.resolve()), "a link leads outside"
    finally:
        shutil.rmtree(root)
