"""A source of the wrong layout costs a listing, however often it is tried."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.puller.processes import Puller, get, running
from trainedmodel_devkit.stores import S3Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

_SIZE = 3 * 2**20


@pytest.fixture
def make(tmp_path: Path, store: S3Store) -> Iterator[Callable[[], Puller]]:
    """Make pullers of Triton's kind on one volume; no server is there, and none is needed."""
    made: list[Puller] = []

    def start() -> Puller:
        puller = Puller(tmp_path, server="triton", env=store.env())
        made.append(puller)
        puller.start()
        return puller

    yield start
    for puller in made:
        puller.kill()


def received(puller: Puller) -> int:
    """Return the bytes of models that this process has fetched."""
    text = get(f"{puller.url}/metrics")[1].decode()
    found = re.findall(r"^trainedmodel_puller_downloaded_bytes_total\{[^}]*\} (\S+)$", text, re.M)
    return round(sum(map(float, found)))


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/").replace("_", "."))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def attempts(puller: Puller, count: int) -> None:
    puller.until(lambda: puller.model("m").get("attempt", 0) >= count, f"{count} tries", 40)


def test_a_folder_of_the_wrong_layout_is_refused_before_the_first_byte(
    make: Callable[[], Puller], store: S3Store
) -> None:
    store.put("models", "flat/model.onnx", b"o" * _SIZE)
    store.put("models", "flat/config.pbtxt", b'backend: "onnxruntime"\n')
    puller = make()
    puller.put("m", "s3://models/flat")
    told = puller.wait("m", state="Failed", reason="InvalidLayout", timeout_s=30)
    assert "<name>/<number>/" in told["message"]
    assert told["message"].endswith("found: config.pbtxt, model.onnx")
    attempts(puller, 3)
    assert received(puller) == 0
    store.put("models", "flat/1/model.onnx", b"o" * 1000)
    store.delete_prefix("models", "flat/model.onnx")
    puller.until((puller.models / "m" / "1" / "model.onnx").exists, "the files", 40)


@pytest.mark.parametrize("size", [1000, _SIZE, 17 * 2**20])
def test_an_archive_of_the_wrong_layout_is_fetched_once(
    make: Callable[[], Puller], store: S3Store, size: int
) -> None:
    """Small, middling and large sources go different ways; all of them remember the answer."""
    content = archive(config_pbtxt=b'backend: "x"\n', model_onnx=b"o" * size)
    store.put("models", "m.tar", content)
    puller = make()
    puller.put("m", "s3://models/m.tar")
    told = puller.wait("m", state="Failed", reason="InvalidLayout", timeout_s=30)
    assert "found: config.pbtxt, model.onnx" in told["message"]
    attempts(puller, 3)
    assert received(puller) == len(content)
    kept = sum((puller.models.parent / path).stat().st_size for path in puller.files())
    assert kept < 10_000, "what was refused keeps no room"
    puller.kill()
    again = make()
    attempts(again, 1)
    assert again.model("m")["message"] == told["message"]
    assert received(again) == 0, "a restarted puller remembers"
    store.put("models", "m.tar", archive(config_pbtxt=b'backend: "x"\n', **{"1__model_onnx": b"o"}))
    again.until((again.models / "m" / "1" / "model.onnx").exists, "the mended one", 40)
    assert not [path for path in again.files() if path.endswith(".refused")]


def test_a_change_of_the_entry_asks_the_question_anew(
    make: Callable[[], Puller], store: S3Store, tmp_path: Path
) -> None:
    store.put("models", "bundle.tar", archive(model_bst=b"b" * 1000, notes_txt=b"n"))
    mlserver = Puller(tmp_path / "mlserver", server="mlserver", env=store.env())
    with running(mlserver):
        mlserver.put("m", "s3://models/bundle.tar")
        told = mlserver.wait("m", state="Failed", reason="InvalidLayout", timeout_s=30)
        assert "framework" in told["message"]
        mlserver.put("m", "s3://models/bundle.tar", framework="xgboost")
        settings = mlserver.models / "m" / "model-settings.json"
        mlserver.until(settings.exists, "the settings", 30)
        assert "model.bst" in settings.read_text()
