"""Everything that the puller raises on purpose.

    PullerError
    ├── SettingsError       the process cannot start; names the flag and the fix
    └── ModelFault          one model cannot go on; carries the reason that users see
        ├── SourceFault     the store: not found, denied, unreachable, stalled, lied
        ├── VolumeFault     the model volume: full, refused, foreign folder
        └── ServerFault     the model server: refused, timed out, not reachable

Every ModelFault is retried for ever with backoff (P6): the world may mend itself, and no list of
"permanent" errors has ever been right. What differs is only the reason.
"""

from __future__ import annotations

from trainedmodel_contract.reasons import Reason


def printable(text: str) -> str:
    """Return a text as one line that any terminal shows: all else becomes a space."""
    return "".join(char if char.isprintable() else " " for char in text)


class PullerError(Exception):
    """Base of all errors that the puller raises on purpose."""


class SettingsError(PullerError):
    """The process cannot start as configured; the message names the flag and the fix."""


class ModelFault(PullerError):
    """One model cannot go on.

    Attributes:
        reason: The word that users see in status, metrics and logs.
        message: What happened, for people; never holds a credential or a signed query. Parts of it
            come from files, stores and servers, so it is made printable here.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        message = printable(message)
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class SourceFault(ModelFault):
    """The store did not give what was asked for.

    Attributes:
        gained: Bytes that the failed fetch has added to what the next one begins with.
    """

    gained = 0


class VolumeFault(ModelFault):
    """The model volume could not take or publish the files.

    Attributes:
        needs_bytes: What did not fit, if that is what happened.
    """

    def __init__(self, reason: Reason, message: str, needs_bytes: int | None = None) -> None:
        super().__init__(reason, message)
        self.needs_bytes = needs_bytes


class ServerFault(ModelFault):
    """The model server did not do what was asked."""
