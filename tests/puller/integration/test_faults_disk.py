"""Faults of the volume and of limits: full, freed, tampered with; memory; clocks that jump.

The volume is a real file system of 64 MiB (a tmpfs, so these tests need root), of which 16 MiB are
the reserve that downloads leave.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.puller.faulted import InstantProcess, Make, puller_factory, write_instant, write_model
from support.puller.faulty_server import FaultyStore
from support.puller.forked import ForkedPuller, Zygote
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

MIB = 1024 * 1024


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Where a puller lives whose volume has 64 MiB."""
    root = tmp_path / "small"
    volume = root / "volume"
    volume.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", volume], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", "-l", volume], check=True)


@pytest.fixture
def tight(small: Path, zygote: Zygote, tmp_path: Path) -> Iterator[Make]:
    """Make pullers on the small volume; all have ended before it is unmounted."""
    with puller_factory(zygote, tmp_path) as factory:

        def make(*flags: str, **details: object) -> ForkedPuller:
            return factory("--period", "0.2", *flags, at=small, **details)

        yield make


def free_mib(puller: ForkedPuller) -> float:
    return shutil.disk_usage(puller.state).free / MIB


def staged(puller: ForkedPuller) -> list[Path]:
    return list((puller.state / "staging").iterdir())


# -- room -------------------------------------------------------------------------------------


def test_what_does_not_fit_says_so_in_numbers_and_comes_when_there_is_room(
    tight: Make, tmp_path: Path
) -> None:
    puller = tight()
    puller.put("first", write_model(tmp_path, "first", bytes(20 * MIB)))
    puller.wait("first", state="Loaded", timeout_s=20)
    puller.put("large", write_model(tmp_path, "large", bytes(40 * MIB)))
    blocked = puller.wait("large", state="Blocked", reason="InsufficientDisk", timeout_s=20)
    told = re.fullmatch(r"needs 40\.0 MiB, ([0-9.]+) MiB free", blocked["message"])
    assert told is not None, blocked["message"]
    assert 20 < float(told[1]) < 29
    for number in range(5):
        puller.put(f"m{number}", write_model(tmp_path, f"m{number}"))
    for number in range(5):
        puller.wait(f"m{number}", state="Loaded")
    assert puller.model("large")["state"] == "Blocked"
    assert staged(puller) == []
    puller.until(lambda: puller.model("large")["attempt"] >= 3, "tries that take long", 20)
    puller.remove("first")
    puller.wait("large", state="Loaded")
    assert free_mib(puller) > 16, "the reserve"


def test_kept_versions_make_room_the_longest_unwanted_first(tight: Make, tmp_path: Path) -> None:
    puller = tight("--keep-versions", "3")
    old = {name: write_model(tmp_path, f"{name}-old", bytes(8 * MIB)) for name in "xyz"}
    revisions = {}
    for name in "yxz":  # the order in which the old ones cease to be wanted
        revisions[name] = puller.put(name, old[name])
        puller.wait(name, state="Loaded", timeout_s=20)
        puller.wait(name, revision=puller.put(name, write_model(tmp_path, name)), state="Loaded")
        time.sleep(0.02)
    puller.put("large", write_model(tmp_path, "large", bytes(36 * MIB)))
    puller.wait("large", state="Loaded", timeout_s=20)
    gone = {line["model"]: line["revisions"] for line in puller.events("versions_removed")}
    assert gone == {name: [revisions[name]] for name in "yx"}
    assert {line["trigger"] for line in puller.events("versions_removed")} == {
        "space for another model"
    }
    before = len(puller.events("model_downloaded"))
    puller.put("z", old["z"])
    puller.wait("z", state="Loaded", revision=revisions["z"])
    assert len(puller.events("model_downloaded")) == before, "the kept one was there"


def test_kept_versions_stay_when_all_of_them_would_not_be_enough(
    tight: Make, tmp_path: Path
) -> None:
    puller = tight()
    puller.put("m", write_model(tmp_path, "old", bytes(8 * MIB)))
    puller.wait("m", state="Loaded", timeout_s=20)
    puller.wait("m", revision=puller.put("m", write_model(tmp_path, "new")), state="Loaded")
    puller.put("large", write_model(tmp_path, "large", bytes(60 * MIB)))
    puller.wait("large", state="Blocked", reason="InsufficientDisk", timeout_s=20)
    time.sleep(1.5)
    assert puller.events("versions_removed") == []


def test_a_download_of_unknown_size_that_fills_the_volume_leaves_nothing(tight: Make) -> None:
    with FaultyStore() as web:
        puller = tight("--period", "0.2")
        before = free_mib(puller)
        puller.put("m", web.put("endless.bin", bytes(80 * MIB), is_sized=False))
        blocked = puller.wait("m", state="Blocked", reason="InsufficientDisk", timeout_s=30)
        assert "full" in blocked["message"]
        puller.until(lambda: staged(puller) == [], "what it wrote to go", 10)
        assert free_mib(puller) > before - 1
        for number in range(3):
            puller.put(f"good{number}", web.put(f"good{number}.bin", bytes(MIB)))
        for number in range(3):
            puller.wait(f"good{number}", state="Loaded", timeout_s=30)
        assert not (puller.models / "m").exists()
        web.put("endless.bin", bytes(5 * MIB), is_sized=False)
        puller.wait("m", state="Loaded", timeout_s=60)


