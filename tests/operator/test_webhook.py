"""The webhook's answers to whatever is sent to it, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from support.webhook.injection_corpus import apply_patch
from support.webhook.replicas import asking_pod, has_puller
from trainedmodel_devkit.ports import free_port
from trainedmodel_operator.core.injection.sidecar import InjectionSettings
from trainedmodel_operator.errors import ConfigurationError
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.webhook import pki, server
from trainedmodel_operator.webhook.server import MOST_BYTES, PATH, Webhook, serve_webhook

SETTINGS = InjectionSettings(image="puller:test")
Client = TestClient[Any, Any]


@pytest.fixture
def observed() -> list[str]:
    return []


@pytest.fixture
async def client(observed: list[str]) -> AsyncIterator[Client]:
    def observe(reason: str, seconds: float) -> None:
        assert seconds >= 0
        observed.append(reason)

    application = Webhook(SETTINGS, observe).application()
    async with TestClient(TestServer(application)) as client:
        yield client


def review(pod: Any, **changes: Any) -> dict[str, Any]:
    asked = {
        "uid": "b1f0",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": "demo",
        "object": pod,
        **changes,
    }
    return {"apiVersion": server.API_VERSION, "kind": "AdmissionReview", "request": asked}


async def answer(client: Client, pod: Any) -> Any:
    async with client.post(PATH, json=review(pod)) as answered:
        assert answered.status == 200
        document = await answered.json()
    assert document["kind"] == "AdmissionReview"
    assert document["response"]["uid"] == "b1f0"
    return document["response"]


async def test_a_pod_that_asks_is_answered_with_a_patch(
    client: Client, observed: list[str]
) -> None:
    response = await answer(client, asking_pod())
    assert response["allowed"]
    assert response["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(response["patch"]))
    assert has_puller(apply_patch(asking_pod(), patch))
    assert observed == ["injected"]


async def test_a_pod_that_does_not_ask_is_allowed_without_a_patch(client: Client) -> None:
    pod = asking_pod()
    pod["metadata"]["labels"] = {}
    assert await answer(client, pod) == {"uid": "b1f0", "allowed": True}


async def test_a_refusal_says_which_field_to_change(client: Client, observed: list[str]) -> None:
    response = await answer(client, asking_pod(**{"trainedmodel.dev/server": "bento"}))
    assert not response["allowed"]
    assert "patch" not in response
    assert response["status"]["code"] == 422
    message = response["status"]["message"]
    assert message.startswith("trainedmodel.dev: annotation trainedmodel.dev/server='bento'")
    assert observed == ["refused"]


async def test_a_warning_reaches_the_user(client: Client) -> None:
    response = await answer(client, asking_pod(**{"trainedmodel.dev/sever": "triton"}))
    assert response["allowed"]
    assert response["warnings"] == [
        "trainedmodel.dev: annotation trainedmodel.dev/sever is unknown to this operator "
        "and has no effect"
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an AdmissionReview"),
        (b'{"kind": "Pod"}', "not an AdmissionReview"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}', "only "),
        (json.dumps({**review({}), "request": None}).encode(), "no request with a uid"),
        (json.dumps(review({}, uid=7)).encode(), "no request with a uid"),
        (json.dumps(review({}, kind={"group": "apps", "kind": "Pod"})).encode(), "not for a Pod"),
        (json.dumps(review({}, kind="Pod")).encode(), "not for a Pod"),
        (json.dumps(review({}, operation="UPDATE")).encode(), "only the creation"),
        (json.dumps(review({}, subResource="status")).encode(), "only the creation"),
        (json.dumps(review(None)).encode(), "no object"),
    ],
)
async def test_what_is_no_review_is_told_so(
    client: Client, body: bytes, words: str, observed: list[str]
) -> None:
    headers = {"Content-Type": "application/json"}
    async with client.post(PATH, data=body, headers=headers) as answered:
        assert answered.status == 400
        assert words in await answered.text()
    assert observed == ["malformed"]


async def test_other_content_is_told_so(client: Client) -> None:
    async with client.post(PATH, data=b"x", headers={"Content-Type": "text/plain"}) as answered:
        assert answered.status == 400


async def test_a_body_without_end_is_cut_off(client: Client) -> None:
    body = io.BytesIO(b" " * (MOST_BYTES + 1))
    headers = {"Content-Type": "application/json"}
    async with client.post(PATH, data=body, headers=headers) as answered:
        assert answered.status == 400
        assert "longer than" in await answered.text()


async def test_a_large_pod_is_injected_as_well(client: Client) -> None:
    pod = asking_pod(note="x" * 200_000)
    assert (await answer(client, pod))["patch"]


async def test_a_body_that_does_not_come_delays_nobody_and_is_given_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_TIMEOUT_S", 0.3)
    assert client.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 100\r\n\r\n{".encode()
    )
    assert (await answer(client, asking_pod()))["allowed"]
    assert b"400" in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


async def test_a_fault_of_ours_refuses_that_pod_and_no_other(
    client: Client, observed: list[str]
) -> None:
    pod = asking_pod()
    pod["metadata"]["labels"] = 7
    response = await answer(client, pod)
    assert not response["allowed"]
    assert "internal error while injecting this pod" in response["status"]["message"]
    assert (await answer(client, asking_pod()))["allowed"]
    assert observed == ["failed", "injected"]


async def test_a_replica_that_is_ending_answers_and_lets_go_of_the_connection() -> None:
    ending = Webhook(SETTINGS)
    async with TestClient(TestServer(ending.application())) as client:
        async with client.post(PATH, json=review(asking_pod())) as answered:
            assert answered.headers.get("Connection") != "close"
        ending.is_ending = True
        async with client.post(PATH, json=review(asking_pod())) as answered:
            assert answered.status == 200
            assert answered.headers["Connection"] == "close"


class Never:
    """Certificates that are there, and never change."""

    def __init__(self) -> None:
        self.context = pki.new_context()
        self.has_begun = asyncio.Event()
        self.has_begun.set()

    async def run(self) -> None:
        await asyncio.Event().wait()


async def test_a_port_that_is_taken_is_named() -> None:
    port = free_port()
    taken = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", port)
    try:
        with pytest.raises(ExceptionGroup) as told:
            await serve_webhook(port, SETTINGS, Never(), host="127.0.0.1")
        assert told.group_contains(ConfigurationError, match=f"--webhook-port {port}")
    finally:
        taken.close()
        await taken.wait_closed()


async def test_without_a_certificate_nothing_is_served_and_the_replica_is_not_ready() -> None:
    certificates, has_begun, port = Never(), asyncio.Event(), free_port()
    certificates.has_begun.clear()
    serving = asyncio.create_task(
        serve_webhook(
            port,
            SETTINGS,
            certificates,
            host="127.0.0.1",
            has_begun=has_begun,
            linger_s=0,
        )
    )
    try:
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        assert not has_begun.is_set()
        certificates.has_begun.set()
        async with asyncio.timeout(10):
            await has_begun.wait()
    finally:
        serving.cancel()
        await asyncio.wait([serving])
    assert not has_begun.is_set()


async def test_answers_are_counted_by_what_was_decided() -> None:
    metrics = Metrics()
    application = Webhook(SETTINGS, metrics.observe_review).application()
    async with TestClient(TestServer(application)) as answering:
        await answering.post(PATH, data=b"no review")
    told = {"reason": "malformed"}
    name = "trainedmodel_operator_admission_seconds_count"
    assert metrics.registry.get_sample_value(name, told) == 1
