"""P4 on a real file system: how trees come into sight, move, stay and go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.puller.volume_steps import (
    FILES,
    beside,
    load,
    lora_volume,
    make_volume,
    seal,
    served,
    shown,
    stage,
)
from trainedmodel_contract.entry import Entry
from trainedmodel_puller.core.snapshot import LastGoodConfig
from trainedmodel_puller.core.state import DiskModel
from trainedmodel_puller.errors import SettingsError, VolumeFault
from trainedmodel_puller.volume.volume import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return make_volume(tmp_path / "vol")


@pytest.fixture
def lora(tmp_path: Path) -> Volume:
    return lora_volume(tmp_path / "vol")


class TestTheWay:
    def test_p4_a_staged_tree_is_not_visible(self, volume: Volume) -> None:
        stage(volume, "1")
        assert served(volume) == set()
        assert volume.scan_one("m") == DiskModel(is_staged=True)
        volume.remove_staging("m")
        assert volume.scan_one("m") == DiskModel()

    def test_the_first_one_is_published_as_soon_as_it_is_whole(self, volume: Volume) -> None:
        seal(volume, "1")
        assert served(volume) == {"1"}
        assert volume.publish("m", "1") == volume.model_dir / "m"

    def test_a_later_one_waits_beside(self, volume: Volume) -> None:
        load(volume, "1")
        seal(volume, "2")
        assert served(volume) == {"1"}
        assert beside(volume) == {"2"}

    def test_an_update_swaps_and_keeps_the_old_one_beside(self, volume: Volume) -> None:
        load(volume, "1")
        seal(volume, "2")
        volume.publish("m", "2")
        assert served(volume) == {"2"}
        seen = volume.scan_one("m")
        assert (seen.id, set(seen.published), seen.loaded) == ("tm", {"2"}, "1")
        assert seen.trees.keys() == {"1", "2"}
        volume.publish("m", "1")
        assert served(volume) == {"1"}

    def test_what_was_mended_under_the_same_revision_replaces_what_is_published(
        self, volume: Volume
    ) -> None:
        load(volume, "1")
        stage(volume, "1")
        (volume.begin("m", "1", "f2").folder / "weights").write_text("mended")
        volume.seal("m", "1", {"id": "tm"})
        volume.publish("m", "1")
        assert (volume.model_dir / "m" / "weights").read_text() == "mended"
        assert beside(volume) == set()

    def test_what_was_mended_after_the_server_refused_it_is_what_comes_into_sight(
        self, volume: Volume
    ) -> None:
        seal(volume, "1")
        volume.withdraw("m", "1")
        stage(volume, "1")
        (volume.begin("m", "1", "f2").folder / "weights").write_text("mended")
        volume.seal("m", "1", {"id": "tm"})
        volume.publish("m", "1")
        assert (volume.model_dir / "m" / "weights").read_text() == "mended"
        assert beside(volume) == set()

    def test_publishing_twice_changes_nothing(self, volume: Volume) -> None:
        load(volume, "1")
        before = (volume.model_dir / "m").stat().st_ino
        volume.publish("m", "1")
        assert (volume.model_dir / "m").stat().st_ino == before

    def test_withdrawing_takes_it_out_of_sight_and_keeps_it(self, volume: Volume) -> None:
        load(volume, "1")
        volume.withdraw("m", "1")
        assert served(volume) == set()
        assert beside(volume) == {"1"}

    def test_removing_leaves_nothing(self, volume: Volume) -> None:
        load(volume, "1")
        seal(volume, "2")
        stage(volume, "3")
        volume.remove("m")
        assert volume.scan() == {}
        left = [path for path in volume.state_dir.rglob("*") if path.is_file()]
        assert left == []

    def test_one_version_can_be_removed(self, volume: Volume) -> None:
        load(volume, "1")
        seal(volume, "2")
        volume.remove_versions("m", frozenset({"2"}))
        assert beside(volume) == set()
        assert served(volume) == {"1"}

    def test_the_fingerprint_of_a_sealed_source_is_remembered(self, volume: Volume) -> None:
        load(volume, "1")
        seal(volume, "2")
        assert volume.identity("m", "1")["fingerprint"] == "f1"
        assert volume.identity("m", "2")["fingerprint"] == "f2"
        assert volume.identity("m", "3") == {}

    def test_staging_of_another_revision_drops_the_older_one_but_not_its_own_journal(
        self, volume: Volume
    ) -> None:
        stage(volume, "1")
        stage(volume, "2")
        folder = volume.begin("m", "2", "f2").folder
        folder.with_name(f"{folder.name}.journal").write_text("{}")
        volume.begin("m", "2", "f2")
        left = sorted(path.name for path in (volume.state_dir / "staging").iterdir())
        assert left == ["m@2", "m@2.journal"]

    def test_staging_of_a_name_leaves_longer_names_alone(self, volume: Volume) -> None:
        stage(volume, "1", "m1")
        stage(volume, "1", "m")
        volume.begin("m", "2", "f2")
        assert volume.scan_one("m1").is_staged
        assert not volume.scan_one("m").is_staged

    def test_what_is_sealed_and_unchanged_is_not_begun_again(self, volume: Volume) -> None:
        seal(volume, "1")
        assert volume.begin("m", "1", "f1").is_sealed
        assert not volume.begin("m", "1", "another").is_sealed

    def test_a_tree_that_lost_a_file_is_begun_again(self, volume: Volume) -> None:
        stage(volume, "1")
        sizes = dict.fromkeys(FILES, 1)
        volume.seal("m", "1", {"id": "tm", "fingerprint": "f1", "files": sizes})
        (volume.model_dir / "m" / "__pycache__").mkdir()
        assert volume.begin("m", "1", "f1").is_sealed, "what the server adds does not count"
        (volume.model_dir / "m" / FILES[1]).unlink()
        assert not volume.begin("m", "1", "f1").is_sealed

    def test_a_dear_tree_that_was_verified_is_taken_as_it_is_until_its_source_changes(
        self, volume: Volume
    ) -> None:
        stage(volume, "1")
        assert not volume.begin("m", "1", "f1").is_whole
        volume.begin_fitting("m", "1", "f1", is_large=True)
        begun = volume.begin("m", "1", "f1")
        assert begun.is_whole
        assert (begun.folder / "weights").exists()
        begun = volume.begin("m", "1", "other")
        assert not begun.is_whole
        assert not begun.folder.exists(), "fitted to its server already: not to be resumed"

    def test_a_cheap_tree_that_was_being_fitted_is_fetched_again(self, volume: Volume) -> None:
        stage(volume, "1")
        volume.begin_fitting("m", "1", "f1", is_large=False)
        begun = volume.begin("m", "1", "f1")
        assert not begun.is_whole
        assert not begun.folder.exists()
        assert list((volume.state_dir / "staging").iterdir()) == []


class TestForeignThings:
    def test_a_foreign_folder_is_seen_and_never_replaced_or_removed(self, volume: Volume) -> None:
        foreign = volume.model_dir / "m"
        foreign.mkdir()
        (foreign / "precious").write_text("x")
        seal(volume, "1")
        assert volume.scan_one("m").is_foreign
        with pytest.raises(VolumeFault, match="not made by the puller"):
            volume.publish("m", "1")
        volume.remove("m")
        assert (foreign / "precious").exists()

    def test_folders_with_unusable_names_are_passed_over(self, volume: Volume) -> None:
        (volume.model_dir / ".hidden").mkdir()
        (volume.model_dir / "a b").mkdir()
        assert volume.scan() == {}


class TestBadFolders:
    def test_a_state_folder_inside_the_served_one_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="--state-dir must not lie inside"):
            Volume(tmp_path / "models", tmp_path / "models" / "state").prepare()

    def test_two_file_systems_are_refused_with_the_fix(self, tmp_path: Path) -> None:
        other = Path("/dev/shm") / f"trainedmodel-test-{tmp_path.name}"
        if not Path("/dev/shm").is_dir():
            pytest.skip("no second file system")
        try:
            with pytest.raises(SettingsError, match="same volume"):
                Volume(tmp_path / "models", other).prepare()
        finally:
            for folder in ("staging", "versions", "markers", "trash"):
                for leftover in (other / folder).glob("*"):
                    leftover.rmdir()
                (other / folder).rmdir()
            other.rmdir()

    def test_a_file_in_the_place_of_a_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "models").write_text("")
        with pytest.raises(SettingsError, match="--model-dir"):
            Volume(tmp_path / "models", tmp_path / "state").prepare()


class TestMarkers:
    def test_going_to_another_revision_and_back_without_a_word_of_the_server_is_doubt(
        self, volume: Volume
    ) -> None:
        load(volume, "1")
        seal(volume, "2")
        volume.publish("m", "2")
        volume.publish("m", "1")
        seen = volume.scan_one("m")
        assert (seen.loaded, seen.trying) == ("1", "1")
        volume.mark_loaded("m", "tm", "1")
        assert volume.scan_one("m").trying is None

    def test_a_refusal_settles_it(self, volume: Volume) -> None:
        load(volume, "1")
        seal(volume, "2")
        volume.publish("m", "2")
        assert volume.scan_one("m").trying == "2"
        volume.publish("m", "1")
        volume.markers.settle("m")
        assert volume.scan_one("m").trying is None

    def test_a_reload_of_what_serves_is_no_doubt(self, volume: Volume) -> None:
        load(volume, "1")
        volume.publish("m", "1")
        assert volume.scan_one("m").trying is None


class TestMemory:
    def test_the_last_good_configuration_is_kept(self, volume: Volume) -> None:
        assert not volume.held.read().is_known
        entry = Entry(name="a", storage_uri="s3://b/a", revision="1").to_json()
        held = LastGoodConfig({"list": {"a": entry}}, is_known=True)
        volume.held.write(held)
        assert volume.held.read() == held

    def test_a_garbled_one_is_none(self, volume: Volume) -> None:
        (volume.state_dir / "held.json").write_text('{"groups": 5')
        assert not volume.held.read().is_known

    def test_a_garbled_marker_is_no_marker(self, volume: Volume) -> None:
        load(volume, "1")
        (volume.state_dir / "markers" / "m.json").write_text("{")
        assert volume.scan_one("m").loaded is None
        assert volume.scan_one("m").published == {"1"}

    @pytest.mark.parametrize("left", ["", '{"id":"tm","lo'])
    def test_a_marker_cut_by_a_kill_is_none_and_is_made_whole_by_the_next_load(
        self, volume: Volume, left: str
    ) -> None:
        load(volume, "1")
        (volume.state_dir / "markers" / "m.json").write_text(left)
        assert volume.scan_one("m").loaded is None
        volume.mark_loaded("m", "tm", "1")
        assert volume.scan_one("m").loaded == "1"


class TestAFolderARevision:
    def test_an_update_adds_a_folder_and_moves_none(self, lora: Volume) -> None:
        load(lora, "1")
        before = (lora.model_dir / "m" / "r1").stat().st_ino
        load(lora, "2")
        assert shown(lora) == {"r1", "r2"}
        assert (lora.model_dir / "m" / "r1").stat().st_ino == before
        assert lora.scan_one("m").published == {"1", "2"}
        assert lora.scan_one("m").loaded == "2"

    def test_a_refused_revision_stays_where_it_is(self, lora: Volume) -> None:
        load(lora, "1")
        seal(lora, "2")
        lora.publish("m", "2")
        lora.withdraw("m", "2")
        assert shown(lora) == {"r1", "r2"}

    def test_an_old_revision_can_be_removed(self, lora: Volume) -> None:
        load(lora, "1")
        load(lora, "2")
        lora.remove_versions("m", frozenset({"1"}))
        assert shown(lora) == {"r2"}

    def test_removing_leaves_nothing(self, lora: Volume) -> None:
        load(lora, "1")
        load(lora, "2")
        lora.remove("m")
        assert lora.scan() == {}
        assert list(lora.model_dir.iterdir()) == []

    def test_a_folder_that_is_not_ours_is_foreign_and_stays(self, lora: Volume) -> None:
        (lora.model_dir / "m" / "theirs").mkdir(parents=True)
        seal(lora, "1")
        assert lora.scan_one("m").is_foreign
        with pytest.raises(VolumeFault, match="not made by the puller"):
            lora.publish("m", "1")
        lora.remove("m")
        assert (lora.model_dir / "m" / "theirs").exists()

    def test_a_folder_that_vanished_is_seen(self, lora: Volume) -> None:
        load(lora, "1")
        expected = lora.served.expected(lora.scan_one("m").published)
        assert lora.served.listed()["m"] == expected
        shutil.rmtree(lora.model_dir / "m" / "r1")
        assert lora.served.listed()["m"] != expected


class TestAFolderOfKServesAgent:
    def kserve_folder(self, volume: Volume) -> Path:
        folder = volume.model_dir / "m"
        folder.mkdir()
        (folder / "weights").write_text("1")
        (folder / "SUCCESS.3c5a").write_text("{}")
        return folder

    def test_it_is_known_by_its_marker(self, volume: Volume) -> None:
        self.kserve_folder(volume)
        seen = volume.scan_one("m")
        assert seen.is_foreign
        assert seen.is_adoptable

    def test_a_tree_of_ours_takes_its_place(self, volume: Volume) -> None:
        self.kserve_folder(volume)
        seal(volume, "1")
        volume.publish("m", "1")
        assert served(volume) == {"1"}
        assert not list((volume.model_dir / "m").glob("SUCCESS.*"))

    def test_one_that_nobody_wants_stays(self, volume: Volume) -> None:
        folder = self.kserve_folder(volume)
        volume.remove("m")
        assert (folder / "weights").exists()


class TestRoom:
    def test_the_size_and_age_of_kept_trees_are_known(self, volume: Volume) -> None:
        stage(volume, "1")
        volume.seal("m", "1", {"id": "tm", "bytes": 1234})
        volume.publish("m", "1")
        volume.mark_loaded("m", "tm", "1")
        os.utime(volume.model_dir / "m", (1, 1))
        load(volume, "2")
        kept = volume.scan_one("m").trees["1"]
        assert kept.size == 1234
        assert kept.retired > 1_000_000, "it was wanted until just now"

    def test_declared_memory_is_that_of_what_is_loaded(self, volume: Volume) -> None:
        stage(volume, "1")
        volume.seal("m", "1", {"id": "tm", "entry": {"memory": 5000}})
        volume.publish("m", "1")
        assert volume.scan_one("m").memory == 0
        volume.mark_loaded("m", "tm", "1")
        assert volume.scan_one("m").memory == 5000

    def test_what_an_earlier_try_left_is_counted(self, volume: Volume) -> None:
        begun = volume.begin("m", "1", "f1")
        assert begun.staged_bytes == 0
        begun.folder.mkdir()
        (begun.folder / "part").write_bytes(b"x" * 100_000)
        assert 100_000 <= volume.begin("m", "1", "f1").staged_bytes < 110_000
        assert begun.free_bytes > 100_000
