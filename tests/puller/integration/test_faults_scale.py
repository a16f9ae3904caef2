"""Many models at once, and the end of the process in the middle of each kind of action."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.puller.faulted import InstantProcess, Make, write_instant
from support.puller.faulty_server import FaultyProxy, FaultyStore, hang
from support.puller.forked import ForkedPuller
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.shard import make_manifest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]


def shards(sources: dict[str, str]) -> dict[str, bytes]:
    """Return the files of a folder with these models, in four shards, as the operator makes it."""
    files: dict[str, bytes] = {}
    for index in range(4):
        entries = {
            f"{name}.json": Entry(
                name=name, storage_uri=uri, revision="r1", generation=1, shard=index
            )
            .to_json()
            .encode()
            for number, (name, uri) in enumerate(sources.items())
            if number % 4 == index
        }
        files |= {**entries, f"_shard-{index}": make_manifest(index, entries).to_json().encode()}
    return files


@pytest.mark.parametrize(
    ("count", "most_s"), [(101, 30), pytest.param(2000, 60, marks=pytest.mark.scale)]
)
def test_that_many_models_at_the_start_are_all_loaded(
    make: Make, tmp_path: Path, server: InstantProcess, count: int, most_s: float
) -> None:
    sources = {f"m{n:04}": write_instant(tmp_path, f"s{n:04}", b"%d" % n) for n in range(count)}
    puller = make(server="triton", server_url=server.url)
    puller.kill()
    puller.project(shards(sources))
    began = time.monotonic()
    puller.start()
    while server.count < count and time.monotonic() - began < most_s:
        time.sleep(0.1)
    took = time.monotonic() - began
    assert server.count == count, f"{server.count} of {count} after {took:.1f} s"

    def is_settled() -> bool:
        status = puller.status()
        return status is not None and status["states"] == {"Loaded": count}

    puller.until(is_settled, "all to be told as loaded", 30)
    told = server.told()
    assert told["insane"] == []
    assert told["asked"]["load"] == count
    for event in ("action_failed", "folder_changed"):
        assert puller.events(event) == []
    # a restart has nothing to do
    puller.kill()
    puller.start()
    puller.until(is_settled, "all to be told as loaded again", 60)
    assert server.told()["asked"]["load"] == count
    puller.project(shards({}))
    puller.until(lambda: server.count == 0, "all to go", 60)
    assert server.told()["insane"] == []


# -- SIGTERM ----------------------------------------------------------------------------------


def slow_archive(tmp_path: Path) -> str:
    """An archive whose unpacking takes seconds: many small files."""
    folder = tmp_path / "source" / "archive"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "m.tar", "w") as archive:
        for number in range(10_000):
            entry = tarfile.TarInfo(f"1/{number}")
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
    return f"file://{folder}/m.tar"


def while_a_store_is_silent(
    puller: ForkedPuller, web: FaultyStore, _: FaultyProxy, root: Path
) -> None:
    puller.put("m", web.put("m.bin", b"x", stops_at=0))
    puller.wait("m", state="Downloading")


def while_downloading(puller: ForkedPuller, web: FaultyStore, _: FaultyProxy, root: Path) -> None:
    puller.put("m", web.put("m.bin", os.urandom(3_000_000), rate=200_000))
    puller.until(lambda: web.objects["m.bin"].sent > 100_000, "a part of it")


def while_unpacking(puller: ForkedPuller, web: FaultyStore, _: FaultyProxy, root: Path) -> None:
    puller.put("m", slow_archive(root))
    puller.wait("m", state="Verifying", timeout_s=30)


def while_loading(puller: ForkedPuller, web: FaultyStore, line: FaultyProxy, root: Path) -> None:
    line.faults["/load"] = hang
    puller.put("m", write_instant(root, "m"))
    puller.wait("m", state="Loading")


def while_unloading(puller: ForkedPuller, web: FaultyStore, line: FaultyProxy, root: Path) -> None:
    puller.put("m", write_instant(root, "m"))
    puller.wait("m", state="Loaded")
    line.faults["/unload"] = hang
    puller.remove("m")
    puller.until(lambda: any("/unload" in asked for asked in line.asked), "the call")


def while_waiting_for_the_server(
    puller: ForkedPuller, web: FaultyStore, line: FaultyProxy, root: Path
) -> None:
    line.faults["/"] = hang
    puller.put("m", write_instant(root, "m"))
    puller.until(lambda: not (puller.status() or {})["server"]["isKnown"], "doubt", 30)


MOMENTS: list[Callable[[ForkedPuller, FaultyStore, FaultyProxy, Path], None]] = [
    while_a_store_is_silent,
    while_downloading,
    while_unpacking,
    while_loading,
    while_unloading,
    while_waiting_for_the_server,
]


@pytest.mark.parametrize("moment", MOMENTS, ids=[moment.__name__ for moment in MOMENTS])
def test_sigterm_ends_it_whatever_it_does_and_the_next_life_goes_on(
    moment: Callable[[ForkedPuller, FaultyStore, FaultyProxy, Path], None],
    make: Make,
    tmp_path: Path,
    server: InstantProcess,
) -> None:
    with FaultyStore() as web, FaultyProxy(server.url) as line:
        puller = make("--period", "0.2", server="triton", server_url=line.url)
        moment(puller, web, line, tmp_path)
        code, _ = puller.terminate()
        assert code == 0
        assert "Traceback" not in puller.log.read_text()
        line.faults.clear()
        for item in web.objects.values():
            item.stops_at, item.rate = -1, 0
        puller.start()
        if moment is while_unloading:
            puller.wait_gone("m", timeout_s=30)
            assert server.loaded == set()
        elif moment in {
            while_a_store_is_silent,
            while_downloading,
        }:  # plain files are no model of Triton's
            puller.wait("m", state="Failed", reason="InvalidLayout", timeout_s=30)
        else:
            puller.wait("m", state="Loaded", timeout_s=60)
            assert server.loaded == {"m"}
