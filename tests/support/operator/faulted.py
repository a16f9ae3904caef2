"""The operator behind a fault proxy, and a witness that watches the shards without it.

    scene = FaultedScene(cluster, proxy, kubeconfig, folder)
    with scene.operator(), scene.witness() as witness:
        ...
        scene.wait_for_truth(models)
    assert witness.lost == []

`Witness` reads the API server directly, each version of each shard as it was written. It notes
every entry that left all shards of its service without having been given leave, and every shard
that was not what its manifest says. That is what must never happen, whatever goes wrong.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from support.operator.on_cluster import Cluster
from trainedmodel_contract import names
from trainedmodel_contract.shard import entries_digest, parse_manifest
from trainedmodel_contract.trainedmodel import parse_trained_model
from trainedmodel_devkit.documents import loaded
from trainedmodel_devkit.faultproxy import FaultProxy
from trainedmodel_devkit.operatorprocess import OperatorProcess
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import wait_until

#: Longest time from SIGTERM to the end; it takes a tenth of that on an idle machine.
LAST_WORDS_S = 8

_SHARD = re.compile(r"(?P<parent>.+)-models-(?P<index>[0-3])")


class Witness:
    """Watches a namespace's shards, past the proxy; a context manager.

    Attributes:
        lost: What left though it was still desired, and shards that were not whole.
        versions: How many versions of shards were seen.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._shards: dict[str, dict[str, str]] = {}
        self._free: set[str] = set()
        self._is_over = False
        self._ready = threading.Event()
        self.lost: list[str] = []
        self.versions = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        # a last event, so that the watch wakes up
        with contextlib.suppress(Exception):
            self._cluster.kubectl("create", "configmap", "the-end")
        self._thread.join(20)
        assert not self._thread.is_alive()

    def may_leave(self, *models: str) -> None:
        """Give leave: from now on these models are not desired, or not by this service."""
        self._free |= {names.entry_key(model) for model in models}

    def _run(self) -> None:
        while not self._is_over:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._list_and_watch()

    def _list_and_watch(self) -> None:
        with self._ask("") as answer:
            found = json.load(answer)
        listed = {one["metadata"]["name"]: one.get("data") or {} for one in found["items"]}
        for name in set(self._shards) - set(listed):
            self._note(name, {})
        for name, data in listed.items():
            self._note(name, data)
        self._ready.set()
        version = found["metadata"]["resourceVersion"]
        with self._ask(f"?watch=true&resourceVersion={version}&timeoutSeconds=120") as stream:
            for line in stream:
                event = json.loads(line)
                if self._is_over or event["type"] == "ERROR":
                    return
                one = event["object"]
                gone = event["type"] == "DELETED"
                self._note(one["metadata"]["name"], {} if gone else one.get("data") or {})

    def _ask(self, query: str) -> Any:
        plane = self._cluster.control_plane
        path = f"/api/v1/namespaces/{self._cluster.namespace}/configmaps{query}"
        headers = {"Authorization": f"Bearer {plane.token}"}
        request = urllib.request.Request(plane.server + path, headers=headers)
        context = ssl.create_default_context(cafile=str(plane.ca_file))
        return urllib.request.urlopen(request, timeout=130, context=context)

    def _note(self, name: str, data: dict[str, str]) -> None:
        match = _SHARD.fullmatch(name)
        if match is None:
            return
        self.versions += 1
        before = self._entries(match["parent"])
        self._shards[name] = data
        for key in before - self._entries(match["parent"]) - self._free:
            self.lost.append(f"{key} left {name}")
        manifest = data.get(names.manifest_key(int(match["index"])))
        if manifest is not None and not _is_whole(manifest, data):
            self.lost.append(f"{name} is not whole")

    def _entries(self, service: str) -> set[str]:
        return {
            key
            for name, data in self._shards.items()
            if name in names.shard_names(service)
            for key in data
            if names.object_name(key) is not None
        }


def _is_whole(manifest: str, data: dict[str, str]) -> bool:
    entries = {key: value for key, value in data.items() if names.object_name(key) is not None}
    said = parse_manifest(manifest)
    return (said.entries, said.digest) == (len(entries), entries_digest(entries))


