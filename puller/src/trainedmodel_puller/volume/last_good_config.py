"""The last good configuration on the volume, from which a restarted puller continues (P1).

It holds storage URIs with their queries, which may be signatures: only the puller may read it.
"""

from __future__ import annotations

from pathlib import Path

from trainedmodel_puller.core.snapshot import LastGoodConfig, parse_held
from trainedmodel_puller.volume.durable import read_file, write_durably


class LastGoodConfigFile:
    """One file; both methods block, and raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> LastGoodConfig:
        """Return the saved configuration; empty if it is missing or malformed."""
        try:
            return parse_held(read_file(self._path))
        except PermissionError:  # another user's, of an earlier life: none of our memory
            return LastGoodConfig()

    def write(self, held: LastGoodConfig) -> None:
        """Save the configuration."""
        write_durably(self._path, held.to_json(), mode=0o600)
