"""Namespaces that cannot be read are left out, whole and alone, and are served when they can be."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
import structlog
from support.operator.builders import document
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_operator.core.health import Vitals, judge_life
from trainedmodel_operator.errors import ApiError, NothingReadable, Refused, Unavailable
from trainedmodel_operator.observability.lag_observer import Observer
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.reconcile.initial_sync import InitialSync
from trainedmodel_operator.reconcile.inventory import Inventory
from trainedmodel_operator.reconcile.namespaces import Namespaces
from trainedmodel_operator.reconcile.resync import Resync

pytestmark = pytest.mark.looptime

FORBIDDEN = Refused("GET /x: 403 forbidden", 403)
DOWN = Unavailable("GET /x: no answer in 30 s")


class Tenants(FakeKube):
    """An API with namespaces, of which some cannot be read, or one kind in them."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[tuple[str, str], ApiError] = {}
        self.missing: set[str] = set()
        self.asked: dict[str, int] = defaultdict(int)
        for name in ("list_models", "list_model_versions", "list_shards", "list_shard_metadata"):
            self._narrow(name)
        for name in ("list_pods", "list_pod_metadata", "list_report_metadata", "list_reports"):
            self._narrow(name)

    def _narrow(self, method: str) -> None:
        whole = getattr(self, method)

        async def of_one(namespace: str, *args: Any, **named: Any) -> list[Any]:
            self.asked[namespace] += 1
            error = self.errors.get((namespace, method)) or self.errors.get((namespace, ""))
            if error is not None:
                await asyncio.sleep(self.delay_s)
                raise error
            found: list[Any] = await whole(None, *args, **named)
            return [one for one in found if _namespace(one) == namespace]

        setattr(self, method, of_one)

    async def namespace_exists(self, namespace: str) -> bool:
        await self._call("namespace_exists")
        return namespace not in self.missing


def _namespace(found: Any) -> str:
    if isinstance(found, dict):
        namespace: str = found["metadata"]["namespace"]
        return namespace
    return str(found.key.namespace)


class TenantsOperator(Operator):
    """The operator of the namespaces a and b."""

    def __init__(self, kube: Tenants, *, resync_s: float = 60.0) -> None:
        super().__init__(kube, resync_s=resync_s)
        self.observer = Observer(self.metrics)
        self.reconciler._observed = self.observer.pass_made
        self.namespaces = Namespaces(kube, self.metrics, ("a", "b"))
        self.namespaces.left_out = self.leave_out
        self.reconciler.is_readable = self.namespaces.is_readable
        self.inventory = Inventory(kube, self.reports, self.namespaces)
        self.resync = Resync(
            self.inventory,
            self.queue.enqueue,
            period_s=resync_s,
            is_settled=self.reconciler.is_settled,
            initial_sync=InitialSync(kube, self.inventory, self.reports, self.reconciler.judge),
            jitter=lambda: 0.5,
        )

    def leave_out(self, namespace: str) -> None:
        self.reconciler.forget_namespace(namespace)
        self.observer.forget_namespace(namespace)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"trainedmodel_operator_{name}", labels)


@pytest.fixture
def tenants() -> Tenants:
    kube = Tenants()
    for namespace in ("a", "b"):
        kube.put_model(document(f"of-{namespace}", namespace=namespace, service=f"p-{namespace}"))
    return kube


def placed(kube: FakeKube) -> set[str]:
    return {key for one in kube.config_maps.values() for key in one["data"] if key[0] != "_"}


KINDS = ["", "list_models", "list_shards", "list_pods", "list_reports"]


@pytest.mark.parametrize("kind", KINDS)
async def test_o1_a_namespace_of_which_one_kind_cannot_be_read_is_left_out_whole_and_alone(
    tenants: Tenants, kind: str
) -> None:
    tenants.errors["b", kind] = FORBIDDEN
    later = {
        "list_models": "list_model_versions",
        "list_shards": "list_shard_metadata",
        "list_pods": "list_pod_metadata",
        "list_reports": "list_report_metadata",
    }
    if kind:
        tenants.errors["b", later[kind]] = FORBIDDEN
    operator = TenantsOperator(tenants)
    async with operator.running(resync=True):
        await asyncio.sleep(200)
        assert operator.resync.has_begun.is_set()
        assert placed(tenants) == {"of-a.json"}
        assert operator.metric("namespace_readable", namespace="a") == 1
        assert operator.metric("namespace_readable", namespace="b") == 0
        del tenants.config_maps["p-a-models-0"]
        await asyncio.sleep(70)
        assert placed(tenants) == {"of-a.json"}, "what only a resync finds is found"
        tenants.errors.clear()
        await asyncio.sleep(70)
        assert placed(tenants) == {"of-a.json", "of-b.json"}
        assert operator.metric("namespace_readable", namespace="b") == 1


