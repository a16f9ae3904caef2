"""A -> B -> A: a rollback takes what was kept, and asks the store for nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.puller.faulted import Make
from support.puller.faulty_server import FaultyStore
from support.puller.forked import ForkedPuller
from support.puller.processes import Hammer, infer
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, RunningServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with serve(MLServer(), tmp_path / "p0" / "volume" / "models") as started:
        yield started


def test_a_rollback_on_a_real_server_downloads_nothing_and_loses_no_request(
    make: Make, server: RunningServer, tmp_path: Path
) -> None:
    for k in (2, 3):
        write_scale_mlserver(tmp_path / "source" / f"k{k}", k)
    puller = make(server="mlserver", server_url=server.url)
    first = puller.put("m", f"file://{tmp_path}/source/k2")
    puller.wait("m", state="Loaded", revision=first, timeout_s=30)
    with Hammer(server.url, "m", {2.0, 3.0}, workers=2) as hammer:
        for turn in range(6):
            k = 3 - turn % 2
            revision = puller.put("m", f"file://{tmp_path}/source/k{k}")
            puller.wait("m", state="Loaded", revision=revision, timeout_s=30)
            assert infer(server.url, "m", 1.0) == float(k)
    assert hammer.failed == 0
    assert len(puller.events("model_downloaded")) == 2
    assert len(puller.events("model_loaded")) == 7


def put_and_wait(puller: ForkedPuller, uri: str) -> str:
    revision = puller.put("m", uri)
    puller.wait("m", state="Loaded", revision=revision)
    return revision


def test_a_rollback_works_while_its_store_is_gone(make: Make, web: FaultyStore) -> None:
    puller = make()
    contents = {name: os.urandom(500_000) for name in ("a", "b")}
    urls = {name: web.put(f"{name}.bin", content) for name, content in contents.items()}
    put_and_wait(puller, urls["a"])
    put_and_wait(puller, urls["b"])
    for item in web.objects.values():
        item.status = 503
    put_and_wait(puller, urls["a"])
    assert (puller.models / "m" / "a.bin").read_bytes() == contents["a"]
    puller.kill()
    puller.start()
    put_and_wait(puller, urls["b"])  # an earlier life's version counts as well
    assert (puller.models / "m" / "b.bin").read_bytes() == contents["b"]
    assert {name: item.gets for name, item in web.objects.items()} == {"a.bin": 1, "b.bin": 1}
    assert puller.events("action_failed") == []


def test_a_rollback_of_an_update_that_never_came_is_instant(make: Make, web: FaultyStore) -> None:
    puller = make()
    first = put_and_wait(puller, web.put("a.bin", b"a" * 1000))
    puller.put("m", web.put("b.bin", b"b" * 50_000_000, rate=100_000))
    puller.until(lambda: web.objects["b.bin"].sent > 100_000, "a part of it")
    puller.put("m", web.url("a.bin"))
    puller.wait("m", state="Loaded", revision=first)
    assert web.objects["b.bin"].sent < 50_000_000, "it does not wait for what it does not need"
    puller.until(lambda: list((puller.state / "staging").iterdir()) == [], "the part to go")
    assert len(puller.events("model_loaded")) == 1, "it was served all the time"


@pytest.mark.parametrize(("kept", "fetches"), [(0, 4), (1, 4), (2, 3)])
def test_as_many_revisions_are_kept_as_asked_for(
    make: Make, web: FaultyStore, kept: int, fetches: int
) -> None:
    puller = make("--keep-versions", str(kept))
    urls = [web.put(f"{name}.bin", name.encode() * 1000) for name in "abc"]
    for url in urls:
        put_and_wait(puller, url)
    versions = puller.state / "versions" / "m"
    puller.until(lambda: len(list(versions.iterdir())) == kept, f"{kept} to be kept")
    put_and_wait(puller, urls[0])
    assert sum(item.gets for item in web.objects.values()) == fetches
    puller.remove("m")
    puller.wait_gone("m")
    assert puller.files() == []


def test_kept_revisions_are_bounded_in_bytes_over_all_models(make: Make, web: FaultyStore) -> None:
    puller = make("--keep-versions", "5", "--keep-bytes", "1Mi")
    for number in range(5):
        put_and_wait(puller, web.put(f"{number}.bin", bytes(400_000) + b"%d" % number))
    versions = puller.state / "versions" / "m"

    def kept() -> int:
        return sum(path.stat().st_size for path in versions.rglob("*.bin"))

    puller.until(lambda: kept() <= 2**20, "the rest to go")
    assert kept() > 400_000
