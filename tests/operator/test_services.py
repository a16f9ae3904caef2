"""Where a model answers: read where it can be, and never at the cost of a pass."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from support.operator.builders import KEY, NOW, one
from trainedmodel_contract.modelreport import ModelReport
from trainedmodel_operator.api.inference_services import (
    ABSENT_S,
    BROKEN_S,
    PATIENCE_S,
    InferenceServices,
)
from trainedmodel_operator.core.plan import plan
from trainedmodel_operator.core.state import Gathered, PodView, ServiceKey, ServiceView
from trainedmodel_operator.core.status.urls import model_url, server_path, service_url
from trainedmodel_operator.errors import ApiError, NotFound, Refused, Unavailable

URL = "http://tabular.demo.example.com"


class Kserve:
    """The API's side."""

    def __init__(self) -> None:
        self.services: dict[str, Any] = {KEY.service: {"url": f"{URL}/"}}
        self.fault: ApiError | None = None
        self.delay_s = 0.0
        self.asked: list[str] = []

    async def list_inference_services(self, namespace: str, name: str) -> list[Mapping[str, Any]]:
        self.asked.append(namespace)
        await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            raise self.fault
        return [{"status": self.services[name]}] if name in self.services else []


@pytest.mark.looptime
async def test_a_service_tells_its_url_and_another_that_it_is_none() -> None:
    services = InferenceServices(Kserve())
    assert await services.read(KEY) == ServiceView(exists=True, url=URL)
    assert await services.read(ServiceKey("demo", "other")) == ServiceView()


@pytest.mark.looptime
async def test_a_kind_that_is_not_installed_is_not_asked_for_again_for_a_while() -> None:
    kserve = Kserve()
    kserve.fault = NotFound("no such kind", 404)
    services = InferenceServices(kserve)
    for number in range(100):
        assert await services.read(ServiceKey(f"n{number}", "x")) == ServiceView()
    assert len(kserve.asked) == 1
    kserve.fault = None
    await asyncio.sleep(ABSENT_S)
    assert (await services.read(KEY)).url == URL


@pytest.mark.looptime
async def test_what_is_forbidden_in_one_namespace_is_left_alone_there_only() -> None:
    kserve = Kserve()
    kserve.fault = Refused("no", 403)
    services = InferenceServices(kserve)
    for _ in range(10):
        assert await services.read(KEY) == ServiceView(is_known=False)
    kserve.fault = None
    assert (await services.read(ServiceKey("other", KEY.service))).url == URL
    assert kserve.asked == ["demo", "other"]


@pytest.mark.looptime
@pytest.mark.parametrize("is_slow", [True, False])
async def test_a_broken_or_slow_kind_costs_one_short_wait_and_hides_nothing(
    is_slow: bool,
) -> None:
    kserve = Kserve()
    if is_slow:
        kserve.delay_s = 3600.0
    else:
        kserve.fault = Unavailable("conversion webhook failed", 500)
    services = InferenceServices(kserve)
    clock = asyncio.get_running_loop().time
    began = clock()
    for _ in range(10):
        assert not (await services.read(KEY)).is_known
    assert clock() - began <= PATIENCE_S + 0.1
    kserve.fault, kserve.delay_s = None, 0.0
    await asyncio.sleep(BROKEN_S + PATIENCE_S)
    assert (await services.read(KEY)).url == URL


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"url": f"{URL}/"}, URL),
        ({"url": URL, "address": {"url": "http://inside"}}, URL),
        ({"address": {"url": "http://inside"}}, "http://inside"),
        ({"url": "javascript:alert(1)", "address": {"url": "http://inside"}}, "http://inside"),
        ({"url": 7, "address": "no"}, None),
        ({"url": "http://" + "x" * 3000}, None),
        ({"url": "http://two words"}, None),
        (None, None),
        ([], None),
    ],
)
def test_nothing_about_somebody_elses_status_is_believed(
    status: object, expected: str | None
) -> None:
    assert service_url(status) == expected


def report(kind: str | None, pod: str = "pod-a") -> ModelReport:
    return ModelReport.model_validate(
        {
            "metadata": {"name": pod},
            "inferenceService": KEY.service,
            "server": {"kind": kind, "reachable": True} if kind else None,
        }
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mlserver", f"{URL}/v2/models/iris"),
        ("triton", f"{URL}/v2/models/iris"),
        ("tfs", f"{URL}/v1/models/iris"),
        ("torchserve", f"{URL}/predictions/iris"),
        ("vllm", f"{URL}/v1"),
        ("none", None),
        (None, None),
    ],
)
def test_the_path_is_that_of_the_server_that_the_pods_name(
    kind: str | None, expected: str | None
) -> None:
    assert model_url(URL, server_path([report(kind)]), "iris") == expected


def gathered(service: ServiceView, **more: Any) -> Gathered:
    reports = {"uid-a": report("mlserver")}
    pod = PodView("pod-a", "uid-a")
    return Gathered(KEY, models=(one(**more),), pods=(pod,), reports=reports, service=service)


def told_url(this: Gathered) -> object:
    [write] = plan(this, NOW).statuses
    return write.status.get("url")


def test_a_status_tells_the_url_of_the_served_name() -> None:
    service = ServiceView(exists=True, url=URL)
    assert told_url(gathered(service, name="flower")) == f"{URL}/v2/models/flower"
    assert told_url(gathered(ServiceView())) is None


def test_a_url_that_was_told_stays_while_its_service_cannot_be_read() -> None:
    this = gathered(ServiceView(is_known=False), status={"url": f"{URL}/v2/models/iris"})
    assert told_url(this) == f"{URL}/v2/models/iris"
    assert told_url(replace(this, service=ServiceView())) is None


def test_a_service_without_a_url_is_looked_at_again() -> None:
    waits = plan(gathered(ServiceView(exists=True)), NOW).deferred
    assert any("no url yet" in wait.reason for wait in waits)
