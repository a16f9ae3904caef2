"""A volume of a test, and the steps that a model goes through on it."""

from __future__ import annotations

from pathlib import Path

from trainedmodel_puller.core.state import Layout
from trainedmodel_puller.volume.identity import IDENTITY_FILE
from trainedmodel_puller.volume.volume import Volume

FILES = ("weights", "sub/config")


def make_volume(root: Path) -> Volume:
    """Return a volume that is updated in place."""
    made = Volume(root / "models", root / "state")
    made.prepare()
    return made


def stage(volume: Volume, revision: str, name: str = "m") -> None:
    folder = volume.begin(name, revision, f"f{revision}").folder
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


def beside(volume: Volume, name: str = "m") -> set[str]:
    """Return the whole revisions that the server does not see."""
    seen = volume.scan_one(name)
    return set(seen.trees) - set(seen.published)


def lora_volume(root: Path) -> Volume:
    made = Volume(root / "models", root / "state", Layout.PER_REVISION, lambda rev: f"r{rev}")
    made.prepare()
    return made


def shown(volume: Volume) -> set[str]:
    """Return the folders under models/m, each of which must be whole."""
    folders = list((volume.model_dir / "m").glob("*"))
    for folder in folders:
        assert {(folder / file).read_text() for file in FILES} == {folder.name[1:]}
        assert (folder / IDENTITY_FILE).exists()
    return {folder.name for folder in folders}
