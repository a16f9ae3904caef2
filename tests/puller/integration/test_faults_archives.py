"""Archives as models: each kind on a real MLServer, hostile and broken ones, shared ones."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from support.puller.faulted import Make
from support.puller.faulty_server import FaultyStore
from support.puller.forked import ForkedPuller
from support.puller.processes import infer
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, RunningServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


PACKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "m.tar": tar_of,
    "m.tar.gz": lambda files: tar_of(files, "w:gz"),
    "m.tar.zst": lambda files: zstd.compress(tar_of(files)),
    "m.zip": zip_of,
}


def model_files(folder: Path, k: float) -> dict[str, bytes]:
    write_scale_mlserver(folder, k)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_archives_of_each_kind_are_served_by_a_real_server(
    make: Make, web: FaultyStore, tmp_path: Path
) -> None:
    with serve(MLServer(), tmp_path / "p0" / "volume" / "models") as server:
        puller = make(server=server.kind, server_url=server.url)
        _come_and_change(puller, server, web, tmp_path)


def _come_and_change(
    puller: ForkedPuller, server: RunningServer, web: FaultyStore, tmp_path: Path
) -> None:
    names = {file: file.replace(".", "-") for file in PACKERS}
    for k in (2, 3):
        files = model_files(tmp_path / f"k{k}", k)
        for file, pack in PACKERS.items():
            revision = puller.put(names[file], web.put(f"k{k}/{file}", pack(files)))
            puller.wait(names[file], state="Loaded", revision=revision, timeout_s=30)
            assert infer(server.url, names[file], 2.0) == 2.0 * k, file
            shown = {path.name for path in (puller.models / names[file]).iterdir()}
            assert {*files, ".trainedmodel.json"} <= shown, file
            assert file not in shown, "the archive itself"
    assert list((puller.state / "staging").iterdir()) == []
    for name in names.values():
        puller.remove(name)
    for name in names.values():
        puller.wait_gone(name)
    assert puller.files() == []


HOSTILE: dict[str, tuple[str, bytes]] = {
    "a tar that leaves": ("m.tar", tar_of({"good": b"g", "../escape": b"e"})),
    "a tar that starts at the root": ("m.tar.gz", tar_of({"/tmp/escape": b"e"}, "w:gz")),
    "a zip that leaves": ("m.zip", zip_of({"good": b"g", "../../escape": b"e"})),
    "a cut tar.gz": ("m.tar.gz", tar_of({"m.bin": os.urandom(100_000)}, "w:gz")[:50_000]),
    "a cut zip": ("m.zip", zip_of({"m.bin": os.urandom(100_000)})[:50_000]),
    "a cut tar": ("m.tar", tar_of({"m.bin": os.urandom(100_000)})[:50_000]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_p9_an_archive_that_is_unsafe_or_broken_says_so_and_leaves_nothing(
    what: str, make: Make, web: FaultyStore, tmp_path: Path
) -> None:
    file, content = HOSTILE[what]
    puller = make()
    puller.put("m", web.put(file, content))
    puller.put("good", web.put("good.bin", b"g"))
    failed = puller.wait("m", state="Failed", reason="UnsafeArchive")
    assert failed["nextRetryTime"]
    puller.wait("good", state="Loaded")
    assert not (puller.models / "m").exists()
    assert not (puller.state / "versions" / "m").exists()
    assert not list(tmp_path.rglob("escape"))
    web.put(file, PACKERS[file]({"m.bin": b"mended"}))
    puller.wait("m", state="Loaded", timeout_s=20)
    assert (puller.models / "m" / "m.bin").read_bytes() == b"mended"
    puller.until(lambda: list((puller.state / "staging").iterdir()) == [], "staging to be empty")


def test_a_hostile_update_leaves_the_old_revision_in_place(make: Make, web: FaultyStore) -> None:
    puller = make()
    first = puller.put("m", web.put("a.tar", tar_of({"m.bin": b"good"})))
    puller.wait("m", state="Loaded", revision=first)
    puller.put("m", web.put("b.tar", tar_of({"m.bin": b"bad", "../escape": b"e"})))
    puller.wait("m", state="Failed", reason="UnsafeArchive", loadedRevision=first)
    assert (puller.models / "m" / "m.bin").read_bytes() == b"good"


def test_an_archive_of_twenty_models_is_fetched_and_unpacked_once(
    make: Make, web: FaultyStore
) -> None:
    puller = make()
    url = web.put("m.tar.gz", tar_of({"m.bin": os.urandom(2_000_000)}, "w:gz"))
    for number in range(20):
        puller.put(f"m{number}", url)
    for number in range(20):
        puller.wait(f"m{number}", state="Loaded", timeout_s=30)
    assert web.objects["m.tar.gz"].gets == 1
    assert len(puller.events("archive_unpacked")) == 1
    assert (puller.models / "m3" / "m.bin").stat().st_nlink == 20
    assert (
        sorted(line["how"] for line in puller.events("model_downloaded"))
        == ["downloaded"] + ["linked"] * 19
    )
