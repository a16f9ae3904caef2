"""P4 and P7 on a real file system: nothing partial is ever visible, and any kill converges."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from trainedmodel_puller import durable
from trainedmodel_puller import volume as volume_module
from trainedmodel_puller.core.state import DiskModel
from trainedmodel_puller.errors import SettingsError, VolumeFault
from trainedmodel_puller.volume import IDENTITY_FILE, Volume

FILES = ("weights", "sub/config")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = Volume(tmp_path / "vol" / "models", tmp_path / "vol" / "state")
    made.prepare()
    return made


def stage(volume: Volume, revision: str, name: str = "m") -> None:
    folder, _ = volume.staging(name, revision, f"f{revision}")
    for file in FILES:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(revision)


def seal(volume: Volume, revision: str, name: str = "m") -> None:
    stage(volume, revision, name)
    volume.seal(name, revision, {"id": "tm", "fingerprint": f"f{revision}"})


def load(volume: Volume, revision: str, name: str = "m") -> None:
    seal(volume, revision, name)
    volume.publish(name, revision)
    volume.mark_loaded(name, "tm", revision)


def served(volume: Volume, name: str = "m") -> set[str]:
    """Return the revisions that the files under models/<name> are of: one, or none."""
    folder = volume.model_dir / name
    if not folder.exists():
        return set()
    assert (folder / IDENTITY_FILE).exists(), "visible without an identity"
    return {(folder / file).read_text() for file in FILES}


class TestTheWay:
    def test_p4_a_staged_tree_is_not_visible(self, volume: Volume) -> None:
        stage(volume, "1")
        assert served(volume) == set()
        assert volume.scan_one("m") == DiskModel(is_staged=True)
        volume.remove_staging("m")
        assert volume.scan_one("m") == DiskModel()

    def test_a_sealed_one_can_be_published(self, volume: Volume) -> None:
        seal(volume, "1")
        assert volume.scan_one("m").versions == {"1"}
        volume.publish("m", "1")
        assert served(volume) == {"1"}

    def test_an_update_swaps_and_keeps_the_old_one_beside(self, volume: Volume) -> None:
        load(volume, "1")
        seal(volume, "2")
        volume.publish("m", "2")
        assert served(volume) == {"2"}
        assert volume.scan_one("m") == DiskModel(
            id="tm", published="2", versions=frozenset({"1"}), loaded="1"
        )
        volume.publish("m", "1")
        assert served(volume) == {"1"}

    def test_what_was_mended_under_the_same_revision_replaces_what_is_published(
        self, volume: Volume
    ) -> None:
        load(volume, "1")
        stage(volume, "1")
        (volume.staging("m", "1", "f1")[0] / "weights").write_text("mended")
        volume.seal("m", "1", {"id": "tm"})
        volume.publish("m", "1")
        assert (volume.model_dir / "m" / "weights").read_text() == "mended"
        assert volume.scan_one("m").versions == frozenset()

    def test_publishing_twice_changes_nothing(self, volume: Volume) -> None:
        load(volume, "1")
        before = (volume.model_dir / "m").stat().st_ino
        volume.publish("m", "1")
        assert (volume.model_dir / "m").stat().st_ino == before

    def test_withdrawing_takes_it_out_of_sight_and_keeps_it(self, volume: Volume) -> None:
        load(volume, "1")
        volume.withdraw("m")
        assert served(volume) == set()
        assert volume.scan_one("m").versions == {"1"}

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
        volume.remove_version("m", "2")
        assert volume.scan_one("m").versions == frozenset()
        assert served(volume) == {"1"}

    def test_the_fingerprint_of_a_sealed_source_is_remembered(self, volume: Volume) -> None:
        load(volume, "1")
        seal(volume, "2")
        assert volume.sealed_identity("m", "1")["fingerprint"] == "f1"
        assert volume.sealed_identity("m", "2")["fingerprint"] == "f2"
        assert volume.sealed_identity("m", "3") == {}

    def test_staging_of_another_revision_drops_the_older_one_but_not_its_own_journal(
        self, volume: Volume
    ) -> None:
        stage(volume, "1")
        stage(volume, "2")
        journal = volume.staging("m", "2", "f2")[0].with_name("2.journal")
        journal.write_text("{}")
        folder, _ = volume.staging("m", "2", "f2")
        assert sorted(path.name for path in folder.parent.iterdir()) == ["2", "2.journal"]

    def test_a_verified_tree_is_taken_as_it_is_until_its_source_changes(
        self, volume: Volume
    ) -> None:
        stage(volume, "1")
        assert volume.staging("m", "1", "f1")[1] is False
        volume.mark_verified("m", "1", "f1")
        folder, is_verified = volume.staging("m", "1", "f1")
        assert is_verified
        assert (folder / "weights").exists()
        folder, is_verified = volume.staging("m", "1", "other")
        assert not is_verified
        assert not folder.exists(), "fitted to its server already: not to be resumed"


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


class TestMemory:
    def test_the_last_good_configuration_is_kept(self, volume: Volume) -> None:
        assert volume.read_held() is None
        volume.write_held('{"groups":{}}')
        assert volume.read_held() == '{"groups":{}}'

    def test_a_garbled_marker_is_no_marker(self, volume: Volume) -> None:
        load(volume, "1")
        (volume.state_dir / "markers" / "m.json").write_text("{")
        assert volume.scan_one("m").loaded is None
        assert volume.scan_one("m").published == "1"


# -- kills -------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: no handler of the code under test sees it."""


