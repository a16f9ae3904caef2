"""Bad input: each shows its own reason within seconds, is retried, and no other model notices."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.puller.processes import Puller
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.shard import make_manifest
from trainedmodel_devkit.stores import S3Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

GOOD = "s3://models/plain"
Make = Callable[..., Puller]


@pytest.mark.parametrize(
    ("uri", "reason", "word"),
    [
        ("zz://b/x", "UnsupportedScheme", "'zz'"),
        ("s3://models/nothing/here", "ObjectNotFound", "nothing/here"),
        ("s3://no-such-bucket/x", "ObjectNotFound", "no-such-bucket"),
        ("http://127.0.0.1:1/model.bin", "SourceUnreachable", "127.0.0.1"),
        ("file:///etc", "AccessDenied", "--file-root"),
        ("s3://models/../secrets", "InvalidUri", "'..'"),
        ("http://169.254.169.254/latest", "AccessDenied", "169.254"),
        ("ftp://127.0.0.1/m", "UnsupportedScheme", "scheme 'ftp' is not supported"),
        ("s3://models/plain?versionId=1", "InvalidUri", "versionid"),
        ("s3://models//plain", "InvalidUri", "empty path segment"),
        ("s3://models/plain%20model", "ObjectNotFound", "'%20' is taken as written"),
        ("hf://gpt2", "InvalidUri", "hf://organisation/model"),
    ],
)
def test_a_bad_source_says_why_and_is_retried_while_others_go_on(
    files_puller: Make, uri: str, reason: str, word: str
) -> None:
    puller = files_puller()
    puller.put("bad", uri)
    puller.put("good", GOOD)
    puller.wait("good", state="Loaded")
    first = puller.wait("bad", state="Failed", reason=reason, timeout_s=10)
    assert word in first["message"]
    assert first["nextRetryTime"]
    puller.until(lambda: puller.model("bad").get("attempt", 0) >= 2, "a retry", 10)
    assert puller.model("good")["state"] == "Loaded"


def test_denied_access_is_told_apart(store: S3Store, files_puller: Make) -> None:
    puller = files_puller(env=store.denied_env())
    puller.put("m", GOOD)
    assert (
        "secret" not in puller.wait("m", state="Failed", reason="AccessDenied")["message"].lower()
    )


def test_an_unreachable_store_is_retried_until_it_is_back(
    store: S3Store, files_puller: Make
) -> None:
    puller = files_puller()
    store.stop()
    try:
        puller.put("m", GOOD)
        puller.wait("m", state="Failed", reason="SourceUnreachable")
    finally:
        store.start()
    puller.wait("m", state="Loaded", timeout_s=30)


def test_a_wrong_digest_never_reaches_the_served_folder(files_puller: Make) -> None:
    puller = files_puller()
    puller.put("m", "s3://models/plain/weights.bin", digest="sha256:" + "0" * 64)
    puller.wait("m", state="Failed", reason="DigestMismatch")
    assert not (puller.models / "m").exists()
    right = hashlib.sha256(b"w" * 1000).hexdigest()
    puller.put("m", "s3://models/plain/weights.bin", digest=f"sha256:{right}")
    puller.wait("m", state="Loaded")
    assert (puller.models / "m" / "weights.bin").read_bytes() == b"w" * 1000


def test_an_object_that_is_uploaded_late_is_found_without_any_change(
    store: S3Store, files_puller: Make
) -> None:
    puller = files_puller()
    puller.put("m", "s3://models/late")
    puller.wait("m", state="Failed", reason="ObjectNotFound")
    store.put("models", "late/weights.bin", b"now")
    puller.wait("m", state="Loaded", timeout_s=20)
    store.delete_prefix("models", "late")


def test_entries_that_are_no_entries_are_named(files_puller: Make) -> None:
    puller = files_puller()
    puller.put("good", GOOD)
    puller.write("nojson.json", "{")
    puller.write("escape.json", '{"name":"../../x","storageUri":"s3://b/x","revision":"r"}')
    puller.write("slash.json", '{"name":"a/b","storageUri":"s3://b/x","revision":"r"}')
    puller.wait("nojson", state="Failed", reason="InvalidEntry")
    puller.wait("escape", state="Failed", reason="InvalidName")
    puller.wait("slash", state="Failed", reason="InvalidName")
    puller.wait("good", state="Loaded")
    assert not (puller.models.parent / "x").exists()


def test_p1_a_truncated_snapshot_unloads_nothing_and_is_reported(files_puller: Make) -> None:
    puller = files_puller()

    def entry(name: str) -> bytes:
        made = Entry(name=name, storage_uri=GOOD, revision="r1", generation=1, shard=0)
        return made.to_json().encode()

    entries = {f"{name}.json": entry(name) for name in ("a", "b", "c")}
    manifest = {"_shard-0": make_manifest(0, entries).to_json().encode()}
    puller.project({**entries, **manifest})
    for name in ("a", "b", "c"):
        puller.wait(name, state="Loaded")
    for broken in ({}, {"a.json": entries["a.json"], **manifest}, {"_shard-0": b"{"}):
        puller.project(broken)

        def is_seen() -> bool:
            status = puller.status()
            return status is not None and status["config"]["problem"] is not None

        puller.until(is_seen, "the problem to be seen")
        time.sleep(0.3)
        assert {puller.model(name)["state"] for name in ("a", "b", "c")} == {"Loaded"}
    kept = {"a.json": entries["a.json"]}
    puller.project({**kept, "_shard-0": make_manifest(0, kept).to_json().encode()})
    puller.wait_gone("b")
    puller.wait("a", state="Loaded")
    assert not (puller.models / "b").exists()


def test_p12_a_store_that_hangs_delays_no_other_model(files_puller: Make) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        puller = files_puller("--stall-timeout", "10")
        for number in range(5):
            puller.put(f"hangs{number}", f"http://127.0.0.1:{port}/m{number}")
        for number in range(20):
            puller.put(f"good{number}", GOOD)
        for number in range(20):
            puller.wait(f"good{number}", state="Loaded")
        stalled = puller.wait("hangs0", state="Failed")
        assert stalled["reason"] in {"SourceStalled", "SourceUnreachable"}
        events = [line["event"] for line in puller.events()]
        ends = [event for event in events if event in {"model_loaded", "action_failed"}]
        assert ends[:20] == ["model_loaded"] * 20, "none of them waited for one that hangs"


def test_kserve_s_list_is_read_and_one_bad_item_hurts_no_other(files_puller: Make) -> None:
    puller = files_puller()
    puller.write(
        "models.json",
        '[{"modelName":"a","modelSpec":{"storageUri":"s3://models/plain","framework":"sklearn",'
        '"memory":"1Gi"}},{"modelName":"b/c","modelSpec":{"storageUri":"s3://models/plain"}}]',
    )
    puller.wait("a", state="Loaded")
    puller.wait("b/c", state="Failed", reason="InvalidName")
    puller.write("models.json", "[{")
    puller.until(lambda: bool(puller.status()["config"]["problem"]), "doubt")  # type: ignore[index]
    assert puller.model("a")["state"] == "Loaded"
    puller.write("models.json", "[]")
    puller.wait_gone("a")


@pytest.mark.parametrize("flag", ["--port", "--state-dir", "--model-dir"])
def test_what_cannot_be_used_is_named_with_its_flag(tmp_path: Path, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        bad = {
            "--port": str(taken.getsockname()[1]),
            "--state-dir": str(tmp_path / "volume" / "models" / "state"),
            "--model-dir": "/proc/models",
        }
        code, words = Puller(tmp_path, flags=(flag, bad[flag])).refuse()
    assert code == 1
    assert flag in words
    assert "Traceback" not in words


def test_a_state_folder_that_takes_no_notes_keeps_no_model_from_coming_and_going(
    files_puller: Make,
) -> None:
    puller = files_puller()
    (puller.state / "held.json").unlink(missing_ok=True)
    (puller.state / "held.json").mkdir()
    puller.put("m", GOOD)
    puller.wait("m", state="Loaded")
    puller.remove("m")
    puller.wait_gone("m")
    assert puller.events("config_not_saved")


def test_a_model_that_leaves_while_it_downloads_leaves_nothing_behind(files_puller: Make) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        puller = files_puller()
        puller.put("m", f"http://127.0.0.1:{silent.getsockname()[1]}/m")
        puller.wait("m", state="Downloading")
        puller.remove("m")
        puller.wait_gone("m")
    puller.until(lambda: puller.files() == [], "the files to go")
    assert list((puller.state / "staging").iterdir()) == []
