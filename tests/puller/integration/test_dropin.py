"""In the place of KServe's agent: its flags, its environment, its list, and what it left behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.puller.faulted import Make, puller_factory
from support.puller.forked import ForkedPuller, Zygote
from support.puller.processes import infer
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, RunningServer, serve
from trainedmodel_devkit.stores import S3Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


@pytest.fixture
def make(zygote: Zygote, tmp_path: Path, store: S3Store) -> Iterator[Make]:
    with puller_factory(zygote, tmp_path) as factory:

        def make(*flags: str, **details: Any) -> ForkedPuller:
            env = kserve_env(store)
            return factory("--enable-puller", "--period", "0.2", *flags, env=env, **details)

        yield make


def kserve_env(store: S3Store) -> dict[str, str]:
    """What KServe's injector gives its agent for a Secret with S3 annotations."""
    own = store.env()
    return {
        "AWS_ACCESS_KEY_ID": own["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": own["AWS_SECRET_ACCESS_KEY"],
        "AWS_DEFAULT_REGION": own["AWS_REGION"],
        "S3_ENDPOINT": store.endpoint.removeprefix("http://"),
        "AWS_ENDPOINT_URL": store.endpoint,
        "S3_USE_HTTPS": "0",
        "S3_VERIFY_SSL": "0",
    }


def item(name: str, uri: str = "s3://models/plain", **spec: Any) -> dict[str, Any]:
    spec = {"storageUri": uri, "framework": "sklearn", "memory": "1Gi", **spec}
    return {"modelName": name, "modelSpec": spec}


def put_list(puller: ForkedPuller, *items: Any) -> None:
    puller.write("models.json", json.dumps(list(items)))


def leave_as_kserve(folder: Path, files: dict[str, bytes]) -> None:
    """Lay out a model as KServe's agent does, with its mark of success."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o666)
    folder.chmod(0o777)
    (folder / f"SUCCESS.{hashlib.sha256(b'spec').hexdigest()}").touch()


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_starts_with_nothing_but_the_agents_flags(tmp_path: Path) -> None:
    """A kind of server that is not named is found out; until then it lives and is not ready."""
    (tmp_path / "config").mkdir()
    (tmp_path / "models").mkdir()
    command = [sys.executable, "-m", "trainedmodel_puller", "--enable-puller"]
    command += ["--config-dir", str(tmp_path / "config"), "--model-dir", str(tmp_path / "models")]
    env = {"PATH": os.environ["PATH"], "TRAINEDMODEL_PORT": "0"}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
    finally:
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.parametrize("without", ["AWS_ENDPOINT_URL", "S3_ENDPOINT"])
def test_either_of_the_injectors_endpoints_is_enough(
    without: str, store: S3Store, zygote: Zygote, tmp_path: Path
) -> None:
    env = {key: value for key, value in kserve_env(store).items() if key != without}
    with puller_factory(zygote, tmp_path) as factory:
        puller = factory("--enable-puller", env=env)
        put_list(puller, item("m"))
        puller.wait("m", state="Loaded")
        assert (puller.models / "m" / "weights.bin").read_bytes() == b"w" * 1000


BAD_ITEMS: list[tuple[Any, str]] = [
    ({"modelName": "bad"}, "InvalidEntry"),
    ({"modelName": "bad", "modelSpec": {"storageUri": 5}}, "InvalidEntry"),
    (item("bad", memory="a lot"), "InvalidEntry"),
    (item("bad", "ftp-is-no-scheme-of-ours"), "InvalidUri"),
    (item("bad", "s3://models/not-there"), "ObjectNotFound"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ITEMS, ids=[reason for _, reason in BAD_ITEMS])
def test_one_bad_item_says_why_and_hurts_no_other(bad: Any, reason: str, make: Make) -> None:
    puller = make()
    put_list(puller, item("first"), bad, "no object at all", item("last"))
    for name in ("first", "last"):
        puller.wait(name, state="Loaded")
    puller.wait("bad", state="Failed", reason=reason)
    assert puller.wait("models.json[2]", state="Failed", reason="InvalidEntry")["message"]
    put_list(puller, item("first"), item("bad"), item("last"))
    puller.wait("bad", state="Loaded")


def test_a_doubtful_list_drops_nothing_and_a_valid_one_does(make: Make) -> None:
    puller = make()
    put_list(puller, item("a"), item("b"))
    for name in ("a", "b"):
        puller.wait(name, state="Loaded")
    for content in ("", "[", '{"modelName":"a"}', "null", '"[]"'):
        puller.write("models.json", content)
        puller.until(lambda: bool((puller.status() or {})["config"]["problem"]), f"{content!r}")
        assert puller.events("model_removed") == [], content
        put_list(puller, item("a"), item("b"))
        puller.until(lambda: (puller.status() or {})["config"]["problem"] is None, "trust")
    put_list(puller, item("b"))
    puller.wait_gone("a")
    assert not (puller.models / "a").exists()
    put_list(puller)
    puller.wait_gone("b")
    assert puller.files() == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with serve(MLServer(), tmp_path / "p0" / "volume" / "models") as started:
        yield started


def test_what_kserve_left_is_taken_over_if_it_is_proven_equal_and_fetched_if_not(
    make: Make, server: RunningServer, store: S3Store, tmp_path: Path
) -> None:
    models = server.model_dir
    folder = write_scale_mlserver(tmp_path / "k5", 5)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    store.put_tree("models", "dropin/k5", folder)
    leave_as_kserve(models / "same", files)
    stale = {**files, "weights.json": files["weights.json"].replace(b"5", b"4")}
    leave_as_kserve(models / "differs", stale)
    leave_as_kserve(models / "lacks", {k: v for k, v in files.items() if k != "weights.json"})
    leave_as_kserve(models / "unwanted", files)
    (models / "foreign").mkdir()
    (models / "foreign" / "notes.txt").write_text("somebody's")
    untouched = {name: snapshot(models / name) for name in ("unwanted", "foreign")}
    before = len(store.log())
    puller = make(server="mlserver", server_url=server.url)
    names = ("same", "differs", "lacks")
    uri = "s3://models/dropin/k5"
    put_list(puller, item("same", uri))
    puller.wait("same", state="Loaded", timeout_s=30)
    log = store.log()[before:].replace(" ", "")
    assert "|GET|/models|" in log, "it was not even listed"
    assert "|GET|/models/dropin/k5/" not in log, "it was read from the store"
    # URIs of their own: with the same one the files would be linked
    for name in names[1:]:
        store.put_tree("models", f"dropin/{name}", folder)
    put_list(
        puller,
        item("same", uri),
        *(item(name, f"s3://models/dropin/{name}") for name in names[1:]),
        item("foreign", uri),
    )
    for name in names:
        puller.wait(name, state="Loaded", timeout_s=30)
        assert infer(server.url, name, 2.0) == 10.0
    hows = {line["model"]: line["how"] for line in puller.events("model_downloaded")}
    assert hows == {"same": "adopted", "differs": "downloaded", "lacks": "downloaded"}
    assert not list(models.glob("[sdl]*/SUCCESS.*")), "KServe's mark is not the source's"
    puller.wait("foreign", state="Blocked", reason="FolderNotOurs")
    assert "unwanted" not in (puller.status() or {})["models"]
    assert {name: snapshot(models / name) for name in untouched} == untouched
    put_list(puller)
    for name in names:
        puller.wait_gone(name)
        assert not (models / name).exists()
        assert infer(server.url, name, 2.0) is None
    assert {name: snapshot(models / name) for name in untouched} == untouched
    store.delete_prefix("models", "dropin")
