"""The webhook: the API server sends a pod that asks for a puller, and gets the patch back.

Every replica serves it, leader or not. Injection reads nothing and writes nothing, so replicas need
no agreement, and pods can be created while the leader is being replaced.

Guarantees: each request gets an answer within a second of its body. A request that is not a review
gets a 400. A pod that cannot be injected is refused with a message for its owner. An internal error
refuses that pod only, and the log has its traceback. Only pods that ask are sent here (object
selector of the configuration), so if no replica runs, only those wait. A body has a maximum size,
and a slow sender is cut off: it holds a connection and nothing more.

Certificates change while it serves, without dropping a connection (`certificates`).

Shutdown: clients learn late that a replica is leaving. So a replica that was told to end is no
longer ready, and answers for three more seconds, closing each connection after its answer. Then it
stops listening.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from aiohttp import web
from trainedmodel_contract import names

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.injection.inject import Injection, inject
from trainedmodel_operator.core.injection.sidecar import InjectionSettings
from trainedmodel_operator.errors import ConfigurationError
from trainedmodel_operator.observability.listening import listen_everywhere
from trainedmodel_operator.webhook.certificates import Certificates

#: Called for each answer with the decision in a word and its seconds.
Observe = Callable[[str, float], None]

PATH: Final = "/inject"
API_VERSION: Final = "admission.k8s.io/v1"
#: A pod is at most 1.5 MB in etcd, and a review holds it once, with its managed fields as text.
MOST_BYTES: Final = 4 * 1024 * 1024
#: The API server itself gives up after the five seconds of our configuration.
BODY_TIMEOUT_S: Final = 5.0
#: How long a replica that is stopping still answers clients that do not know it yet.
LINGER_S: Final = 3.0
#: How long requests that were accepted may take after that.
_LAST_ANSWERS_S: Final = 2.0
#: Longer bodies are read in a thread.
_LONG_BYTES: Final = 64 * 1024
#: The API server cuts warnings; shorter ones are shown whole.
_WARNING_CHARACTERS: Final = 256
_UNPROCESSABLE: Final = 422

log = structlog.get_logger()


class Malformed(Exception):
    """A request is not an admission review of a pod; the message says why."""


class Webhook:
    """Answers reviews of pods."""

    def __init__(self, settings: InjectionSettings, observe: Observe = lambda *_: None) -> None:
        self._settings = settings
        self._observe = observe
        self.is_ending = False

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(client_max_size=MOST_BYTES)
        application.router.add_post(PATH, self.review)
        return application

    async def review(self, request: web.Request) -> web.Response:
        """Answer one review."""
        began = time.monotonic()
        try:
            asked = await _read_request(request)
        except Malformed as error:
            self._observe("malformed", time.monotonic() - began)
            log.warning("webhook_request_refused", error=str(error), remote=request.remote)
            return web.Response(status=400, text=f"{error}\n")
        injection = self._decide(asked)
        self._observe(injection.reason, time.monotonic() - began)
        response = _response(str(asked["uid"]), injection)
        answer = web.json_response(
            {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
        )
        if self.is_ending:
            answer.force_close()
        return answer

    def _decide(self, asked: Document) -> Injection:
        pod = asked["object"]
        name = _name_of(pod)
        say = log.bind(namespace=asked.get("namespace"), pod=name, dry_run=asked.get("dryRun"))
        try:
            injection = inject(pod, self._settings)
        except Exception:
            # An internal error: this pod waits, and no other pod is affected.
            say.exception("injection_failed")
            return Injection(
                refusal="internal error while injecting this pod; see the log of the operator",
                reason="failed",
            )
        say.info("pod_reviewed", decision=injection.reason, refusal=injection.refusal)
        return injection


async def serve_webhook(
    port: int,
    settings: InjectionSettings,
    certificates: Certificates,
    *,
    observe: Observe = lambda *_: None,
    host: str | None = None,
    has_begun: asyncio.Event | None = None,
    linger_s: float = LINGER_S,
) -> None:
    """Serve on every address (or one `host`) until cancelled, as soon as there is a certificate.

    `has_begun` is set while the port is served: a replica is not ready before.

    Raises:
        ConfigurationError: the port cannot be bound.
        ExceptionGroup: the certificates' loop failed.
    """
    begun = has_begun or asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(certificates.run(), name="webhook certificates")
        group.create_task(
            _serve(
                Webhook(settings, observe),
                certificates,
                begun,
                address=(host, port),
                linger_s=linger_s,
            ),
            name="webhook",
        )


async def _serve(
    webhook: Webhook,
    certificates: Certificates,
    begun: asyncio.Event,
    *,
    address: tuple[str | None, int],
    linger_s: float,
) -> None:
    host, port = address
    await certificates.has_begun.wait()
    runner = web.AppRunner(webhook.application(), access_log=None, shutdown_timeout=_LAST_ANSWERS_S)
    await runner.setup()
    try:
        await _listen(runner, host, port, certificates)
        log.info("webhook_started", port=port)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            begun.clear()
            webhook.is_ending = True
            await asyncio.sleep(linger_s)
    finally:
        await runner.cleanup()
        log.info("webhook_stopped")


async def _listen(
    runner: web.AppRunner, host: str | None, port: int, certificates: Certificates
) -> None:
    context = certificates.context
    if host is None:
        everywhere = listen_everywhere(port, "--webhook-port")
        await web.SockSite(runner, everywhere, ssl_context=context).start()
        return
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except OSError as error:
        raise ConfigurationError(f"cannot bind --webhook-port {port}: {error.strerror}") from error


async def _read_request(request: web.Request) -> Document:
    """Return the request of a review.

    Raises:
        Malformed: it is none, or it did not come.
    """
    if request.content_type != "application/json":
        raise Malformed(f"content type {request.content_type!a:.80} is not application/json")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError as error:
        raise Malformed(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise Malformed(f"the body is longer than {MOST_BYTES} bytes") from error
    if len(body) > _LONG_BYTES:
        return await asyncio.to_thread(_parse, body)
    return _parse(body)


def _parse(body: bytes) -> Document:
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("the body is not JSON") from error
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise Malformed("the body is not an AdmissionReview")
    if review.get("apiVersion") != API_VERSION:
        raise Malformed(f"only {API_VERSION} is supported")
    asked = review.get("request")
    if not isinstance(asked, dict) or not isinstance(asked.get("uid"), str):
        raise Malformed("the review has no request with a uid")
    kind = asked.get("kind")
    if not isinstance(kind, dict) or (kind.get("group"), kind.get("kind")) != ("", "Pod"):
        raise Malformed("the review is not for a Pod")
    if asked.get("operation") != "CREATE" or asked.get("subResource"):
        raise Malformed("only the creation of pods is reviewed")
    if not isinstance(asked.get("object"), dict):
        raise Malformed("the review has no object")
    return asked


def _response(uid: str, injection: Injection) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": uid, "allowed": injection.refusal is None}
    if injection.refusal is not None:
        response["status"] = {
            "code": _UNPROCESSABLE,
            "reason": "Invalid",
            "message": f"{names.GROUP}: {injection.refusal}",
        }
    elif injection.patch:
        text = json.dumps(injection.patch, separators=(",", ":"))
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(text.encode()).decode()
    if injection.warnings:
        response["warnings"] = [
            f"{names.GROUP}: {warning}"[:_WARNING_CHARACTERS] for warning in injection.warnings
        ]
    return response


def _name_of(pod: Document) -> str:
    """Return a pod's name; at its creation by a controller there is only the beginning of one."""
    metadata = pod.get("metadata")
    if not isinstance(metadata, Mapping):
        return ""
    return str(metadata.get("name") or metadata.get("generateName") or "")
