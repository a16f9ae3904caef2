"""The node treats a pod as a kubelet would."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from trainedmodel_contract.names import PARENT_LABEL
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.errors import CommandFailed, StartFailed
from trainedmodel_devkit.models import predict, write_scale_triton
from trainedmodel_devkit.node import DevNode
from trainedmodel_devkit.nodeapi import Json, NodeApi
from trainedmodel_devkit.pods import DevPod
from trainedmodel_devkit.podspec import ContainerSpec, PodSpec, puller_pod
from trainedmodel_devkit.servers import Triton
from trainedmodel_devkit.servers.base import shared_memory
from trainedmodel_devkit.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

SLEEP = ["sh", "-c", "env; exec sleep 300"]


@pytest.fixture
async def node(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[DevNode]:
    async with DevNode(control_plane, tmp_path, grace_s=5) as running:
        yield running


@pytest.fixture
async def kubectl(control_plane: ControlPlane) -> Callable[..., asyncio.Future[str]]:
    def run(*args: str, **options: str) -> asyncio.Future[str]:
        return asyncio.ensure_future(asyncio.to_thread(control_plane.kubectl, *args, **options))

    return run


def spec(name: str, *command: str, **options: object) -> PodSpec:
    container = ContainerSpec("main", command or SLEEP)
    return PodSpec(name, [container], **options)  # type: ignore[arg-type]


def shard(name: str, **entries: str) -> str:
    data = {f"{key}.json": value for key, value in entries.items()}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    return json.dumps(body)


def regions(port: int) -> list[Path]:
    """List the shared memory of the server at a port."""
    return list(Path("/dev/shm").glob(f"{shared_memory(port)}*"))


def projected(pod: DevPod) -> dict[str, str]:
    return {path.name: path.read_text() for path in (pod.folders.config / "..data").iterdir()}


async def test_a_pod_is_in_the_api_and_its_process_runs(
    node: DevNode, kubectl: Callable[..., asyncio.Future[str]]
) -> None:
    pod = await node.start_pod(spec("plain", labels={"app": "x"}))
    seen = json.loads(await kubectl("get", "pod", "plain", "-o", "json"))

    assert seen["metadata"]["labels"] == {"app": "x"}
    assert seen["spec"]["nodeName"] == node.name
    assert seen["status"]["phase"] == "Running"
    assert seen["status"]["podIP"] == "127.0.0.1"
    assert {"Ready": "True"}.items() <= {
        c["type"]: c["status"] for c in seen["status"]["conditions"]
    }.items()
    assert pod.pid("main") is not None


async def test_a_container_gets_the_pods_environment_and_none_of_ours(
    node: DevNode, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-developer")
    pod = await node.start_pod(spec("environment"))
    said = ""
    while "POD_UID" not in said:
        said = await pod.log("main")
        await asyncio.sleep(0.02)

    assert f"POD_UID={pod.uid}" in said
    assert "POD_NAME=environment" in said
    assert f"KUBERNETES_SERVICE_PORT={control_plane.port}" in said
    assert "of-the-developer" not in said


async def test_placeholders_are_filled(node: DevNode) -> None:
    pod = await node.start_pod(
        spec("filled", "sh", "-c", "echo {pod_name} {model_dir}; exec sleep 300")
    )
    await until(pod.folders.models.is_dir)
    said = ""
    while not said:
        said = await pod.log("main")
        await asyncio.sleep(0.02)

    assert said.split() == ["filled", str(pod.folders.models)]


def counted_restart(
    kubectl: Callable[..., asyncio.Future[str]], name: str
) -> Callable[[], Awaitable[bool]]:
    """Look whether the API says that the pod's container was started again once."""
    path = "jsonpath={.status.containerStatuses[0].restartCount}"

    async def is_counted() -> bool:
        return await kubectl("get", "pod", name, "-o", path) == "1"

    return is_counted


async def test_a_killed_container_is_restarted_and_counted(
    node: DevNode, kubectl: Callable[..., asyncio.Future[str]]
) -> None:
    pod = await node.start_pod(spec("killed"))
    first = pod.pid("main")

    pod.kill("main")
    await until(lambda: pod.pid("main") not in (None, first))

    await until(counted_restart(kubectl, "killed"))


