"""What a tree says of itself, on real servers: a tree is only the model that it is served as."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.puller.processes import Hammer, Puller, infer, running
from trainedmodel_devkit.models import write_scale_mlserver, write_scale_triton
from trainedmodel_devkit.servers import MLServer, RunningServer, Triton, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 60.0


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "volume" / "models"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def mlserver(models: Path) -> Iterator[RunningServer]:
    with serve(MLServer(), models) as started:
        yield started


@pytest.fixture
def triton(models: Path) -> Iterator[RunningServer]:
    with serve(Triton(), models) as started:
        yield started


def puller_of(server: RunningServer, root: Path) -> Puller:
    flags = ("--file-root", str(root / "source"))
    return Puller(root, server=server.kind, server_url=server.url, flags=flags)


def uri(root: Path, name: str) -> str:
    return f"file://{root}/source/{name}"


def settings_of(tree: Path, **more: object) -> None:
    content = {"implementation": "scale_runtime.Scale", **more}
    (tree / "model-settings.json").write_text(json.dumps(content))


def test_settings_deep_in_a_tree_of_mlserver_never_answer_for_another_model(
    mlserver: RunningServer, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    write_scale_mlserver(source / "a", 2)
    settings_of(write_scale_mlserver(source / "a" / "old" / "b", 5), name="b")
    write_scale_mlserver(source / "b", 3)
    with running(puller_of(mlserver, tmp_path)) as puller:
        puller.put("a", uri(tmp_path, "a"))
        puller.wait("a", state="Loaded", timeout_s=_WAIT_S)
        puller.put("b", uri(tmp_path, "b"))
        puller.wait("b", state="Loaded", timeout_s=_WAIT_S)
        assert infer(mlserver.url, "b", 1.0) == 3.0
        assert infer(mlserver.url, "a", 1.0) == 2.0
        request = urllib.request.Request(f"{mlserver.url}/v2/repository/index", b"{}")
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert sorted(row["name"] for row in json.load(answer)) == ["a", "b"]
        assert puller.events("nested_settings_renamed")[0]["model"] == "a"


def test_a_version_that_rises_in_mlservers_settings_costs_no_request(
    mlserver: RunningServer, tmp_path: Path
) -> None:
    for number, k in ((1, 2), (2, 3), (10, 5)):
        tree = write_scale_mlserver(tmp_path / "source" / f"v{number}", k, load_delay_s=1)
        settings_of(tree, parameters={"version": str(number)})
    broken = write_scale_mlserver(tmp_path / "source" / "v11", 7, broken=True, load_delay_s=1)
    settings_of(broken, parameters={"version": "11"})
    with running(puller_of(mlserver, tmp_path)) as puller:
        puller.put("m", uri(tmp_path, "v1"))
        puller.wait("m", state="Loaded", timeout_s=_WAIT_S)
        with Hammer(mlserver.url, "m", {2.0, 3.0, 5.0}, workers=2) as hammer:
            for number in (2, 10):
                revision = puller.put("m", uri(tmp_path, f"v{number}"))
                puller.wait("m", state="Loaded", revision=revision, timeout_s=_WAIT_S)
            puller.put("m", uri(tmp_path, "v11"))
            puller.wait("m", state="Failed", loadedRevision=revision, timeout_s=_WAIT_S)
            time.sleep(2)
        assert hammer.failed == 0, f"{hammer.failed} of {hammer.sent} requests failed"
        assert hammer.seen == {2.0, 3.0, 5.0}
        assert infer(mlserver.url, "m", 1.0) == 5.0


def test_version_folders_of_triton_may_rise_and_fall_without_a_lost_request(
    triton: RunningServer, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for number, k in ((1, 2), (7, 3)):
        tree = write_scale_triton(source / f"v{number}", k)
        (tree / "1").rename(tree / str(number))
    broken = write_scale_triton(source / "v9", 5, broken=True)
    (broken / "1").rename(broken / "9")
    with running(puller_of(triton, tmp_path)) as puller:
        puller.put("m", uri(tmp_path, "v1"))
        puller.wait("m", state="Loaded", timeout_s=_WAIT_S)
        with Hammer(triton.url, "m", {2.0, 3.0}, workers=2) as hammer:
            for number in (7, 1, 7):
                revision = puller.put("m", uri(tmp_path, f"v{number}"))
                puller.wait("m", state="Loaded", revision=revision, timeout_s=_WAIT_S)
            puller.put("m", uri(tmp_path, "v9"))
            puller.wait("m", state="Failed", loadedRevision=revision, timeout_s=_WAIT_S)
            time.sleep(1)
        assert hammer.failed == 0, f"{hammer.failed} of {hammer.sent} requests failed"
        assert infer(triton.url, "m", 1.0) == 3.0


def test_configurations_of_triton_are_served_whatever_their_bytes(
    triton: RunningServer, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    heads = {
        "latin1": b"# Gr\xf6\xdfe des Modells\n",
        "names": b'name: "other"\n',
        "commented": b"name : # it's the old one\n  'other';\r\n",
        "umlaut": "# Größe\n".encode(),
        "two-parts": b'name: "oth" "er"\n',
    }
    for name, head in heads.items():
        config = write_scale_triton(source / name, 2) / "config.pbtxt"
        config.write_bytes(head + config.read_bytes())
    for name, encoding in (("marked", "utf-8-sig"), ("wide", "utf-16")):
        config = write_scale_triton(source / name, 2) / "config.pbtxt"
        config.write_bytes(('name: "other"\n' + config.read_text()).encode(encoding))
    names = [*heads, "marked", "wide"]
    with running(puller_of(triton, tmp_path)) as puller:
        for name in names:
            puller.put(name, uri(tmp_path, name))
        for name in names:
            puller.wait(name, state="Loaded", timeout_s=_WAIT_S)
            assert infer(triton.url, name, 4.0) == 8.0
        served = puller.models / "latin1" / "config.pbtxt"
        assert served.read_bytes() == (source / "latin1" / "config.pbtxt").read_bytes()


_ENSEMBLE = """name: "chain"
platform: "ensemble"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
ensemble_scheduling { step [
  { model_name: "double" model_version: -1
    input_map { key: "x" value: "x" } output_map { key: "y" value: "middle" } },
  { model_name: "triple" model_version: -1
    input_map { key: "x" value: "middle" } output_map { key: "y" value: "y" } }
] }
"""


def test_an_ensemble_of_triton_is_served_without_its_empty_version_folder(
    triton: RunningServer, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    write_scale_triton(source / "double", 2)
    write_scale_triton(source / "triple", 3)
    (source / "chain").mkdir()
    (source / "chain" / "config.pbtxt").write_text(_ENSEMBLE)
    with running(puller_of(triton, tmp_path)) as puller:
        for name in ("double", "triple", "chain"):
            puller.put(name, uri(tmp_path, name))
        for name in ("double", "triple", "chain"):
            puller.wait(name, state="Loaded", timeout_s=_WAIT_S)
        assert infer(triton.url, "chain", 1.0) == 6.0


def test_a_model_of_mlserver_is_served_whatever_lies_beside_it(
    mlserver: RunningServer, tmp_path: Path
) -> None:
    from trainedmodel_devkit.models import write_iris

    tree = write_iris(tmp_path / "source" / "iris")
    (tree / "model-settings.json").unlink()
    for name in ("requirements.txt", "metadata.json", "scaler.joblib", "model.txt"):
        (tree / name).write_text("beside")
    with running(puller_of(mlserver, tmp_path)) as puller:
        puller.put("iris", uri(tmp_path, "iris"), framework="sklearn")
        puller.wait("iris", state="Loaded", timeout_s=_WAIT_S)
