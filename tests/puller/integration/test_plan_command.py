"""`trainedmodel-puller plan` as a user runs it: what it prints, its exit codes, and that it does
nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.puller.faulted import InstantProcess, Make, write_instant
from support.puller.forked import ForkedPuller
from trainedmodel_devkit.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def server() -> Iterator[InstantProcess]:
    with InstantProcess() as running:
        yield running


def run_plan(root: Path, *flags: str, server: str = "triton", url: str) -> tuple[int, str, str]:
    command = [
        *(sys.executable, "-m", "trainedmodel_puller", "plan"),
        *("--config-dir", str(root / "config")),
        *("--model-dir", str(root / "volume" / "models")),
        *("--file-root", str(root.parent / "source")),
        *("--server", server, "--server-url", url),
        *flags,
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(root)}
    ended = subprocess.run(command, env=env, capture_output=True, timeout=30, check=False)
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def write_entry(root: Path, name: str, uri: str) -> None:
    (root / "config").mkdir(parents=True, exist_ok=True)
    entry = {"name": name, "storageUri": uri, "revision": "r1"}
    (root / "config" / f"{name}.json").write_text(json.dumps(entry))


def listing(root: Path) -> list[tuple[Any, ...]]:
    """All that a look can show of a folder, but for times of access."""
    rows = []
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        rows.append((str(path), status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns))
    return rows


def test_on_an_empty_volume_it_names_what_would_be_fetched_and_makes_nothing(
    tmp_path: Path, server: InstantProcess
) -> None:
    root = tmp_path / "p0"
    write_entry(root, "m", write_instant(tmp_path, "m"))
    write_entry(root, "bad", "s3://../x")
    (root / "config" / "broken.json").write_text("{")
    before = listing(tmp_path)
    code, out, err = run_plan(root, url=server.url)
    assert code == 0, err
    assert listing(tmp_path) == before, "not even its folders"
    assert "m: " in out
    assert "download" in out
    assert "answers" in out
    assert "InvalidEntry" in out
    assert server.loaded == set()
    code, out, err = run_plan(root, "--json", url=server.url)
    assert code == 0, err
    document = json.loads(out)
    assert document["config"]["models"] == 2
    assert document["config"]["faults"] == 1
    assert document["server"]["isKnown"] is True
    assert {action["name"] for action in document["plan"]["next"]} == {"m", "bad"}
    assert set(document["models"]) == {"m", "bad", "broken"}
    assert listing(tmp_path) == before


def test_beside_a_running_puller_it_changes_nothing(
    make: Make, tmp_path: Path, server: InstantProcess
) -> None:
    puller = make("--no-watch", "--period", "600", server="triton", server_url=server.url)
    puller.kill()
    for name in ("a", "b"):
        puller.put(name, write_instant(tmp_path, name))
    puller.start()
    for name in ("a", "b"):
        puller.wait(name, state="Loaded")
    # what is wanted has changed, and the running one does not know yet
    puller.remove("a")
    puller.put("b", write_instant(tmp_path, "b2"))
    puller.put("c", write_instant(tmp_path, "c"))
    before, asked = listing(puller.models.parent), server.told()["asked"]
    code, out, err = run_plan(tmp_path / "p0", "--json", url=server.url)
    assert code == 0, err
    document = json.loads(out)
    told = {action["name"]: action["words"] for action in document["plan"]["next"]}
    assert set(told) == {"a", "b", "c"}
    assert "unload" in told["a"]
    assert "download" in told["b"]
    assert "download" in told["c"]
    assert document["models"]["b"]["loadedRevision"]
    assert listing(puller.models.parent) == before
    after = server.told()["asked"]
    assert {key: after.get(key) for key in ("load", "unload")} == {
        key: asked.get(key) for key in ("load", "unload")
    }
    puller.kill()
    for name in ("b", "c"):
        puller.remove(name)
    puller.start()
    puller.until(lambda: server.loaded == set(), "the server to be empty again")


def test_with_nothing_to_do_it_says_none(make: Make, tmp_path: Path) -> None:
    with InstantProcess() as own:
        puller: ForkedPuller = make(server="triton", server_url=own.url)
        puller.put("m", write_instant(tmp_path, "m"))
        puller.wait("m", state="Loaded")
        code, out, err = run_plan(tmp_path / "p0", url=own.url)
    assert code == 0, err
    assert "actions   none" in out
    assert "Loaded" in out


def test_with_the_server_down_it_says_so_and_plans_the_rest(tmp_path: Path) -> None:
    root = tmp_path / "p0"
    write_entry(root, "m", write_instant(tmp_path, "m"))
    url = f"http://127.0.0.1:{free_port()}"
    code, out, err = run_plan(root, url=url)
    assert code == 0, "a plan was printed: that is what it was asked for"
    assert "refuses connections" in out
    assert "m: download" in out.replace("m: fetch", "m: download"), out
    assert "Traceback" not in err


def test_a_folder_that_cannot_be_read_is_named_with_its_flag(
    tmp_path: Path, server: InstantProcess
) -> None:
    code, out, err = run_plan(tmp_path / "nowhere", url=server.url)
    assert code == 1
    assert "--config-dir" in err
    assert str(tmp_path / "nowhere" / "config") in err
    assert "Traceback" not in err
    assert out == ""


def test_auto_without_a_server_ends_with_the_fix(tmp_path: Path) -> None:
    root = tmp_path / "p0"
    write_entry(root, "m", write_instant(tmp_path, "m"))
    url = f"http://127.0.0.1:{free_port()}"
    code, _, err = run_plan(root, server="auto", url=url)
    assert code == 1
    assert "--server" in err
    assert "start it, or set --server to its kind" in err
    assert "Traceback" not in err
