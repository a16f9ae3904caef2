"""Everything that the operator raises.

    OperatorError
    ├── ConfigurationError      it cannot start as it was told to
    └── ApiError                a request to the Kubernetes API did not succeed
        ├── RetryableError      the same pass, made again, may succeed
        │   ├── Unavailable     no answer, a late one, or a 5xx
        │   ├── Throttled       429: come back later (`retry_after_s`)
        │   └── Conflict        409 or 410: somebody was faster; read again
        └── TerminalError       the same request would fail again
            ├── NotFound        404: the object (or its kind) is not there
            └── Refused         any other 4xx: not allowed, or not valid

A pass that meets either kind is made again from fresh reads, with back-off: what makes a request
terminal may change (a role is granted, a CRD installed). The split says what a *single* write is
worth: a status write that is refused is dropped until its model changes again.
"""

from __future__ import annotations


class OperatorError(Exception):
    """Root of all errors of the operator."""


class ConfigurationError(OperatorError):
    """The operator cannot start as it was told to; the message says what to change."""


class ApiError(OperatorError):
    """A request to the Kubernetes API did not succeed."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RetryableError(ApiError):
    """The same pass, made again, may succeed."""


class Unavailable(RetryableError):
    """No answer, a late one, or a server error."""


class Throttled(RetryableError):
    """The API asks to come back later."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, 429)
        self.retry_after_s = retry_after_s


class Conflict(RetryableError):
    """Somebody was faster, or a list expired while it was read."""


class TerminalError(ApiError):
    """The same request would fail again."""


class NotFound(TerminalError):
    """The object, or its kind, is not there."""


class Refused(TerminalError):
    """Not allowed, or not valid."""
