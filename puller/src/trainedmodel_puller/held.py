"""The last good configuration, kept on the volume: what a restarted puller holds on to (P1).

It holds storage URIs with their queries, which may be signatures: only the puller may read it.
"""

from __future__ import annotations

from pathlib import Path

from trainedmodel_puller.core.snapshot import Held, parse_held
from trainedmodel_puller.durable import told_as_fault, write_durably


class HeldFile:
    """One file; both methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Held:
        """Return what was kept; an empty memory if nothing was, or it cannot be read."""
        try:
            return parse_held(self._path.read_text())
        except (OSError, UnicodeDecodeError):
            return Held()

    def write(self, held: Held) -> None:
        """Keep it.

        Raises:
            VolumeFault: the volume refused.
        """
        with told_as_fault():
            write_durably(self._path, held.to_json(), mode=0o600)