class _Countdown:
    """Raises Killed before the n-th step that changes the disk."""

    left: int | None = None
    writes = frozenset(
        {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"}
    )

    def step(self) -> None:
        if self.left is None:
            return
        if self.left == 0:
            raise Killed
        self.left -= 1

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None:
            return
        opens_to_write = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        if event in self.writes or opens_to_write:
            self.step()


COUNTDOWN = _Countdown()
sys.addaudithook(COUNTDOWN.hook)


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    COUNTDOWN.left = steps
    try:
        yield
    finally:
        COUNTDOWN.left = None


def update(volume: Volume) -> None:
    seal(volume, "2")
    volume.publish("m", "2")
    volume.mark_loaded("m", "tm", "2")
    volume.remove_version("m", "1")


def roll_back(volume: Volume) -> None:
    seal(volume, "2")
    volume.publish("m", "2")
    volume.publish("m", "1")
    volume.remove_version("m", "2")


def first(volume: Volume) -> None:
    load(volume, "1")


def leave(volume: Volume) -> None:
    volume.forget_loaded("m")
    volume.remove("m")


WAYS: dict[str, tuple[Callable[[Volume], None], str | None, set[str]]] = {
    "first": (first, None, {"1"}),
    "update": (update, "1", {"2"}),
    "roll back": (roll_back, "1", {"1"}),
    "leave": (leave, "1", set()),
}


def converge(volume: Volume, wanted: set[str]) -> None:
    """Do what the plan does after a restart, from whatever `scan` says."""
    disk = volume.scan().get("m", DiskModel())
    if not wanted:
        volume.remove("m")
        return
    (revision,) = wanted
    if revision != disk.published and revision not in disk.versions:
        seal(volume, revision)
    volume.publish("m", revision)
    volume.mark_loaded("m", "tm", revision)
    for old in volume.scan_one("m").versions:
        volume.remove_version("m", old)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("can_exchange", [True, False])
def test_p7_a_kill_before_any_step_shows_nothing_partial_and_converges(
    way: str, can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_exchange = durable.exchange

    def exchange(one: Path, other: Path, trash: Path) -> None:
        if can_exchange:
            COUNTDOWN.step()
            real_exchange(one, other, trash)
            return
        aside = trash / "aside"
        other.rename(aside)
        one.rename(other)
        aside.rename(one)

    monkeypatch.setattr(volume_module, "exchange", exchange)
    act, before, after = WAYS[way]
    kills = 0
    for steps in range(200):
        root = tmp_path / str(steps)
        volume = Volume(root / "models", root / "state")
        volume.prepare()
        if before:
            load(volume, before)
        try:
            with killed_after(steps):
                act(volume)
        except Killed:
            kills += 1
        else:
            break
        seen = served(volume)
        assert len(seen) <= 1, f"mixed files after {steps} steps"
        if before and after and can_exchange:
            assert seen, f"nothing served after {steps} steps"
        reborn = Volume(root / "models", root / "state")
        reborn.prepare()
        converge(reborn, after)
        assert served(reborn) == after, f"not converged after {steps} steps"
        left = reborn.scan().get("m", DiskModel())
        assert left.versions == frozenset()
        assert list((root / "state" / "trash").iterdir()) == []
    else:
        pytest.fail("the way never came to its end")
    assert kills >= 6
    assert served(volume) == after
