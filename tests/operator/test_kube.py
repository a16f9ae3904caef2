"""The client over the official one: pages, errors, and what is sent, without a server."""

from __future__ import annotations

import json
from typing import Any, cast

import aiohttp
import pytest
from kubernetes.aio import client as kubernetes_client
from trainedmodel_operator.api.client import ApiKubeClient
from trainedmodel_operator.api.connection import load_configuration
from trainedmodel_operator.core.shards.documents import ShardWrite, WriteKind
from trainedmodel_operator.errors import (
    ApiError,
    ConfigurationError,
    Conflict,
    NotFound,
    Refused,
    Unavailable,
)
from trainedmodel_operator.observability.metrics import Metrics


class Answer:
    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.status, self.headers = status, headers or {}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def read(self) -> bytes:
        return self.body


class Wire:
    """Stands where the official client's transport is."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers, self.sent = list(answers), list[tuple[str, str, dict[str, str], Any]]()

    async def param_serialize(
        self, method: str, path: str, *, query_params: Any, header_params: Any, body: Any, **_: Any
    ) -> Any:
        query = "&".join(f"{key}={value}" for key, value in query_params)
        return method, f"{path}?{query}", header_params, body, None

    async def call_api(self, method: str, url: str, headers: Any, body: Any, **_: Any) -> Answer:
        self.sent.append((method, url, headers, body))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def over(wire: Wire) -> ApiKubeClient:
    return ApiKubeClient(cast("kubernetes_client.ApiClient", wire), Metrics())


def page(*items: Any, more: str = "") -> Answer:
    return Answer(200, {"items": list(items), "metadata": {"continue": more}})


def named(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "spec": {}}


async def test_who_wrote_which_field_is_dropped_from_a_list_at_once() -> None:
    wire = Wire(page(named("a", managedFields=[{"manager": "kubectl"}] * 3)))
    assert await over(wire).list_models("demo", "tabular") == [named("a")]


async def test_a_list_is_read_page_by_page() -> None:
    wire = Wire(page(named("a"), more="token"), page(named("b")))
    assert await over(wire).list_models("demo", "tabular") == [named("a"), named("b")]
    assert "fieldSelector=spec.inferenceService=tabular" in wire.sent[0][1]
    assert "continue=token" in wire.sent[1][1]


async def test_o1_a_page_that_fails_fails_the_list() -> None:
    wire = Wire(page(named("a"), more="token"), Answer(500, {"message": "broken"}))
    with pytest.raises(Unavailable, match="broken"):
        await over(wire).list_models(None, None)


async def test_a_list_that_expired_between_two_pages_is_begun_anew_in_one_piece() -> None:
    expired = Answer(410, {"message": "expired"})
    wire = Wire(page(named("old"), more="token"), expired, page(named("a"), named("b")))
    assert await over(wire).list_models("demo", "tabular") == [named("a"), named("b")]
    assert "limit=500" in wire.sent[0][1]
    assert "limit" not in wire.sent[2][1]
    assert "continue" not in wire.sent[2][1]
    assert "fieldSelector=spec.inferenceService=tabular" in wire.sent[2][1]


async def test_an_empty_list_of_metadata_has_null_items() -> None:
    wire = Wire(Answer(200, {"items": None, "metadata": {}}))
    assert await over(wire).list_shard_metadata(None) == []


@pytest.mark.parametrize("body", [{"kind": "Status"}, b"<html>"])
async def test_o1_an_answer_that_is_no_list_is_not_an_empty_one(body: Any) -> None:
    with pytest.raises(Unavailable):
        await over(Wire(Answer(200, body))).list_shards("demo", "tabular")


ERRORS: list[tuple[int, type[ApiError]]] = [
    (400, Refused),
    (403, Refused),
    (404, NotFound),
    (409, Conflict),
    (410, Conflict),
    (422, Refused),
    (500, Unavailable),
    (503, Unavailable),
]


@pytest.mark.parametrize(("status", "kind"), ERRORS)
async def test_each_answer_is_one_of_our_errors(status: int, kind: type[ApiError]) -> None:
    wire = Wire(Answer(status, {"message": "why"}))
    with pytest.raises(kind, match="why"):
        await over(wire).write_shard("demo", ShardWrite(WriteKind.PATCH, 0, "s", {}, "why"))
    assert len(wire.sent) == 1, "what may have been carried out is not sent again from here"


@pytest.mark.parametrize("error", [TimeoutError(), aiohttp.ClientError("reset"), OSError("no")])
async def test_no_answer_is_unavailable(error: Exception) -> None:
    with pytest.raises(Unavailable):
        await over(Wire(error)).list_report_metadata("demo", "tabular")


async def test_an_answer_without_words_is_told_as_it_is() -> None:
    with pytest.raises(Unavailable, match="bad gateway"):
        await over(Wire(Answer(502, b"bad gateway"))).annotate_pod("demo", "a", "1")


async def test_what_is_not_there_is_none() -> None:
    wire = Wire(page(), Answer(404, {}), Answer(200, {"a": 1}))
    assert await over(wire).get_report("demo", "a") is None
    assert "fieldSelector=metadata.name=a" in wire.sent[0][1]
    assert await over(wire).get_config_map("demo", "a") is None
    assert await over(wire).get_config_map("demo", "a") == {"a": 1}


async def test_pods_are_found_under_either_label_once() -> None:
    pod = {"metadata": {"uid": "1"}}
    wire = Wire(page(pod), page(pod, {"metadata": {"uid": "2"}}))
    assert len(await over(wire).list_pods("demo", "tabular")) == 2


async def test_shards_are_created_patched_and_deleted_and_gone_is_deleted() -> None:
    wire = Wire(*(Answer(200, {}) for _ in range(3)), Answer(404, {}))
    client = over(wire)
    for kind in (*WriteKind, WriteKind.DELETE):
        await client.write_shard("demo", ShardWrite(kind, 0, "s", {"a": 1}, "why"))
    assert [sent[0] for sent in wire.sent] == ["POST", "PATCH", "DELETE", "DELETE"]
    assert wire.sent[1][2]["Content-Type"] == "application/merge-patch+json"
    assert "fieldManager=trainedmodel-operator" in wire.sent[1][1]


async def test_a_status_write_names_the_object_it_is_for() -> None:
    wire = Wire(Answer(200, {}))
    await over(wire).write_status("demo", "iris", "uid-1", {"state": "Loaded"})
    assert wire.sent[0][3][0] == {"op": "test", "path": "/metadata/uid", "value": "uid-1"}
    generic = {
        "message": "the server rejected our request due to an error in our request",
        "details": {},
    }
    with pytest.raises(NotFound, match="another object"):
        await over(Wire(Answer(422, generic))).write_status("demo", "iris", "uid-1", {})
    schema = {
        "message": 'TrainedModel "iris" is invalid: status.state',
        "details": {"name": "iris", "causes": [{"field": "status.state"}]},
    }
    for refusal in (schema, {"message": "denied by a policy: the object is invalid"}):
        with pytest.raises(Refused):
            await over(Wire(Answer(422, refusal))).write_status("demo", "iris", "1", {})


async def test_without_a_way_to_the_api_the_operator_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "")
    with pytest.raises(ConfigurationError, match="cannot reach the Kubernetes API"):
        await load_configuration()
