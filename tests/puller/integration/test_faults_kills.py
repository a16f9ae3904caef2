"""P7, enumerated once more: the way of an archive, and the layout with a folder a revision.

As in `test_kills`, a puller is killed before its first step, its second, and so on; then an
unharmed one must bring about what is desired, with nothing left over. vLLM needs minutes to start,
so its stand-in takes the adapters here: what is tested is the puller.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_server import LoopThread
from forked_puller import ForkedPuller, Zygote
from puller.standins import StandInVLLM, running, write_adapter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

#: More steps than any way has.
MOST_STEPS = 300


def is_done(puller: ForkedPuller, revision: str | None) -> bool:
    """Tell whether the puller has brought about what is desired, with nothing left to tidy."""
    status = puller.status()
    if status is None or not status.get("isSettled"):
        return False
    if revision is None:
        return "m" not in status["models"]
    model = status["models"].get("m", {})
    is_loaded = (model.get("state"), model.get("revision")) == ("Loaded", revision)
    return is_loaded and not list((puller.state / "staging").iterdir())


def live(puller: ForkedPuller, revision: str | None) -> None:
    """Let an unharmed puller do its work."""
    puller.start()
    puller.until(lambda: is_done(puller, revision), f"{revision} to be all there is", 30)
    puller.kill()


def want(puller: ForkedPuller, uri: str | None) -> str | None:
    """Desire a model, or none; return its revision."""
    if uri is not None:
        return puller.put("m", uri)
    (puller.config / "m.json").unlink(missing_ok=True)
    return None


def wipe(puller: ForkedPuller) -> None:
    """Begin anew, without the half second that an unload takes."""
    for folder in (puller.models, puller.state):
        shutil.rmtree(folder)
    puller.models.mkdir()


def enumerate_kills(
    puller: ForkedPuller,
    before: list[str | None],
    after: str | None,
    check: Callable[[str, bool], None],
    wipe: Callable[[ForkedPuller], None] = wipe,
) -> None:
    """Go the way from `before` to `after` once for each step, killed before that step.

    `check` is called with the last step's words: after the kill, and again (True) in the end.
    """
    for step in range(MOST_STEPS):
        for uri in before:
            live(puller, want(puller, uri))
        revision = want(puller, after)
        puller.steps.unlink(missing_ok=True)
        puller.start(kill_at=step)
        deadline = time.monotonic() + 30
        while not puller.has_died and not is_done(puller, revision):
            assert time.monotonic() < deadline, puller.status()
            time.sleep(0.005)
        was_killed = puller.has_died
        puller.kill()
        where = puller.steps.read_text().splitlines()[-1]
        check(where, False)
        live(puller, revision)
        check(where, True)
        for folder in ("staging", "trash"):
            assert list((puller.state / folder).iterdir()) == [], where
        if not was_killed:
            assert step > 5, "so few steps cannot be all of it"
            live(puller, want(puller, None))
            assert puller.files() == []
            return
        wipe(puller)
    pytest.fail("the way never came to its end")


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
