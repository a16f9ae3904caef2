"""The projected volume behaves as a kubelet's."""

import os
import threading
from base64 import b64encode
from pathlib import Path

import pytest
from trainedmodel_devkit.projection import AtomicWriter, payload_of

pytestmark = pytest.mark.slow


def test_of_two_equal_keys_the_later_config_map_wins() -> None:
    first = {"data": {"a.json": "1", "b.json": "1"}}
    second = {"data": {"b.json": "2"}, "binaryData": {"c": b64encode(b"\xff").decode()}}

    assert payload_of([first, {}, second]) == {"a.json": b"1", "b.json": b"2", "c": b"\xff"}


def test_each_key_is_a_link_through_the_data_link(tmp_path: Path) -> None:
    AtomicWriter(tmp_path).write({"a.json": b"1"})

    assert os.readlink(tmp_path / "a.json") == "..data/a.json"
    target = os.readlink(tmp_path / "..data")
    assert target.startswith("..20")
    assert "/" not in target
    assert (tmp_path / target / "a.json").read_bytes() == b"1"


def test_equal_content_touches_nothing(tmp_path: Path) -> None:
    writer = AtomicWriter(tmp_path)
    assert writer.write({"a.json": b"1"})
    before = os.readlink(tmp_path / "..data")

    assert not writer.write({"a.json": b"1"})
    assert os.readlink(tmp_path / "..data") == before


def test_an_empty_payload_still_makes_the_data_link(tmp_path: Path) -> None:
    assert AtomicWriter(tmp_path).write({})
    assert (tmp_path / "..data").is_dir()


def test_a_removed_key_loses_its_link_and_the_old_folder_goes(tmp_path: Path) -> None:
    writer = AtomicWriter(tmp_path)
    writer.write({"a.json": b"1", "b.json": b"1"})
    old = os.readlink(tmp_path / "..data")

    writer.write({"b.json": b"2"})

    new = os.readlink(tmp_path / "..data")
    assert sorted(os.listdir(tmp_path)) == sorted(["..data", new, "b.json"])
    assert new != old


def test_a_leftover_draft_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "..data_tmp").symlink_to("..nowhere")

    AtomicWriter(tmp_path).write({"a.json": b"1"})

    assert (tmp_path / "a.json").read_bytes() == b"1"
    assert not (tmp_path / "..data_tmp").is_symlink()


@pytest.mark.timeout(30)
def test_a_reader_of_one_snapshot_never_sees_a_mixture(tmp_path: Path) -> None:
    writer = AtomicWriter(tmp_path)
    writer.write({f"{key}.json": b"0" for key in range(20)})
    mixtures: list[set[bytes]] = []
    snapshots = 0
    done = threading.Event()

    def read() -> None:
        nonlocal snapshots
        while not done.is_set():
            folder = tmp_path / os.readlink(tmp_path / "..data")
            try:
                seen = {path.read_bytes() for path in folder.iterdir()}
            except FileNotFoundError:
                continue  # the snapshot was replaced and removed while it was read: start over
            if len(seen) > 1:
                mixtures.append(seen)
            snapshots += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(200):
            writer.write({f"{key}.json": str(turn).encode() for key in range(20)})
    finally:
        done.set()
        reader.join()
    assert snapshots
    assert not mixtures
