"""Remembers layouts that a server cannot load, so that a retry costs a listing, not a download.

A wrong layout inside an archive, or in a file that a driver reads, is known only after the fetch.
The tree is then deleted, which frees its space, and the refusal is kept in the staging folder as
`<name>@<revision>.refused`. It is valid for the same content of the source, kind of server, and
fields of the entry that the driver reads. It is deleted with the other staged files of the name.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from trainedmodel_contract.canonical import canonical_json
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import ServerFault, VolumeFault
from trainedmodel_puller.volume.durable import read_json, replace_file
from trainedmodel_puller.volume.volume import Volume

_REFUSED = ".refused"


def question_of(fingerprint: str, kind: str, entry: Entry) -> str:
    """Return all inputs of a driver's answer."""
    asked = {
        "fingerprint": fingerprint,
        "kind": kind,
        "name": entry.name,
        "framework": entry.framework,
        "parameters": dict(entry.parameters or {}),
    }
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()


class Refusals:
    """The refusals of one volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def _path(self, name: str, revision: str) -> Path:
        return Path(f"{self._volume.staged(name, revision)}{_REFUSED}")

    def check(self, name: str, revision: str, question: str) -> None:
        """Repeat an earlier refusal, if there is one for the same inputs (blocking).

        Raises:
            ServerFault: InvalidLayout, with the earlier message.
        """
        known = read_json(self._path(name, revision))
        message = known.get("message")
        if known.get("question") == question and isinstance(message, str):
            raise ServerFault(Reason.INVALID_LAYOUT, message)

    def keep(self, name: str, revision: str, question: str, message: str) -> None:
        """Remove what is staged of a name, and remember why (blocking).

        A kill in between, or a volume that refuses, has it fetched once more.
        """
        with contextlib.suppress(VolumeFault, OSError):
            self._volume.remove_staging(name)
            told = canonical_json({"question": question, "message": message})
            replace_file(self._path(name, revision), told, durable=False)
