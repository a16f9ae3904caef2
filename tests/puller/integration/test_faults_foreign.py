"""What another user, a server or an accident left on the volume ends no puller.

The puller is not root here, the model server is: so it is with the images of many servers. Needs
root, as all tests of faults do.
"""

from __future__ import annotations

import os
import resource
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.puller.faulted import InstantProcess, Make, puller_factory, write_instant, write_model
from support.puller.forked import ForkedPuller, Zygote
from support.puller.processes import get, infer
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.servers import MLServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

#: Who runs the puller's image.
USER = 65532


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that every user may reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="trainedmodel-test-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def as_user(zygote: Zygote, home: Path) -> Iterator[Make]:
    """Make pullers that are not root."""
    for folder in ("volume", "volume/models", "volume/state"):
        (home / folder).mkdir()
        os.chown(home / folder, USER, USER)
    with puller_factory(zygote, home) as factory:

        def make(*flags: str, **details: object) -> ForkedPuller:
            return factory(
                "--period", "0.2", *flags, at=home, start={"uid": USER, "kill_at": None}, **details
            )

        yield make


def begin_anew(puller: ForkedPuller) -> None:
    puller.kill()
    puller.start(uid=USER)


def trashed(puller: ForkedPuller) -> list[Path]:
    return list((puller.state / "trash").iterdir())


def test_what_a_root_server_writes_into_its_model_holds_nothing_up(
    as_user: Make, home: Path
) -> None:
    """MLServer runs as root and compiles the model's own Python file, beside it."""
    for name, k, broken in (("k2", 2, False), ("k3", 3, False), ("bad", 5, True)):
        write_scale_mlserver(home / "source" / name, k, broken=broken)
    with serve(MLServer(), home / "volume" / "models") as server:
        puller = as_user(server="mlserver", server_url=server.url)
        first = puller.put("m", f"file://{home}/source/k2")
        puller.wait("m", state="Loaded", revision=first, timeout_s=40)
        cache = puller.models / "m" / "__pycache__"
        cache.mkdir(exist_ok=True)
        (cache / "made_by_root.pyc").write_bytes(b"pyc")
        assert cache.stat().st_uid == 0

        puller.put("m", f"file://{home}/source/bad")
        failed = puller.wait("m", state="Failed", loadedRevision=first, timeout_s=40)
        assert failed["reason"] == "LoadFailed"
        assert infer(server.url, "m", 1.0) == 2.0
        assert cache.exists(), "what serves was put back as it was"

        second = puller.put("m", f"file://{home}/source/k3")
        puller.wait("m", state="Loaded", revision=second, timeout_s=40)
        puller.remove("m")
        puller.wait_gone("m", 40)
        assert not (puller.models / "m").exists()
        told = puller.events("trash_not_deleted")
        assert told, "it is told"
        assert "Permission denied" in told[0]["error"]
        status = puller.status()
        assert status is not None
        assert status["volume"]["undeletedTrees"] == len(trashed(puller)) > 0

        begin_anew(puller)
        third = puller.put("m", f"file://{home}/source/k2")
        puller.wait("m", state="Loaded", revision=third, timeout_s=40)
        assert b"trainedmodel_puller_undeleted_trees 0.0" not in get(f"{puller.url}/metrics")[1]
        for folder, _, _ in os.walk(puller.state / "trash"):
            os.chown(folder, USER, USER)
        begin_anew(puller)
        assert trashed(puller) == [], "it is deleted as soon as it may be"
        assert puller.events("action_crashed") == []


def test_a_rollback_to_a_tree_that_a_root_server_wrote_into_is_loaded(
    as_user: Make, home: Path
) -> None:
    with InstantProcess() as server:
        puller = as_user(server="triton", server_url=server.url)
        old, new = write_instant(home, "old"), write_instant(home, "new")
        first = puller.put("m", old)
        puller.wait("m", state="Loaded", revision=first)
        cache = puller.models / "m" / "1" / "__pycache__"
        cache.mkdir(mode=0o755)
        (cache / "made_by_root.pyc").write_bytes(b"pyc")
        puller.wait("m", state="Loaded", revision=puller.put("m", new))
        puller.put("m", old)
        puller.wait("m", state="Loaded", revision=first)
        assert (cache / "made_by_root.pyc").exists(), "it is the tree that was kept"
        assert puller.events("action_failed") == []


