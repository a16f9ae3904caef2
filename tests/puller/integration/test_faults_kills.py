"""P7, enumerated once more: the way of an archive, and the layout with a folder a revision.

As in `test_kills`, a puller is killed before its first step, its second, and so on; then an
unharmed one must bring about what is desired, with nothing left over. vLLM needs minutes to start,
so its stand-in takes the adapters here: what is tested is the puller.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from puller.standins import StandInVLLM, running, write_adapter
from support.puller.faulty_server import LoopThread
from support.puller.forked import ForkedPuller, Zygote
from support.puller.killed import enumerate_kills, wipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

# -- archives ---------------------------------------------------------------------------------


def write_archive(folder: Path, word: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{word}.tar.gz", "w:gz") as archive:
        for name in ("one", "deep/two"):
            entry = tarfile.TarInfo(name)
            entry.size = len(word)
            archive.addfile(entry, io.BytesIO(word.encode()))
    return f"file://{folder}/{word}.tar.gz"


def shown_words(folder: Path) -> set[str]:
    """Return the words in a served folder, which must be whole and of one revision."""
    if not folder.exists():
        return set()
    identity = json.loads((folder / ".trainedmodel.json").read_text())
    words = {(folder / name).read_text() for name in ("one", "deep/two")}
    assert len(words) == 1, "files of two revisions"
    assert f"/{next(iter(words))}.tar.gz" in identity["storageUri"]
    assert not list(folder.rglob("*.tar.gz"))
    return words


def test_p7_a_kill_before_any_step_of_an_archives_way_converges(
    zygote: Zygote, tmp_path: Path
) -> None:
    old, new = (write_archive(tmp_path / "source", word) for word in ("old", "new"))
    flags = ("--file-root", str(tmp_path / "source"), "--period", "0.1", "--no-watch")
    puller = ForkedPuller(zygote, tmp_path, flags=flags)

    def check(where: str, is_end: bool) -> None:
        words = shown_words(puller.models / "m")
        allowed = [{"new"}] if is_end else [{"new"}, {"old"}]
        assert words in allowed, f"after a kill before step {where}"

    try:
        enumerate_kills(puller, [old], new, check)
    finally:
        puller.kill()


# -- a folder a revision ----------------------------------------------------------------------


class PlayedVLLM(LoopThread):
    """The stand-in for vLLM, in a thread."""

    def __init__(self) -> None:
        self.server = StandInVLLM()
        self._context = running(self.server.application())

    async def begin(self) -> None:
        self.url = await self._context.__aenter__()

    async def end(self) -> None:
        await self._context.__aexit__(None, None, None)

    def shown(self) -> str | None:
        """Return what serves under the name `m`, as its files say it now."""
        root = dict(self.server.adapters).get("m")
        return None if root is None else (Path(root) / "adapter_model.safetensors").read_text()


WAYS: dict[str, tuple[list[str | None], str | None, set[str | None]]] = {
    "update": (["one"], "two", {"one", "two", None}),
    "removal": (["one"], None, {"one", None}),
}


@pytest.mark.parametrize("way", WAYS)
def test_p7_a_kill_before_any_step_converges_with_a_folder_a_revision(
    way: str, zygote: Zygote, tmp_path: Path
) -> None:
    before, after, allowed = WAYS[way]
    source = tmp_path / "source"
    uris = {word: f"file://{write_adapter(source / word, weights=word)}" for word in ("one", "two")}
    flags = ("--file-root", str(source), "--period", "0.1", "--no-watch")
    with PlayedVLLM() as vllm:
        puller = ForkedPuller(zygote, tmp_path, server="vllm", server_url=vllm.url, flags=flags)

        def check(where: str, is_end: bool) -> None:
            # what the server has, it can still read: its folder is there, whole
            shown = vllm.shown()
            assert shown in ({after} if is_end else allowed), f"before step {where}: {shown}"
            if is_end:
                assert set(vllm.server.adapters) <= {"m"}, f"a trial is left: {where}"

        def forget(made: ForkedPuller) -> None:
            vllm.server.adapters.clear()
            wipe(made)

        try:
            ways = [None if word is None else uris[word] for word in before]
            enumerate_kills(puller, ways, None if after is None else uris[after], check, forget)
        finally:
            puller.kill()
