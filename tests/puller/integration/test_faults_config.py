"""Faults of the configuration folder: doubt drops nothing, and its last word counts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from support.puller.faulted import (
    InstantProcess,
    Make,
    write_instant,
    write_model,
)
from support.puller.faulty_server import FaultyStore
from support.puller.forked import ForkedPuller
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.shard import make_manifest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

NAMES = ("a", "b", "c")


def problem(puller: ForkedPuller) -> str | None:
    status = puller.status()
    told: str | None = None if status is None else status["config"]["problem"]
    return told


def states(puller: ForkedPuller) -> dict[str, str]:
    status = puller.status()
    assert status is not None
    return {name: model["state"] for name, model in status["models"].items()}


def all_loaded(puller: ForkedPuller) -> bool:
    return states(puller) == dict.fromkeys(NAMES, "Loaded")


# -- loose entries, and the folder itself -----------------------------------------------------


@pytest.mark.parametrize("is_watched", [True, False])
def test_p1_a_folder_that_is_away_drops_nothing_and_counts_again_when_it_is_back(
    make: Make, tmp_path: Path, is_watched: bool
) -> None:
    puller = make("--watch" if is_watched else "--no-watch", "--period", "0.2")
    for name in NAMES:
        puller.put(name, write_model(tmp_path, name))
    puller.until(lambda: all_loaded(puller), "three models")
    away = puller.config.with_name("away")
    puller.config.rename(away)
    puller.until(lambda: problem(puller) is not None, "doubt")
    assert str(puller.config) in (problem(puller) or "")
    puller.kill()
    puller.start()  # a restart does not make it forget either
    puller.until(lambda: problem(puller) is not None, "doubt")
    time.sleep(0.5)
    assert all_loaded(puller)
    (away / "a.json").unlink()
    away.rename(puller.config)
    puller.wait_gone("a")
    assert problem(puller) is None
    assert states(puller) == {"b": "Loaded", "c": "Loaded"}
    puller.put("d", write_model(tmp_path, "d"))
    puller.wait("d", state="Loaded")


@pytest.mark.parametrize("content", ["", '{"name":', "[]", "{}"])
def test_p1_an_entry_that_is_cut_or_emptied_keeps_its_last_good_form(
    make: Make, tmp_path: Path, content: str
) -> None:
    puller = make("--period", "0.2")
    for name in NAMES:
        puller.put(name, write_model(tmp_path, name))
    puller.until(lambda: all_loaded(puller), "three models")
    (puller.config / "a.json").write_text(content)  # written in place, as an editor does
    failed = puller.wait("a", state="Failed", reason="InvalidEntry")
    assert failed["loadedRevision"], "still served, and said to be"
    time.sleep(0.3)
    assert (puller.models / "a" / "weights.bin").exists()
    assert states(puller) == {"a": "Failed", "b": "Loaded", "c": "Loaded"}
    puller.put("a", write_model(tmp_path, "a"))
    puller.until(lambda: all_loaded(puller), "the three again")
    assert len(puller.events("model_downloaded")) == 3


@pytest.mark.parametrize("cut", [0, -1])
def test_p1_a_list_that_is_cut_drops_nothing(make: Make, tmp_path: Path, cut: int) -> None:
    puller = make("--period", "0.2")
    uris = {name: write_model(tmp_path, name) for name in NAMES}
    items = [{"modelName": n, "modelSpec": {"storageUri": uri}} for n, uri in uris.items()]
    whole = json.dumps(items)
    puller.write("models.json", whole)
    puller.until(lambda: all_loaded(puller), "three models")
    (puller.config / "models.json").write_text(whole[:cut])
    puller.until(lambda: problem(puller) is not None, "doubt")
    (puller.config / "models.json").unlink()
    puller.until(lambda: "missing" in (problem(puller) or ""), "more doubt")
    time.sleep(0.3)
    assert all_loaded(puller)
    puller.write("models.json", json.dumps(items[1:]))
    puller.wait_gone("a")
    assert states(puller) == {"b": "Loaded", "c": "Loaded"}


def test_p1_a_shard_that_is_written_piece_by_piece_drops_nothing(
    make: Make, tmp_path: Path
) -> None:
    """Without a kubelet's swap: manifest first, then file by file, one of them half."""
    puller = make("--period", "0.2")

    def shard(revision: str) -> dict[str, bytes]:
        uris = {name: write_model(tmp_path, f"{name}-{revision}") for name in NAMES}
        entries = {
            f"{name}.json": Entry(
                name=name, storage_uri=uri, revision=revision, generation=int(revision[1:]), shard=0
            )
            .to_json()
            .encode()
            for name, uri in uris.items()
        }
        return {"_shard-0": make_manifest(0, entries).to_json().encode(), **entries}

    for name, content in shard("r1").items():
        (puller.config / name).write_bytes(content)
    puller.until(lambda: all_loaded(puller), "three models")
    assert problem(puller) is None
    second = shard("r2")
    (puller.config / "_shard-0").write_bytes(second["_shard-0"])
    (puller.config / "a.json").write_bytes(second["a.json"])
    (puller.config / "b.json").write_bytes(second["b.json"][:40])
    (puller.config / "c.json").unlink()
    puller.wait("a", state="Loaded", revision="r2")
    assert "shard 0" in (problem(puller) or "")
    time.sleep(0.3)
    assert puller.model("b")["loadedRevision"] == "r1"
    assert puller.model("c")["state"] == "Loaded"
    for name in ("b.json", "c.json"):
        (puller.config / name).write_bytes(second[name])
    for name in NAMES:
        puller.wait(name, state="Loaded", revision="r2")
    assert problem(puller) is None
    assert puller.events("model_removed") == []


