"""Markers: the revision of each name that the server last confirmed, one small file for each name.

Before the puller requests the load of another revision, it notes that in the marker (`trying`),
until the outcome is known. Otherwise a puller that was killed twice, going from A to B and back to
A, would take the old marker of A for proof, while the server serves B.

Markers are not forced to the disk: after a crash of the machine no server serves anything, and a
model without a marker is loaded once more. All of it blocks, and raises OSError.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from trainedmodel_contract.canonical import canonical_json

from trainedmodel_puller.volume.durable import read_json, replace_file, write_file


class Markers:
    """The folder of the markers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, f"{name}.json")

    def names(self) -> set[str]:
        """Return the names that have a marker."""
        return {path.stem for path in self.folder.glob("*.json")}

    def read(self, name: str) -> dict[str, str]:
        """Return a name's marker; empty if it is missing or malformed."""
        known = read_json(self._path(name))
        return {key: value for key, value in known.items() if isinstance(value, str)}

    def write(self, name: str, model_id: str, revision: str) -> str | None:
        """Record a confirmed revision, and return the one recorded before."""
        path = self._path(name)
        known = self.read(name)
        text = canonical_json({"id": model_id, "name": name, "loaded": revision})
        if known:
            replace_file(path, text, durable=False)
        else:
            write_file(path, text, durable=False)  # half of one is none, and there was none
        return known.get("loaded")

    def try_another(self, name: str, revision: str) -> None:
        """Record that the load of another revision is about to be requested."""
        known = self.read(name)
        if known.get("loaded") not in {None, revision} or known.get("trying"):
            replace_file(
                self._path(name), canonical_json({**known, "trying": revision}), durable=False
            )

    def settle(self, name: str) -> None:
        """Record that the server has refused the other revision, and serves the same one."""
        known = self.read(name)
        if known.pop("trying", None) is not None:
            replace_file(self._path(name), canonical_json(known), durable=False)

    def forget(self, name: str) -> None:
        """Record that no revision is confirmed."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))
