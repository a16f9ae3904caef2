"""Status writes after passes: what is sent is the latest, and one that fails delays no other."""

from __future__ import annotations

import asyncio

import pytest
from support.operator.builders import document, one
from support.operator.fake_kube import FakeKube, Operator, fails
from trainedmodel_operator.errors import Conflict, Refused

pytestmark = pytest.mark.looptime


def loaded(*model_names: str) -> dict[str, dict[str, str]]:
    revisions = {name: one(name).model for name in model_names}
    return {
        name: {"state": "Loaded", "revision": model.revision()}
        for name, model in revisions.items()
        if model is not None
    }


@pytest.mark.parametrize("error", [Refused("no", 422), Conflict("race", 409)])
async def test_a_status_that_is_refused_delays_no_other_o4(
    operator: Operator, kube: FakeKube, error: Exception
) -> None:
    errors = iter([error])
    kube.fault = lambda method: next(errors, None) if method == "write_status" else None
    async with operator.running():
        operator.apply(document("iris"))
        operator.apply(document("wine"))
        await asyncio.sleep(0.5)
        assert kube.count("status") == 1


async def test_a_status_that_could_not_be_written_is_written_later_as_it_is_then(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    kube.fault = fails("write_status")
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(2)
        operator.report("pod-a", models=loaded("iris"))
        await asyncio.sleep(2)
        kube.fault = fails()
        await asyncio.sleep(10)
        assert kube.count("status") == 1
        assert kube.models["iris"]["status"]["state"] == "Loaded"


async def test_a_status_never_reaches_a_later_object_of_the_same_name(
    operator: Operator, kube: FakeKube
) -> None:
    kube.fault = fails("write_status")
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(0.5)
        kube.put_model(document("iris", uid="another"))
        kube.fault = fails()
        await asyncio.sleep(10)
        assert kube.count("status") == 0


async def test_a_pending_status_that_has_become_what_lies_there_is_taken_back(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    operator.report("pod-a", models={})
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(1)
        assert kube.count("status") == 1
        model = one().model
        assert model is not None
        operator.report(
            "pod-a", models={"iris": {"state": "Verifying", "revision": model.revision()}}
        )
        await asyncio.sleep(1)
        operator.report("pod-a", models={})
        await asyncio.sleep(60)
        assert kube.count("status") == 1


async def test_a_status_edited_by_hand_is_put_right_by_a_resync(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        operator.apply(document("iris"))
        await asyncio.sleep(3)
        kube.models["iris"]["status"]["reason"] = "by hand"
        kube.touch(kube.models["iris"])
        await asyncio.sleep(200)
        assert kube.models["iris"]["status"]["reason"] == "NoPods"
