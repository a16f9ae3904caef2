"""The exceptions of the puller.

    PullerError
    ├── SettingsError       the process cannot start; names the flag and the fix
    └── ModelFault          one model cannot continue; has the reason that users see
        ├── SourceFault     the store: not found, denied, unreachable, stalled, inconsistent
        ├── VolumeFault     the model volume: full, refused, foreign folder
        └── ServerFault     the model server: refused, timed out, not reachable

Every ModelFault is retried without end, with backoff (P6). No error counts as permanent, because
stores, volumes and servers may recover from each of them. Only the reason differs.
"""

from __future__ import annotations

from trainedmodel_contract.reasons import Reason


def printable(text: str) -> str:
    """Return a text as one printable line: every other character becomes a space."""
    return "".join(char if char.isprintable() else " " for char in text)


class PullerError(Exception):
    """Base of all errors that the puller raises on purpose."""


class SettingsError(PullerError):
    """The process cannot start as configured; the message names the flag and the fix."""


class ModelFault(PullerError):
    """One model cannot continue.

    Attributes:
        reason: The word that users see in status, metrics and logs.
        message: The fault, for people; never holds a credential or a signed query. Parts of it
            come from files, stores and servers, so it is made printable here.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        message = printable(message)
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class SourceFault(ModelFault):
    """The store did not return the requested content.

    Attributes:
        gained: Bytes of the failed fetch that the next one need not fetch again.
    """

    gained = 0


class VolumeFault(ModelFault):
    """The model volume could not take or publish the files.

    Attributes:
        needs_bytes: Bytes that did not fit, if the volume was full.
    """

    def __init__(self, reason: Reason, message: str, needs_bytes: int | None = None) -> None:
        super().__init__(reason, message)
        self.needs_bytes = needs_bytes


class ServerFault(ModelFault):
    """The model server did not carry out a request."""