class FaultedScene:
    """A namespace, a proxy, and the operator behind it."""

    def __init__(self, cluster: Cluster, proxy: FaultProxy, kubeconfig: Path, folder: Path) -> None:
        self.cluster = cluster
        self.proxy = proxy
        self._kubeconfig = proxy.kubeconfig(kubeconfig, folder)
        self._folder = folder
        self._started = 0
        self._metrics_port = free_port()

    @contextlib.contextmanager
    def operator(
        self, *, resync_s: float = 60.0, everywhere: bool = False
    ) -> Iterator[OperatorProcess]:
        """Run the operator behind the proxy; it is up when it watches."""
        self._started += 1
        flags = [f"--metrics-port={self._metrics_port}", f"--resync-s={resync_s}"]
        if not everywhere:
            flags.append(f"--namespace={self.cluster.namespace}")
        log = self._folder / f"operator-{self._started}.log"
        with OperatorProcess(self._kubeconfig, log, *flags) as operator:
            self.wait_for_watches()
            yield operator
            assert operator.poll() in (None, -signal.SIGKILL), "the operator has ended"
            if operator.poll() is None:
                operator.kill(signal.SIGTERM)
                assert operator.wait(LAST_WORDS_S) == 0, "it ends when it is told to, and soon"

    def witness(self) -> Witness:
        return Witness(self.cluster)

    def wait_for_watches(self, timeout_s: float = 20) -> None:
        """Wait until both kinds are watched, through the proxy."""
        wait_until(lambda: self.proxy.watches("trainedmodels"), timeout_s)
        wait_until(lambda: self.proxy.watches("modelreports"), timeout_s)

    def wait_until_idle(self, timeout_s: float = 20) -> None:
        """Wait until the operator has asked nothing, but for its watches, for two seconds."""

        def asked() -> int:
            return self.proxy.count(where=lambda one: one.verb != "watch")

        deadline = time.monotonic() + timeout_s
        before, since = asked(), time.monotonic()
        while time.monotonic() - since < 2:
            assert time.monotonic() < deadline, "the operator does not come to rest"
            time.sleep(0.1)
            if asked() != before:
                before, since = asked(), time.monotonic()

    def metric(self, name: str, **labels: str) -> float:
        """Read a metric of the operator; the sum of those that match."""
        url = f"http://127.0.0.1:{self._metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if re.match(rf"{name}(_total)?[{{ ]", line) and all(one in line for one in wanted)
        )

    def entries(self, service: str = "tabular") -> dict[str, str]:
        """Return the revision of each model that a service's shards hold."""
        held: dict[str, str] = {}
        for index in range(names.SHARD_COUNT):
            for key, text in self.cluster.data(index, service).items():
                name = names.object_name(key)
                if name is not None:
                    assert name not in held, f"{name} is in two shards"
                    held[name] = json.loads(text)["revision"]
        return held

    def wait_for_shards(
        self, models: Iterable[Any], service: str = "tabular", timeout_s: float = 20
    ) -> None:
        """Wait until the shards are equal to these models."""
        wanted = revisions(models)
        wait_until(lambda: self.entries(service) == wanted, timeout_s)

    def wait_for_truth(
        self, models: Iterable[Any], service: str = "tabular", timeout_s: float = 20
    ) -> None:
        """Wait until shards are equal to models, and statuses say that these are loaded."""
        models = list(models)
        self.wait_for_shards(models, service, timeout_s)
        wanted = {name: ("Loaded", revision) for name, revision in revisions(models).items()}

        def told() -> bool:
            statuses = self.cluster.statuses()
            return {
                name: (one.get("state"), one.get("revision")) for name, one in statuses.items()
            } == wanted

        wait_until(told, timeout_s)

    def report_loaded(self, pods: Iterable[str], models: Iterable[Any]) -> None:
        """Report these models as loaded, from each pod."""
        content = loaded(models)
        for pod in pods:
            self.cluster.report(pod, content)


def revisions(models: Iterable[Any]) -> dict[str, str]:
    return {one["metadata"]["name"]: parse_trained_model(one).revision() for one in models}