async def test_a_status_that_could_not_be_written_is_written_later(
    node: DevNode,
    kubectl: Callable[..., asyncio.Future[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod = await node.start_pod(spec("unwritten"))
    await until(lambda: not pod.status_changed.is_set())
    write, failures = NodeApi.patch_pod_status, iter(range(2))

    async def fails_twice(api: NodeApi, namespace: str, name: str, status: Json) -> None:
        if next(failures, None) is not None:
            raise OSError("the API server has closed the connection")
        await write(api, namespace, name, status)

    monkeypatch.setattr(NodeApi, "patch_pod_status", fails_twice)
    pod.kill("main")
    await until(counted_restart(kubectl, "unwritten"))
    assert next(failures, None) is None


async def test_a_container_can_be_restarted_gently(node: DevNode) -> None:
    pod = await node.start_pod(spec("gentle"))
    first = pod.pid("main")
    await pod.restart("main")

    assert pod.pid("main") not in (None, first)
    assert pod.restarts("main") == 1


async def test_a_container_that_keeps_dying_is_started_ever_more_seldom(node: DevNode) -> None:
    began = asyncio.get_running_loop().time()
    pod = await node.start_pod(spec("crashing", "false"))
    await until(lambda: pod.restarts("main") >= 3, 15)

    waited_s = asyncio.get_running_loop().time() - began
    assert waited_s >= 0.2 + 0.4 + 0.8, "each start waits twice as long as the one before"


async def test_a_container_that_is_never_ready_fails_the_start(
    node: DevNode, kubectl: Callable[..., asyncio.Future[str]]
) -> None:
    container = ContainerSpec(
        "main", ["sh", "-c", "echo no; exec sleep 300"], ready_url="http://127.0.0.1:1/"
    )
    with pytest.raises(StartFailed, match="no"):
        await node.start_pod(PodSpec("silent", [container]), ready_timeout_s=0.5)
    with pytest.raises(CommandFailed, match="not found"):
        await kubectl("get", "pod", "silent")


async def test_an_annotation_refreshes_the_files_at_once_and_nothing_else_does(
    node: DevNode, kubectl: Callable[..., asyncio.Future[str]]
) -> None:
    await kubectl("apply", "-f", "-", input=shard("fresh-models-0", a="1", b="1"))
    pod = await node.start_pod(spec("fresh", labels={PARENT_LABEL: "fresh"}))
    assert projected(pod) == {"a.json": "1", "b.json": "1"}

    await kubectl("apply", "-f", "-", input=shard("fresh-models-0", a="2"))
    await kubectl("apply", "-f", "-", input=shard("fresh-models-3", c="2"))
    await kubectl("label", "pod", "fresh", "touched=yes")
    await asyncio.sleep(1)
    assert projected(pod) == {"a.json": "1", "b.json": "1"}

    await kubectl("annotate", "pod", "fresh", "trainedmodel.dev/config-digest=2")
    await until(lambda: projected(pod) == {"a.json": "2", "c.json": "2"}, 1)
    assert not (pod.folders.config / "b.json").is_symlink()


async def test_without_an_annotation_the_files_follow_after_the_sync_period(
    control_plane: ControlPlane, tmp_path: Path, kubectl: Callable[..., asyncio.Future[str]]
) -> None:
    async with DevNode(control_plane, tmp_path, name="quick", refresh_s=(0.5, 0.6)) as node:
        pod = await node.start_pod(spec("late", labels={PARENT_LABEL: "late"}))
        assert projected(pod) == {}
        await kubectl("apply", "-f", "-", input=shard("late-models-1", a="1"))
        await until(lambda: projected(pod) == {"a.json": "1"}, 3)


async def test_the_token_is_bound_to_the_pod(node: DevNode, control_plane: ControlPlane) -> None:
    pod = await node.start_pod(spec("bound"))
    token = (pod.folders.service_account / "token").read_text()
    review = await asyncio.to_thread(
        control_plane.kubectl, "--kubeconfig", "/dev/null", "--server", control_plane.server,
        "--certificate-authority", str(pod.folders.service_account / "ca.crt"), "--token", token,
        "auth", "whoami", "-o", "json",
    )  # fmt: skip
    user = json.loads(review)["status"]["userInfo"]

    assert user["username"] == "system:serviceaccount:default:default"
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["bound"]
    assert user["extra"]["authentication.kubernetes.io/pod-uid"] == [pod.uid]
    assert (pod.folders.service_account / "namespace").read_text() == "default"


async def test_a_pod_that_is_deleted_by_others_ends(
    node: DevNode, kubectl: Callable[..., asyncio.Future[str]]
) -> None:
    pod = await node.start_pod(spec("deleted"))
    await kubectl("delete", "pod", "deleted", "--timeout=10s")

    assert pod.pid("main") is None
    assert not pod.folders.pod.exists()


async def test_a_namespace_is_ready_for_pods_as_soon_as_it_exists(
    node: DevNode, kubectl: Callable[..., asyncio.Future[str]]
) -> None:
    await kubectl("create", "namespace", "brand-new")
    await node.start_pod(spec("early", namespace="brand-new"))
    await node.stop_pod("early", "brand-new")
    with pytest.raises(CommandFailed, match="not found"):
        await kubectl("get", "pod", "early", "-n", "brand-new")


async def test_the_watch_survives_a_compaction(
    node: DevNode, control_plane: ControlPlane, kubectl: Callable[..., asyncio.Future[str]]
) -> None:
    pod = await node.start_pod(spec("compacted", labels={PARENT_LABEL: "compacted"}))
    await asyncio.to_thread(control_plane.compact)
    await kubectl("apply", "-f", "-", input=shard("compacted-models-0", a="1"))
    await kubectl("annotate", "pod", "compacted", "x=y")
    await until(lambda: projected(pod) == {"a.json": "1"}, 3)


async def test_a_service_pod_runs_puller_and_server(node: DevNode) -> None:
    launcher = Triton()
    await asyncio.to_thread(launcher.ensure)
    stand_in = ("sh", "-c", 'echo "$@"; exec sleep 300', "puller")
    spec = puller_pod(
        "serving",
        "tabular",
        server=launcher,
        puller_command=stand_in,
        extra_env={"AWS_REGION": "r"},
    )

    pod = await node.start_pod(spec)

    write_scale_triton(pod.folders.models / "scale", 4)
    async with aiohttp.ClientSession() as session:
        url = f"{spec.server_url}/v2/repository/models/scale/load"
        async with session.post(url, json={}) as answer:
            assert answer.status == 200
    assert await predict(spec.server_url, "scale", [2]) == [8]
    assert regions(spec.server_port) != []
    pod.kill(launcher.kind)
    await until(lambda: pod.restarts(launcher.kind) == 1, 20)
    assert regions(spec.server_port) == []
    said = await pod.log("puller")
    assert f"--config-dir {pod.folders.config}" in said
    assert f"--server triton --server-url {spec.server_url} --port {spec.puller_port}" in said
