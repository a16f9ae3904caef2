"""A real control plane in a temporary folder: etcd, kube-apiserver, a few controllers.

It is up in some four seconds, needs no root and no container engine, and several can run side by
side. Of the controllers only those run that our objects depend on: garbage collection (reports die
with their pods), namespaces, service accounts and their CA, aggregated roles. Pod garbage
collection and node lifecycle stay out: they would delete or evict the pods of a node whose kubelet
is ours.

For a real node it is a whole one, on an address that the node's pods reach: all controllers, a
scheduler, and a user for each part of the node, with the rights that Kubernetes gives to that part.
"""

import json
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from trainedmodel_devkit import audit, guard
from trainedmodel_devkit.binaries import Binaries, control_plane_binaries, node_binaries
from trainedmodel_devkit.environments import checkout
from trainedmodel_devkit.errors import CommandFailed, StartFailed
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.processes import ManagedProcess

_CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
    "resourcequota-controller",
)
_START_TIMEOUT_S = 60

WEBHOOK_CONFIGURATION = "MutatingWebhookConfiguration"
NODE_NAME = "node"
"""The one node that can join: its kubelet's user is made with the control plane."""


class ControlPlane:
    """etcd, kube-apiserver and kube-controller-manager; a context manager.

    With `audit_log` the API server keeps a log of every request, which `requests` reads. With
    `node_facing`, an address of this machine, real nodes can join it. `api_server_flags` come last,
    for what a test needs of an API server that the others do not.
    """

    def __init__(
        self,
        *,
        audit_log: bool = False,
        node_facing: str | None = None,
        api_server_flags: Sequence[str] = (),
    ) -> None:
        self._audited = audit_log
        self._more_flags = tuple(api_server_flags)
        self._is_whole = node_facing is not None
        self._port = free_port()
        self._processes: list[ManagedProcess] = []
        self.host = node_facing or "127.0.0.1"
        self.port = self._port
        self.server = f"https://{self.host}:{self._port}"
        self.etcd_endpoint = f"http://127.0.0.1:{free_port()}"
        self.token = secrets.token_hex(16)
        self._other_users: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Self:
        self._binaries = control_plane_binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="trainedmodel-control-plane-"))
        guard.watch_folder(self.folder)
        try:
            self._start(self._binaries)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def ca_file(self) -> Path:
        """The certificates that the API server's own is checked against."""
        return self.folder / "certs" / "apiserver.crt"

    def install_crds(self, *, root: Path | None = None) -> None:
        """Install the CRDs, and wait until they are served. The checkout is `root`, or ours."""
        self.kubectl("apply", "-f", str((root or checkout()) / "crds"))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")

    def install(
        self,
        folder: str = "base",
        *,
        without: Collection[str] = (WEBHOOK_CONFIGURATION,),
        root: Path | None = None,
    ) -> list[Any]:
        """Install the CRDs and a folder of `deploy/`, but for some kinds; return the objects.

        The webhook's configuration is left out by default: where nobody serves the webhook, the
        API server refuses each pod that asks for a puller.
        """
        root = root or checkout()
        self.install_crds(root=root)
        rendered = yaml.safe_load_all(self.kubectl("kustomize", str(root / "deploy" / folder)))
        documents = [document for document in rendered if document["kind"] not in without]
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))
        return documents

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """Write a kubeconfig that acts as an existing service account, for 24 hours."""
        token = self.kubectl("create", "token", name, "-n", namespace, "--duration=24h").strip()
        return self._write_kubeconfig(f"{namespace}.{name}", token)

    def kubeconfig_for_node(self, part: str) -> Path:
        """Return the kubeconfig of a part of the node: `kubelet` or `kube-proxy`."""
        user = f"system:node:{NODE_NAME}" if part == "kubelet" else f"system:{part}"
        return self._write_kubeconfig(part, self._other_users[user][0])

    def kubectl(self, *args: str, input: str | None = None) -> str:  # noqa: A002 - as in subprocess
        """Run kubectl as administrator and return its output.

        Raises:
            CommandFailed: with what kubectl wrote to standard error.
        """
        result = subprocess.run(
            [self._binaries.kubectl, "--kubeconfig", self.kubeconfig, *args],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin"},
        )
        if result.returncode != 0:
            raise CommandFailed(f"kubectl {' '.join(args)}: {result.stderr.strip()}")
        return result.stdout

    def audit_mark(self) -> int:
        """Return the present end of the audit log, to be given to `requests`."""
        return self._audit_file.stat().st_size

    def requests(
        self,
        *,
        verb: str | None = None,
        resource: str | None = None,
        subresource: str | None = None,
        since: int = 0,
        where: Callable[[audit.Request], bool] = lambda _: True,
    ) -> list[audit.Request]:
        """List the requests that the API server has answered, oldest first.

        An empty `subresource` means the object itself, None anything. The log may lag some
        milliseconds behind the answer that a client has seen.
        """
        if not self._audited:
            raise RuntimeError("this control plane was started without audit_log=True")
        return [
            request
            for request in audit.read_requests(self._audit_file, since)
            if verb in (None, request.verb)
            and resource in (None, request.resource)
            and subresource in (None, request.subresource)
            and where(request)
        ]

    def compact(self) -> int:
        """Drop etcd's history, so that older watches get 410; return the present revision."""
        status = self._etcd("maintenance/status", {})
        revision = int(status["header"]["revision"])
        self._etcd("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def restart_api_server(self) -> None:
        """Kill the API server and start it anew where it was: its watch caches are gone."""
        process = next(one for one in self._processes if one.name == "kube-apiserver")
        process.kill()
        process.stop()
        process.start()
        self._wait_until(self._is_ready, "kube-apiserver")

    def log(self, program: str) -> str:
        """Return the log of `etcd`, `kube-apiserver` or `kube-controller-manager`."""
        return next(process.log() for process in self._processes if process.name == program)

    @property
    def _audit_file(self) -> Path:
        return self.folder / "audit.log"

    def _start(self, binaries: Binaries) -> None:
        certs = self.folder / "certs"
        certs.mkdir()
        self._write_tokens()
        self._launch("etcd", [binaries.etcd, *self._etcd_flags()])
        self._launch("kube-apiserver", [binaries.kube_apiserver, *self._apiserver_flags(certs)])
        self._wait_until(self._is_ready, "kube-apiserver")
        self._write_kubeconfig("admin", self.token)
        self._launch(
            "kube-controller-manager",
            [binaries.kube_controller_manager, *self._controller_flags(certs)],
        )
        self._wait_until(self._has_default_account, "kube-controller-manager")
        if self._is_whole:
            token, _ = self._other_users["system:kube-scheduler"]
            kubeconfig = self._write_kubeconfig("kube-scheduler", token)
            scheduler = node_binaries().kube_scheduler
            flags = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]
            self._launch("kube-scheduler", [scheduler, *flags])

    def _write_tokens(self) -> None:
        if self._is_whole:
            for user in ("system:kube-scheduler", "system:kube-proxy"):
                self._other_users[user] = (secrets.token_hex(16), "")
            self._other_users[f"system:node:{NODE_NAME}"] = (secrets.token_hex(16), "system:nodes")
        lines = [f'{self.token},admin,admin,"system:masters"']
        lines += [
            f'{token},{user},{user},"{group}"' if group else f"{token},{user},{user}"
            for user, (token, group) in self._other_users.items()
        ]
        (self.folder / "tokens.csv").write_text("\n".join(lines) + "\n")

    def _stop(self) -> None:
        # An API server that outlives its etcd would keep answering from its caches: newest first.
        for process in reversed(self._processes):
            process.stop(grace_s=3 if process.name == "kube-apiserver" else 5)
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        guard.forget_folder(self.folder)

    def _launch(self, name: str, command: list[str | Path]) -> None:
        log = self.folder / "logs" / f"{name}.log"
        process = ManagedProcess(name, command, log=log, cwd=self.folder)
        process.start()
        self._processes.append(process)

    def _etcd_flags(self) -> list[str]:
        peer = f"http://127.0.0.1:{free_port()}"
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self.etcd_endpoint}",
            f"--advertise-client-urls={self.etcd_endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync=true",
            "--log-level=warn",
        ]

    def _apiserver_flags(self, certs: Path) -> list[str]:
        # The serving key that the API server makes for itself signs the service accounts' tokens as
        # well.
        flags = [
            f"--etcd-servers={self.etcd_endpoint}",
            f"--secure-port={self._port}",
            f"--bind-address={self.host}",
            f"--advertise-address={self.host}",
            f"--cert-dir={certs}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={certs / 'apiserver.key'}",
            f"--service-account-signing-key-file={certs / 'apiserver.key'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            f"--authorization-mode={'Node,RBAC' if self._is_whole else 'RBAC'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--allow-privileged=true",
            "--profiling=false",
        ]
        if self._is_whole:
            # No kube-proxy runs beside the API server: it finds the endpoints of a webhook's
            # Service itself.
            flags += [
                "--enable-aggregator-routing=true",
                "--kubelet-preferred-address-types=InternalIP",
            ]
        else:
            flags += ["--endpoint-reconciler-type=none"]
        if self._audited:
            policy = self.folder / "audit-policy.yaml"
            policy.write_text(audit.POLICY)
            self._audit_file.touch()
            flags += [f"--audit-policy-file={policy}", f"--audit-log-path={self._audit_file}"]
        return [*flags, *self._more_flags]

    def _controller_flags(self, certs: Path) -> list[str]:
        return [
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={'*' if self._is_whole else ','.join(_CONTROLLERS)}",
            f"--root-ca-file={self.ca_file}",
            f"--service-account-private-key-file={certs / 'apiserver.key'}",
            "--leader-elect=false",
            "--secure-port=0",
        ]

    def _wait_until(self, condition: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not condition():
            for process in self._processes:
                process.check_alive()
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{name} is not ready after {_START_TIMEOUT_S} s:\n{self.log(name)[-3000:]}"
                )
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        return self.ca_file.exists() and self._answers("/readyz")

    def _has_default_account(self) -> bool:
        return self._answers("/api/v1/namespaces/default/serviceaccounts/default")

    def _answers(self, path: str) -> bool:
        try:
            # While the API server writes its certificate, the file may be unusable for an instant.
            context = ssl.create_default_context(cafile=str(self.ca_file))
            request = urllib.request.Request(
                self.server + path, headers={"Authorization": f"Bearer {self.token}"}
            )
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except (OSError, ssl.SSLError, urllib.error.URLError):
            return False

    def _etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.etcd_endpoint}/v3/{path}", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.load(answer))

    def _write_kubeconfig(self, user: str, token: str) -> Path:
        ca = b64encode(self.ca_file.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "devkit",
                    "cluster": {"server": self.server, "certificate-authority-data": ca},
                }
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": user, "context": {"cluster": "devkit", "user": user}}],
            "current-context": user,
        }
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path