def test_an_archive_that_unpacks_to_more_than_there_is_says_so_and_leaves_nothing(
    tight: Make, tmp_path: Path
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("weights.bin")
        entry.size = 60 * MIB
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    folder = tmp_path / "source" / "packed"
    folder.mkdir(parents=True)
    (folder / "m.tar.gz").write_bytes(packed.getvalue())
    puller = tight()
    before = free_mib(puller)
    puller.put("m", f"file://{folder}/m.tar.gz")
    puller.wait("m", state="Blocked", reason="InsufficientDisk", timeout_s=30)
    assert free_mib(puller) > before - 1, "half of it is still there"
    puller.put("good", write_model(tmp_path, "good", bytes(20 * MIB)))
    puller.wait("good", state="Loaded", timeout_s=20)
    assert not (puller.models / "m").exists()


def test_on_a_volume_without_a_single_byte_models_still_go(tight: Make, tmp_path: Path) -> None:
    puller = tight()
    for name in ("a", "b"):
        puller.put(name, write_model(tmp_path, name, bytes(MIB)))
        puller.wait(name, state="Loaded")
    filler = puller.models.parent / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(64 * MIB))
    puller.put("c", write_model(tmp_path, "c"))
    puller.wait("c", state="Blocked", reason="InsufficientDisk")
    puller.remove("a")
    puller.wait_gone("a")
    assert not (puller.models / "a").exists()
    puller.kill()
    puller.start()
    puller.wait("b", state="Loaded")
    filler.unlink()
    puller.wait("c", state="Loaded", timeout_s=20)


def test_a_model_is_kept_out_by_the_memory_budget_until_another_leaves(
    make: Make, tmp_path: Path
) -> None:
    with InstantProcess() as server:
        kind = {"server": "triton", "server_url": server.url}
        puller = make("--memory-budget", "3Gi", **kind)
        source = write_instant(tmp_path, "m")
        for name in ("a", "b", "c"):
            puller.put(name, source, memory=2**30)
            puller.wait(name, state="Loaded")
        puller.put("large", source, memory=2 * 2**30)
        blocked = puller.wait("large", state="Blocked", reason="InsufficientMemory")
        assert blocked["message"] == "needs 2.0 GiB, 0.0 of 3.0 GiB left"
        puller.put("free", source)
        puller.wait("free", state="Loaded")
        puller.remove("a")
        puller.wait_gone("a")
        assert puller.model("large")["state"] == "Blocked"
        assert "1.0 of 3.0 GiB left" in puller.model("large")["message"]
        puller.remove("b")
        puller.wait("large", state="Loaded")
        assert server.loaded == {"c", "free", "large"}
        puller.kill()
        puller.start()  # what is loaded is counted by a new life as well
        puller.put("more", source, memory=2**30)
        puller.wait("more", state="Blocked", reason="InsufficientMemory")
        assert server.loaded == {"c", "free", "large"}


# -- what somebody does by hand ---------------------------------------------------------------


def test_a_file_that_was_deleted_comes_back_when_the_server_misses_it(
    make: Make, tmp_path: Path
) -> None:
    """Nobody looks into the folders all the time: the server's refusal is what tells."""
    write_scale_mlserver(tmp_path / "source" / "k2", 2)
    models = tmp_path / "p0" / "volume" / "models"
    with serve(MLServer(), models) as server:
        puller = make(server="mlserver", server_url=server.url)
        puller.put("m", f"file://{tmp_path}/source/k2")
        puller.wait("m", state="Loaded", timeout_s=30)
        (models / "m" / "weights.json").unlink()
        time.sleep(1.5)
        assert puller.model("m")["state"] == "Loaded", "the server has it in memory"
        server.process.kill()
        puller.until(lambda: server.process.poll() is not None, "its death")
        puller.until(lambda: len(puller.events("server_down")) == 1, "the loss", 20)
        server.process.start()
        puller.until(lambda: len(puller.events("action_failed")) > 0, "the server's refusal", 30)
        puller.wait("m", state="Loaded", timeout_s=30)
        assert (models / "m" / "weights.json").exists()


# -- clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_a_clock_that_jumps_neither_storms_nor_sticks(
    make: Make, tmp_path: Path, jump_s: float
) -> None:
    puller = make(start={"clock_jump_s": jump_s})
    missing = f"file://{tmp_path}/source/late"
    puller.put("late", missing)
    puller.put("good", write_model(tmp_path, "good"))
    puller.wait("late", state="Failed", reason="ObjectNotFound")
    time.sleep(4)
    tries = len(puller.events("action_failed"))
    assert 2 <= tries <= 5, f"{tries} tries in four seconds"
    assert puller.model("good")["state"] == "Loaded"
    assert os.path.isdir(write_model(tmp_path, "late").removeprefix("file://"))
    puller.wait("late", state="Loaded", timeout_s=20)
    revision = puller.put("good", write_model(tmp_path, "newer"))
    puller.wait("good", state="Loaded", revision=revision)