async def test_a_namespace_that_is_lost_while_served_costs_nothing_and_nobody_counts_it(
    tenants: Tenants,
) -> None:
    operator = TenantsOperator(tenants)
    async with operator.running(resync=True):
        await asyncio.sleep(100)
        assert placed(tenants) == {"of-a.json", "of-b.json"}
        assert operator.metric("models", namespace="b", state="Pending") == 1
        tenants.errors["b", ""] = FORBIDDEN
        operator.apply(document("late", namespace="b", service="p-b"))
        await asyncio.sleep(150)
        assert operator.metric("models", namespace="b", state="Pending") is None
        assert operator.metric("models", namespace="a", state="Pending") == 1
        tenants.asked.clear()
        failed = operator.metric("reconcile_seconds_count", result="error")
        await asyncio.sleep(600)
        assert tenants.asked["b"] <= 12, "no more than the resyncs ask"
        assert operator.metric("reconcile_seconds_count", result="error") == failed
        tenants.errors.clear()
        await asyncio.sleep(70)
        assert "late.json" in placed(tenants)
        assert operator.metric("models", namespace="b", state="Pending") == 2


async def test_it_is_told_once_and_again_when_it_is_back(tenants: Tenants) -> None:
    tenants.errors["b", ""] = FORBIDDEN
    with structlog.testing.capture_logs() as lines:
        operator = TenantsOperator(tenants)
        async with operator.running(resync=True):
            await asyncio.sleep(600)
            tenants.errors.clear()
            await asyncio.sleep(100)
    told = [line for line in lines if line.get("namespace") == "b"]
    assert [line["event"] for line in told] == [
        "namespace_left_out",
        "namespace_served_again",
    ]
    assert "grant the operator its Role" in told[0]["todo"]


async def test_trouble_in_one_namespace_leaves_it_out_of_one_look_and_the_next_comes_soon(
    tenants: Tenants,
) -> None:
    tenants.errors["b", ""] = DOWN
    operator = TenantsOperator(tenants)
    async with operator.running(resync=True):
        await asyncio.sleep(0.5)
        assert placed(tenants) == {"of-a.json"}
        assert operator.namespaces.is_readable("b"), "its passes find out by themselves"
        tenants.errors.clear()
        await asyncio.sleep(5)
        assert placed(tenants) == {"of-a.json", "of-b.json"}


async def test_a_namespace_that_does_not_exist_is_told_though_its_lists_are_empty(
    tenants: Tenants,
) -> None:
    del tenants.models["of-b"]
    tenants.missing.add("b")
    operator = TenantsOperator(tenants)
    async with operator.running(resync=True):
        await asyncio.sleep(1)
        assert operator.metric("namespace_readable", namespace="b") == 0
        tenants.missing.clear()
        await asyncio.sleep(70)
        assert operator.metric("namespace_readable", namespace="b") == 1
        calls = tenants.calls["namespace_exists"]
        await asyncio.sleep(600)
        assert tenants.calls["namespace_exists"] == calls, "it is asked for once while empty"


async def test_when_all_are_refused_nothing_begins_and_nobody_is_called_dead(
    tenants: Tenants,
) -> None:
    tenants.errors = {("a", ""): FORBIDDEN, ("b", ""): FORBIDDEN}
    operator = TenantsOperator(tenants)
    async with operator.running(resync=True):
        await asyncio.sleep(600)
        assert not operator.resync.has_begun.is_set()
        answered_at = operator.resync.answered_at
        assert answered_at is not None
        since = asyncio.get_running_loop().time() - answered_at
        vitals = Vitals(
            leading_for_s=600,
            turned_s=1,
            resync_s=since,
            reached_s=since,
            is_injecting=None,
            resync_period_s=60,
        )
        assert judge_life(vitals).is_good
        tenants.errors.clear()
        await asyncio.sleep(10)
        assert placed(tenants) == {"of-a.json", "of-b.json"}


async def test_when_nobody_answers_the_look_fails_as_one_of_all_namespaces_does() -> None:
    async def fails(namespace: str | None) -> list[str]:
        raise FORBIDDEN if namespace == "a" else DOWN

    namespaces = Namespaces(Tenants(), Metrics(), ("a", "b"))
    with pytest.raises(Unavailable):
        await namespaces.each(fails, lambda one: not one)
    everywhere = Namespaces(Tenants(), Metrics())
    with pytest.raises(Unavailable):
        await everywhere.each(fails, lambda one: not one)


async def test_a_look_at_no_namespace_says_which_and_why() -> None:
    async def fails(namespace: str | None) -> list[str]:
        raise FORBIDDEN

    with pytest.raises(NothingReadable, match=r"none of the namespaces .* 403"):
        await Namespaces(Tenants(), Metrics(), ("a", "b")).each(fails, lambda one: not one)