@pytest.mark.parametrize("kind", ["none", "vllm", "torchserve", "tfs"])
def test_a_folder_of_another_user_is_in_nobodys_way(as_user: Make, home: Path, kind: str) -> None:
    closed = home / "volume" / "models" / "closed"
    closed.mkdir(mode=0o700)
    (closed / "secret").touch()
    url = f"http://127.0.0.1:{free_port()}"
    puller = as_user(server=kind, server_url=url)
    puller.until(lambda: puller.status() is not None, "the puller to answer")
    assert get(f"{puller.url}/healthz")[0] == 200
    puller.put("closed", write_model(home, "closed"))
    puller.wait("closed", state="Blocked", reason="FolderNotOurs")
    assert (closed / "secret").exists()
    if kind == "none":
        puller.put("good", write_model(home, "good"))
        puller.wait("good", state="Loaded")
    assert not puller.has_died
    assert puller.events("action_crashed") == []


def volume_problem(puller: ForkedPuller) -> str | None:
    status = puller.status()
    told: str | None = None if status is None else status["volume"]["problem"]
    return told


def test_a_model_folder_that_is_away_for_a_moment_is_doubt(make: Make, tmp_path: Path) -> None:
    puller = make("--period", "0.2")
    puller.put("m", write_model(tmp_path, "m"))
    puller.wait("m", state="Loaded")
    away = puller.models.with_name("away")
    puller.models.rename(away)
    puller.until(lambda: volume_problem(puller) is not None, "doubt")
    assert "No such file" in (volume_problem(puller) or "")
    puller.put("n", write_model(tmp_path, "n"))
    waiting = puller.wait("n", state="Waiting", reason="VolumeError")
    assert "cannot be read" in waiting["message"]
    assert get(f"{puller.url}/healthz")[0] == 200
    assert b"trainedmodel_puller_volume_in_doubt 1.0" in get(f"{puller.url}/metrics")[1]
    away.rename(puller.models)
    for name in ("m", "n"):
        puller.wait(name, state="Loaded")
    assert volume_problem(puller) is None
    assert len(puller.events("model_downloaded")) == 2, "nothing was fetched again"
    assert not puller.has_died


def test_a_puller_without_a_file_descriptor_left_waits_until_it_has_some(
    make: Make, tmp_path: Path
) -> None:
    puller = make("--period", "0.2")
    puller.put("m", write_model(tmp_path, "m"))
    puller.wait("m", state="Loaded")
    assert puller.process is not None
    pid = puller.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        puller.until(lambda: len(puller.events("volume_in_doubt")) > 0, "doubt")
        puller.put("n", write_model(tmp_path, "n"))
        puller.until(lambda: len(puller.events("config_in_doubt")) > 0, "more doubt")
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    for name in ("m", "n"):
        puller.wait(name, state="Loaded")
    assert not puller.has_died
    assert puller.events("action_crashed") == []
    assert len(puller.events("model_downloaded")) == 2


def test_the_modes_of_what_is_served_do_not_follow_the_umask(make: Make, tmp_path: Path) -> None:
    """The server is another user: it must be able to read what a careful shell started."""
    packed = tmp_path / "source" / "packed"
    packed.mkdir(parents=True)
    with tarfile.open(packed / "m.tar", "w") as archive:
        archive.add(Path(__file__), "sub/folder/code.py")
    write_model(tmp_path, "small")
    write_model(tmp_path, "small/sub")
    write_model(tmp_path, "large", bytes(20 * 2**20))
    puller = make("--period", "0.2", start={"umask": 0o077, "kill_at": None})
    sources = {name: f"file://{tmp_path}/source/{name}" for name in ("small", "large")}
    for name, uri in {**sources, "twin": sources["large"], "p": f"file://{packed}/m.tar"}.items():
        puller.put(name, uri)
        puller.wait(name, state="Loaded", timeout_s=30)
    paths = list(puller.models.rglob("*"))
    assert len(paths) > 12
    assert [path for path in paths if path.stat().st_mode & 0o044 != 0o044] == []
    folders = [path for path in paths if path.is_dir()]
    assert [path for path in folders if path.stat().st_mode & 0o055 != 0o055] == []
    assert [path for path in paths if path.stat().st_mode & 0o022] == []
