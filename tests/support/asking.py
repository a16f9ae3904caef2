"""Single requests to a real API server with a given token: kubectl would read first."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from trainedmodel_devkit.controlplane import ControlPlane

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class Answer(NamedTuple):
    """What the API server said: the object, or the message of its refusal."""

    status: int
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)


class Asker:
    """Somebody with a token."""

    def __init__(self, control_plane: ControlPlane, token: str) -> None:
        self._server = control_plane.server
        self._token = token
        self._context = ssl.create_default_context(cafile=str(control_plane.ca_file))

    def __call__(self, method: str, path: str, body: Any = None, kind: str = MERGE) -> Answer:
        request = urllib.request.Request(
            self._server + path,
            None if body is None else json.dumps(body).encode(),
            {
                "Authorization": f"Bearer {self._token}",
                "Content-Type": kind if method == "PATCH" else "application/json",
            },
            method=method,
        )
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=30) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, str(json.load(error).get("message", "")))


def account(control_plane: ControlPlane, namespace: str, name: str, *, pod: str = "") -> Asker:
    """Ask as a service account, by a token that is bound to a pod if one is named."""
    words = ["create", "token", name, "-n", namespace]
    if pod:
        words += ["--bound-object-kind=Pod", f"--bound-object-name={pod}"]
    return Asker(control_plane, control_plane.kubectl(*words).strip())
