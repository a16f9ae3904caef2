"""What the API server was asked: its audit log, read back as requests.

Tests count with it what a program really sends (writes for one change, requests of a pass that
changes nothing), by user and user agent, which no client-side counter can be trusted with.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""


@dataclass(frozen=True)
class Request:
    """One request as the API server saw it: a watch when it starts, any other when answered."""

    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    user_agent: str
    code: int
    uri: str
    time: str


def read_requests(log: Path, since: int = 0) -> list[Request]:
    """Read the requests that an audit log holds from byte `since` on."""
    with log.open("rb") as file:
        file.seek(since)
        # The last line may be half written.
        lines = file.read().rpartition(b"\n")[0].splitlines()
    events = (json.loads(line) for line in lines)
    return [_request(event) for event in events if _counts(event)]


def _counts(event: dict[str, Any]) -> bool:
    stage = "ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"
    return bool(event["stage"] == stage)


def _request(event: dict[str, Any]) -> Request:
    what = event.get("objectRef", {})
    return Request(
        verb=event["verb"],
        resource=what.get("resource", ""),
        subresource=what.get("subresource", ""),
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        user=event.get("user", {}).get("username", ""),
        user_agent=event.get("userAgent", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        uri=event.get("requestURI", ""),
        time=event.get("requestReceivedTimestamp", ""),
    )
