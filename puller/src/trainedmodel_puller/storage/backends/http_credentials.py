"""Credentials for `http(s)://`: a bearer token or a user and password, and their origins.

The URI of a model names its server, and its author may lack the right to read the profile's Secret.
A token that is sent to any server would leak to such an author. So a profile names the origins of
its credentials (`HTTP_ORIGINS`), and is refused without them. Credentials are sent to the origin of
the URI only, never to a redirect's target at another origin.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from trainedmodel_contract.reasons import Reason
from yarl import URL

from trainedmodel_puller.errors import SourceFault


@dataclass(frozen=True, slots=True)
class HttpLogin:
    """The authorization header, and the origins that it is sent to.

    Attributes:
        origins: Scheme, host and port.
        authorization: The header's value. Never shown.
    """

    origins: frozenset[URL]
    authorization: str = field(repr=False)

    def check(self, url: URL) -> None:
        """Make sure that an address is one that the credentials are for.

        Raises:
            SourceFault: AccessDenied.
        """
        if url.origin() not in self.origins:
            raise _denied(f"the profile's HTTP_ORIGINS does not name {url.origin()}")


def http_login(variables: Mapping[str, str]) -> HttpLogin:
    """Read the variables of a profile.

    `HTTP_BEARER_TOKEN`, or else `HTTP_USERNAME` with `HTTP_PASSWORD`; and `HTTP_ORIGINS`, origins
    like `https://models.example.com:8443` with commas or spaces between them.

    Raises:
        SourceFault: AccessDenied: something is missing, or cannot be sent.
    """
    token, user = variables.get("HTTP_BEARER_TOKEN", ""), variables.get("HTTP_USERNAME", "")
    if token:
        if not (token.isascii() and token.isprintable()):
            raise _denied(
                "HTTP_BEARER_TOKEN of the profile has characters that no HTTP header may have"
            )
        said = f"Bearer {token}"
    elif user:
        pair = f"{user}:{variables.get('HTTP_PASSWORD', '')}"
        said = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        raise _denied("the profile has neither HTTP_BEARER_TOKEN nor HTTP_USERNAME")
    written = variables.get("HTTP_ORIGINS", "").replace(",", " ").split()
    if not written:
        raise _denied(
            "the profile has no HTTP_ORIGINS: name the servers that its credentials are for, "
            "like https://models.example.com"
        )
    return HttpLogin(frozenset(_origin(text) for text in written), said)


def _origin(text: str) -> URL:
    try:
        url = URL(text)
        if url.scheme in {"http", "https"} and url.host and url.path in {"", "/"}:
            return url.origin()
    except ValueError:
        pass
    raise _denied(f"the profile's HTTP_ORIGINS has {text!a:.100}, which is no origin")


def _denied(words: str) -> SourceFault:
    return SourceFault(Reason.ACCESS_DENIED, words)
