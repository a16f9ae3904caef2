"""A whole puller over one configuration file, on stand-ins, since no real server is to be had.

What this shows is that driver, volume and plan agree with each other: where the version folders
lie, what a killed puller finds again, and that the file is all that is left in the end.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from puller.standins import StandInOvms, StandInTfs
from puller.standins import running as playing
from support.puller.processes import Puller, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

PLAYED = {"tfs": (StandInTfs, "models.config"), "ovms": (StandInOvms, "config.json")}


def write(folder: Path, *, broken: bool = False) -> str:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "saved_model.pb").write_text(folder.name)
    if broken:
        (folder / "1" / "broken").touch()
    return f"file://{folder}"


def live_through(puller: Puller, server: StandInTfs, sources: Path) -> None:
    def serving() -> list[int]:
        statuses = dict(server.versions.get("m", {}))
        return [version for version, one in statuses.items() if one["state"] == "AVAILABLE"]

    puller.put("m", write(sources / "one"))
    puller.wait("m", state="Loaded")
    (first,) = serving()
    assert (puller.models / "m" / str(first) / "saved_model.pb").read_text() == "one"
    revision = puller.put("m", write(sources / "two"))
    puller.wait("m", state="Loaded", revision=revision)
    (second,) = serving()
    assert second != first
    assert (puller.models / "m" / str(second) / "saved_model.pb").read_text() == "two"
    puller.put("m", write(sources / "three", broken=True))
    puller.wait("m", state="Failed", reason="LoadFailed", loadedRevision=revision)
    assert serving() == [second]
    puller.kill()
    puller.start()
    puller.wait("m", state="Failed", loadedRevision=revision)
    assert serving() == [second]
    puller.remove("m")
    puller.wait_gone("m")
    assert serving() == []
    assert puller.files() == [f"models/{server.config.name}"]


@pytest.mark.parametrize("kind", PLAYED)
async def test_a_model_comes_changes_breaks_and_goes(kind: str, tmp_path: Path) -> None:
    play, file = PLAYED[kind]
    server = play(tmp_path / "volume" / "models" / file)
    async with playing(server.application()) as url:
        made = Puller(tmp_path, server=kind, server_url=url, flags=("--file-root", str(tmp_path)))
        with running(made) as puller:
            await asyncio.to_thread(live_through, puller, server, tmp_path / "sources")
