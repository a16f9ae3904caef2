"""Faults of the store: each is named, retried, delays no other, and nothing partial shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from support.puller.faulted import Make
from support.puller.faulty_server import FaultyStore
from support.puller.forked import ForkedPuller
from trainedmodel_devkit.stores import S3Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

#: Two parts of a parallel download and a bit more.
LARGE = 20 * 1024 * 1024
GOOD = "good.bin"


@pytest.fixture
def web() -> Iterator[FaultyStore]:
    with FaultyStore() as store:
        store.put(GOOD, b"g" * 1000)
        yield store


@pytest.fixture
def puller(make: Make) -> ForkedPuller:
    return make("--stall-timeout", "1")


def served(puller: ForkedPuller, name: str, file: str) -> bytes:
    return (puller.models / name / file).read_bytes()


#: What is wrong with an object of 20 MiB, and the reasons that may be told for it.
WRONGS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "refuses": ({"status": 403}, {"AccessDenied"}),
    "is overloaded": ({"status": 503}, {"SourceError"}),
    "breaks off half way": ({"breaks_at": LARGE // 2}, {"SourceUnreachable"}),
    "stalls half way": ({"stops_at": LARGE // 2}, {"SourceStalled"}),
    "claims more than it has": ({"claims": LARGE + 5}, {"SizeMismatch"}),
    "claims less than it has": ({"claims": LARGE - 5}, {"SizeMismatch"}),
}


@pytest.mark.parametrize(
    ("what", "size"),
    [*[(what, LARGE) for what in WRONGS], *[(what, 1000) for what in list(WRONGS)[3:4]]],
)
def test_a_store_that_misbehaves_is_named_and_outlasted(
    what: str, size: int, puller: ForkedPuller, web: FaultyStore
) -> None:
    wrong, reasons = WRONGS[what]
    scaled = {
        key: value if key == "status" else value - LARGE + size if key == "claims" else size // 2
        for key, value in wrong.items()
    }
    content = os.urandom(size)
    puller.put("m", web.put("m.bin", content, **scaled))
    puller.put("good", web.url(GOOD))
    failed = puller.wait("m", state="Failed", timeout_s=20)
    assert failed["reason"] in reasons, failed
    assert failed["message"]
    assert failed["nextRetryTime"]
    puller.wait("good", state="Loaded")
    puller.until(lambda: puller.model("m").get("attempt", 0) >= 2, "a second try", 20)
    assert not (puller.models / "m").exists()
    assert not (puller.state / "versions" / "m").exists()
    web.put("m.bin", content)
    puller.wait("m", state="Loaded", timeout_s=30)
    assert served(puller, "m", "m.bin") == content
    puller.until(lambda: list((puller.state / "staging").iterdir()) == [], "staging to be empty")


def test_an_object_that_changes_half_way_is_never_mixed(
    puller: ForkedPuller, web: FaultyStore
) -> None:
    before, after = b"a" * LARGE, b"b" * LARGE
    puller.put("m", web.put("m.bin", before, rate=4 * 1024 * 1024))
    puller.until(lambda: web.objects["m.bin"].sent > LARGE // 4, "a part of it", 20)
    web.put("m.bin", after)
    puller.wait("m", state="Loaded", timeout_s=30)
    told = served(puller, "m", "m.bin")
    assert told in {before, after}, "a mixture of two objects"
    if told == before:  # what was under way came through as it was
        assert not [
            line for line in puller.events("action_failed") if line["reason"] != "SourceChanged"
        ]


def test_a_tree_that_changes_half_way_is_told_and_comes_whole(store: S3Store, make: Make) -> None:
    for number in range(40):
        store.put("models", f"changing/{number:03}", b"a" * 200_000)
    puller = make(env=store.env())
    puller.put("m", "s3://models/changing")
    puller.until(lambda: puller.model("m").get("bytes", 0) > 0 or _is_loaded(puller), "a part", 20)
    for number in range(40):
        store.put("models", f"changing/{number:03}", b"b" * 200_000)
    puller.wait("m", state="Loaded", timeout_s=40)
    content = {path.read_bytes()[:1] for path in (puller.models / "m").glob("0*")}
    assert len(content) == 1, "a mixture of two uploads"
    store.delete_prefix("models", "changing")


def _is_loaded(puller: ForkedPuller) -> bool:
    return bool(puller.model("m").get("state") == "Loaded")


def test_p12_a_slow_store_delays_no_other_model(make: Make, web: FaultyStore) -> None:
    puller = make()
    slow = [web.put(f"slow{number}.bin", b"s" * LARGE, rate=20_000) for number in range(8)]
    for number, url in enumerate(slow):
        puller.put(f"slow{number}", url)
    puller.until(lambda: all(web.objects[f"slow{n}.bin"].sent > 0 for n in range(8)), "them", 20)
    for number in range(20):
        puller.put(f"good{number}", web.url(GOOD), version=str(number))
    for number in range(20):
        puller.wait(f"good{number}", state="Loaded", timeout_s=20)
    assert {puller.model(f"slow{number}")["state"] for number in range(8)} == {"Downloading"}


def test_a_source_of_twenty_models_is_fetched_once(make: Make, web: FaultyStore) -> None:
    puller = make()
    url = web.put("m.bin", os.urandom(3_000_000))
    for number in range(20):
        puller.put(f"m{number}", url)
    for number in range(20):
        puller.wait(f"m{number}", state="Loaded", timeout_s=30)
    assert web.objects["m.bin"].gets == 1
    files = [puller.models / f"m{number}" / "m.bin" for number in range(20)]
    assert len({file.stat().st_ino for file in files}) == 1
    assert files[0].stat().st_nlink == 20
    hows = [line["how"] for line in puller.events("model_downloaded")]
    assert sorted(hows) == ["downloaded"] + ["linked"] * 19
    # one that goes takes nothing from the others
    puller.remove("m0")
    puller.wait_gone("m0")
    assert files[1].stat().st_nlink == 19


def test_an_s3_folder_of_twenty_models_is_fetched_once(store: S3Store, make: Make) -> None:
    for number in range(3):
        store.put("models", f"twenty/{number}", os.urandom(300_000))
    puller = make(env=store.env())
    before = len(store.log())
    for number in range(20):
        puller.put(f"m{number}", "s3://models/twenty")
    for number in range(20):
        puller.wait(f"m{number}", state="Loaded", timeout_s=30)
    log = store.log()[before:].replace(" ", "")
    assert log.count("|GET|/models/twenty/") == 3
    assert (puller.models / "m7" / "1").stat().st_nlink == 20
    store.delete_prefix("models", "twenty")
