"""Errors of object stores, as reasons and messages for people.

The client has one class for nearly all errors, and its text is a dump: the request's address with
its query (which holds an Azure signature), the whole body, the retry settings. Only parts that are
known to be harmless are used: status, the store's error code and message, and the kind of network
fault. The rest is never shown.
"""

from __future__ import annotations

import html
import re
from typing import Final

from obstore import exceptions
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.wording import steady
from trainedmodel_puller.errors import SourceFault, printable

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9._-]{1,80})</Code>")
_XML_MESSAGE: Final = re.compile(r"<Message>([^<]{1,400})")
_REGION: Final = re.compile(r"<Region>([a-z0-9-]{1,40})</Region>")
#: The client's words for a redirect that names no address: the bucket is in another region.
_BARE_REDIRECT: Final = "redirect without LOCATION"
_JSON_MESSAGE: Final = re.compile(r'"message"\s*:\s*"([^"\\]{1,400})')
_ADDRESS: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]*")
_TOKEN_SERVICE: Final = ("Error performing token request", "/latest/api/token")
_UNSAFE_NAME: Final = ("contained empty path segment", "illegal character sequence")
#: 404 is also what some stores say of a user, and 400 of a key.
_DENIED_CODE: Final = re.compile(
    r"AccessDenied|AccessKey|Signature|Token|User|Credential|Auth|Forbidden|AccountProblem"
)
#: Traces of network trouble in the client's text, and what they are called here.
_TROUBLE: Final = (
    ("Connection refused", "the connection was refused"),
    ("failed to lookup address", "its name does not resolve"),
    ("dns error", "its name does not resolve"),
    ("ertificate", "its TLS certificate was not accepted"),
    ("TimedOut", "it did not answer in time"),
    ("timed out", "it did not answer in time"),
    ("deadline has elapsed", "it did not answer in time"),
    ("No route to host", "there is no route to it"),
    ("etwork is unreachable", "the network is unreachable"),
    ("kind: Connect", "no connection could be made"),
    ("reset by peer", "the connection broke"),
    ("IncompleteMessage", "the connection broke"),
    ("UnexpectedEof", "the connection broke"),
    ("kind: Decode", "the connection broke"),
    ("kind: Body", "the connection broke"),
    ("kind: Interrupted", "the connection broke"),
    ("error decoding response body", "the connection broke"),
    ("error sending request", "no connection could be made"),
)


def source_fault(error: Exception, what: str, *, is_anonymous: bool = False) -> SourceFault:
    """Turn an error of the client into the fault that users see.

    Args:
        error: Whatever the client raised.
        what: What was asked for, shown first.
        is_anonymous: The request was unsigned for want of credentials, which is worth saying.
    """
    text = str(error)
    status = status_of(error)
    code = _first(_CODE, text)
    if (region := region_fault(error, what)) is not None:
        return region
    reason = _reason(error, status, code, text)
    message = f"{what}: {_sentence(status, code, text)}"
    if reason is Reason.ACCESS_DENIED and is_anonymous:
        message += "; the request was not signed, for no credentials are configured"
    return SourceFault(reason, message)


def status_of(error: Exception) -> int:
    """Return the status of the store's answer; 0 if there was none."""
    match = _STATUS.search(str(error))
    return int(match[1]) if match else 0


def is_silent(error: Exception) -> bool:
    """Return whether the store gave a status and no word, as it does to each HEAD."""
    return status_of(error) >= 400 and not _first(_CODE, str(error))


def is_refusal(error: Exception) -> bool:
    """Return whether the store refused a request, and said in words why."""
    return status_of(error) not in {0, 404} and bool(_first(_CODE, str(error)))


def is_elsewhere(error: Exception) -> bool:
    """Return whether the bucket is in another region than it was asked in."""
    text = str(error)
    return (
        _BARE_REDIRECT in text or "<Code>PermanentRedirect<" in text or bool(_first(_REGION, text))
    )


def region_fault(error: Exception, what: str, region: str = "") -> SourceFault | None:
    """Return the fault of a bucket in another region; None if the error is another one.

    Args:
        error: Whatever the client raised.
        what: What was asked for, shown first.
        region: Where the bucket is, if the error does not say.
    """
    if not is_elsewhere(error):
        return None
    region = region or _first(_REGION, str(error))
    place = f"in region {region}" if region else "in another region"
    value = region or "the bucket's region"
    return SourceFault(
        Reason.SOURCE_ERROR,
        f"{what}: the bucket is {place}: set AWS_REGION to {value}, in the credential profile or "
        "in the puller's environment",
    )


def _reason(error: Exception, status: int, code: str, text: str) -> Reason:
    """Return the reason of the first rule that holds."""
    is_denied_kind = isinstance(
        error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
    )
    is_denied_code = status in {400, 404} and _DENIED_CODE.search(code) is not None
    is_changed = isinstance(error, exceptions.PreconditionError | exceptions.NotModifiedError)
    is_missing = isinstance(error, FileNotFoundError) or status in {404, 410}
    rules = (
        (_is_about_tokens(text), Reason.ACCESS_DENIED),
        (status in {401, 403} or is_denied_code or is_denied_kind, Reason.ACCESS_DENIED),
        (is_changed or status == 412, Reason.SOURCE_CHANGED),
        (is_missing, Reason.OBJECT_NOT_FOUND),
        (status == 416, Reason.SIZE_MISMATCH),
        (any(trace in text for trace in _UNSAFE_NAME), Reason.UNSAFE_PATH),
        (not status and any(trace in text for trace, _ in _TROUBLE), Reason.SOURCE_UNREACHABLE),
    )
    return next((reason for holds, reason in rules if holds), Reason.SOURCE_ERROR)


def _is_about_tokens(text: str) -> bool:
    return any(trace in text for trace in _TOKEN_SERVICE)


def _sentence(status: int, code: str, text: str) -> str:
    if _is_about_tokens(text):
        return "the platform's token service returned no credentials"
    if status:
        words = _first(_XML_MESSAGE, text) or _first(_JSON_MESSAGE, text)
        said = ": ".join(part for part in (code, _plain(words)) if part)
        return f"the store answered {status}" + (f" ({said})" if said else "")
    for trace, words in _TROUBLE:
        if trace in text:
            return f"the store cannot be reached: {words}"
    return _plain(text.split("\n\nDebug source:", 1)[0]) or "the client of the store failed"


def _plain(text: str) -> str:
    """Cut addresses, which may be signed, and control characters; keep it short."""
    shown = steady(_ADDRESS.sub("(address)", html.unescape(text)))
    return printable(shown).strip()[:200]


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
