"""All errors of the operator.

    OperatorError
    ├── ConfigurationError      the configuration does not allow a start
    ├── LeadershipLost          another replica may hold the Lease: the process must end
    ├── InjectionImpossible     a pod asks for a puller that it cannot get
    ├── CertificateError        the webhook's certificates cannot be used
    └── ApiError                a request to the Kubernetes API failed
        ├── RetryableError      the same pass may succeed later
        │   ├── Unavailable     a late or broken answer, or a 5xx
        │   │   └── Unreachable no answer: refused, reset, or no route
        │   ├── NotLeading      a write that was not sent, because the Lease has expired
        │   ├── Throttled       429, or 503 with Retry-After: retry after `retry_after_s`
        │   └── Conflict        409 or 410: another writer was faster; read again
        └── TerminalError       the same request would fail again
            ├── NotFound        404: the object or its kind does not exist
            ├── Refused         any other 4xx: not allowed, or not valid
            │   ├── NamespaceEnds     the namespace is being deleted, so it takes no new object
            │   └── PatchNotApplied   a JSON patch does not fit the object, or its test failed
            └── NothingReadable none of the namespaces in --namespace can be read

A pass that cannot *read* is retried with back-off after any error, because the cause of a terminal
error may change: a role is granted, a CRD is installed. A *write* that fails is deferred by itself
(`core.pacing.put_off`). The kind of its error decides for how long, and whether the status shows it
at once.
"""

from __future__ import annotations


class OperatorError(Exception):
    """Root of all errors of the operator."""


class ConfigurationError(OperatorError):
    """The configuration does not allow a start; the message names the field and the fix."""


class LeadershipLost(OperatorError):
    """This replica no longer holds the Lease; the message says why."""


class InjectionImpossible(OperatorError):
    """A pod asks for a puller that it cannot get; the message names the field and the fix."""


class CertificateError(OperatorError):
    """The webhook's certificates cannot be used; the message names the one, and the cause."""


class ApiError(OperatorError):
    """A request to the Kubernetes API failed.

    `cause` is its label in metrics; `status` is 0 without an answer;
    `said` is the message of the API server, without the request.
    """

    cause = "unknown"
    said = ""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RetryableError(ApiError):
    """The same pass may succeed later."""


class Unavailable(RetryableError):
    """A late or broken answer, or a server error."""

    cause = "unavailable"


class Unreachable(Unavailable):
    """There was no answer at all."""

    cause = "unreachable"


class NotLeading(RetryableError):
    """A write that was not sent, because this replica is not, or no longer, the leader."""

    cause = "not_leading"


class Throttled(RetryableError):
    """Rate limited by the API server; the request was not carried out."""

    cause = "throttled"

    def __init__(self, message: str, retry_after_s: float, status: int = 429) -> None:
        super().__init__(message, status)
        self.retry_after_s = retry_after_s


class Conflict(RetryableError):
    """Another writer was faster, or a list expired while it was read."""

    cause = "conflict"


class TerminalError(ApiError):
    """The same request would fail again."""


class NotFound(TerminalError):
    """The object, or its kind, is not there."""

    cause = "not_found"


class Refused(TerminalError):
    """Not allowed, or not valid."""

    cause = "refused"


class NamespaceEnds(Refused):
    """A namespace that is being deleted takes no new object."""

    cause = "namespace_ends"


class PatchNotApplied(Refused):
    """A JSON patch does not fit the object as it is now, or a test in it failed."""

    cause = "patch_not_applied"


class NothingReadable(TerminalError):
    """None of the namespaces in --namespace can be read."""

    cause = "refused"
