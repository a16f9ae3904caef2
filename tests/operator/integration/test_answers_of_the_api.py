"""What a real API server answers, read by the operator's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from support.operator.on_cluster import Cluster
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import trained_model
from trainedmodel_operator.api.client import ApiKubeClient
from trainedmodel_operator.errors import NotFound, PatchNotApplied, Refused
from trainedmodel_operator.observability.metrics import Metrics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
async def client(
    control_plane: ControlPlane,
) -> AsyncIterator[ApiKubeClient]:
    shipped = control_plane.kubeconfig_for_service_account(
        "trainedmodel-system", "trainedmodel-operator"
    )
    configuration = kubernetes_client.Configuration()
    await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
        str(shipped), client_configuration=configuration
    )
    async with kubernetes_client.ApiClient(configuration) as api:
        yield ApiKubeClient(api, Metrics())


async def test_a_replaced_object_and_a_wrong_status_are_told_apart(
    cluster: Cluster, client: ApiKubeClient
) -> None:
    """Both are answered with 422; only the second one is ours to mend."""
    cluster.apply(trained_model("iris"))
    (found,) = await client.list_models(cluster.namespace, None)
    uid = found["metadata"]["uid"]
    await client.write_status(cluster.namespace, "iris", uid, {"conditions": []})
    with pytest.raises(NotFound, match="another object"):
        await client.write_status(cluster.namespace, "iris", "another-uid", {"conditions": []})
    with pytest.raises(Refused, match="is invalid") as refused:
        await client.write_status(cluster.namespace, "iris", uid, {"conditions": [{"type": "!"}]})
    assert not isinstance(refused.value, PatchNotApplied)