# -- what changes fast ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ends_present"), [("m", True), ("slow-m", False)])
def test_a_model_that_flaps_ends_as_it_was_last_said(
    make: Make, tmp_path: Path, server: InstantProcess, name: str, ends_present: bool
) -> None:
    puller = make(server="triton", server_url=server.url)
    source = write_instant(tmp_path, "source")
    puller.put("other", source)
    for turn in range(100):
        puller.put(name, source)
        time.sleep(0.025)
        if turn < 99 or not ends_present:
            puller.remove(name)
            time.sleep(0.025)
    if ends_present:
        puller.wait(name, state="Loaded", timeout_s=30)
        assert server.loaded == {"other", name}
    else:
        puller.wait_gone(name, timeout_s=30)
        assert server.loaded == {"other"}
        assert not (puller.models / name).exists()
    told = server.told()
    assert told["insane"] == []
    assert told["asked"]["load"] <= 102
    assert puller.events("action_failed") == []


def test_a_model_that_changes_a_hundred_times_ends_with_the_last(
    make: Make, tmp_path: Path, server: InstantProcess
) -> None:
    puller = make(server="triton", server_url=server.url)
    sources = [write_instant(tmp_path, f"s{n}", b"%d" % n) for n in range(5)]
    for turn in range(100):
        revision = puller.put("m", sources[turn % 5])
        time.sleep(0.03)
    puller.wait("m", state="Loaded", revision=revision, timeout_s=30)
    assert (puller.models / "m" / "1" / "weights.bin").read_bytes() == b"4"
    assert server.told()["insane"] == []
    puller.until(lambda: len(list((puller.state / "versions" / "m").iterdir())) <= 1, "the rest")


def test_a_model_that_changes_while_it_downloads_goes_to_its_last_revision(
    make: Make, web: FaultyStore, server: InstantProcess
) -> None:
    puller = make(server="none", server_url=server.url)
    puller.put("m", web.put("slow.bin", b"a" * 3_000_000, rate=100_000))
    puller.until(lambda: web.objects["slow.bin"].sent > 100_000, "a part of it")
    revision = puller.put("m", web.put("quick.bin", b"b" * 1000))
    puller.wait("m", state="Loaded", revision=revision)
    assert [path.name for path in (puller.models / "m").glob("*.bin")] == ["quick.bin"]
    assert len(puller.events("download_cancelled")) == 1
    sent = web.objects["slow.bin"].sent
    puller.until(lambda: list((puller.state / "staging").iterdir()) == [], "the part to go")
    time.sleep(1.0)
    assert web.objects["slow.bin"].sent <= sent + 200_000, "it is still being read"


def test_a_model_that_moves_to_a_bad_address_serves_on_until_it_is_mended(
    make: Make, tmp_path: Path, server: InstantProcess
) -> None:
    puller = make("--period", "0.2", server="triton", server_url=server.url)
    first = puller.put("m", write_instant(tmp_path, "good"))
    puller.wait("m", state="Loaded")
    missing = f"file://{tmp_path}/source/not-yet"
    second = puller.put("m", missing)
    failed = puller.wait("m", state="Failed", reason="ObjectNotFound", loadedRevision=first)
    assert "not-yet" in failed["message"]
    assert failed["revision"] == second
    assert server.loaded == {"m"}
    puller.kill()
    server.kill()
    server.start()
    puller.start()
    puller.until(lambda: server.loaded == {"m"}, "the old revision on the new server", 20)
    assert write_instant(tmp_path, "not-yet", b"mended") == missing
    puller.wait("m", state="Loaded", revision=second, timeout_s=20)
    assert (puller.models / "m" / "1" / "weights.bin").read_bytes() == b"mended"
    assert server.told()["insane"] == []


def test_a_folder_full_of_other_things_is_no_problem(make: Make, tmp_path: Path) -> None:
    puller = make("--period", "0.2")
    (puller.config / "sub.json").mkdir()
    (puller.config / "README").write_text("hello")
    os.symlink("nowhere", puller.config / "dangling.json")
    os.mkfifo(puller.config / "pipe.json")
    puller.put("a", write_model(tmp_path, "a"))
    puller.wait("a", state="Loaded")
    assert states(puller) == {"a": "Loaded"}


def test_files_that_nobody_writes_on_purpose_are_told_and_hurt_no_other(
    make: Make, tmp_path: Path
) -> None:
    puller = make("--period", "0.2")
    items = [{"modelName": "listed", "modelSpec": {"storageUri": write_model(tmp_path, "listed")}}]
    puller.write("models.json", json.dumps(items))
    puller.put("kept", write_model(tmp_path, "kept"))
    for name in ("listed", "kept"):
        puller.wait(name, state="Loaded")
    (puller.config / "models.json").write_text("[" * 1000 + "]" * 1000)
    (puller.config / "kept.json").unlink()
    os.symlink("kept.json", puller.config / "kept.json")
    with open(os.fsencode(puller.config) + b"/latin-\xe9.json", "wb") as file:
        file.write(b"{}")
    puller.put("good", write_model(tmp_path, "good"))
    puller.wait("good", state="Loaded")
    assert "nested" in (problem(puller) or "") or "recursion" in (problem(puller) or "")
    told = puller.wait("kept", state="Failed", reason="InvalidEntry")
    assert "symbolic links" in told["message"]
    assert told["loadedRevision"], "it keeps its last good form"
    assert puller.model("latin-\\udce9")["reason"] == "InvalidEntry"
    puller.write("models.json", json.dumps([{"modelName": "\ud800", "modelSpec": {}}, *items]))
    puller.until(lambda: "hex escape" in (problem(puller) or ""), "a lone surrogate to be told")
    assert puller.model("listed")["state"] == "Loaded"
    assert puller.events("action_crashed") == []
    assert not puller.has_died
