"""The programs of control plane, node and S3 server, and those that only tests use, from Go.

They are compiled once. Versions have one source, the `go.mod` files under `devkit/go`; the
checksums beside them make the builds reproducible. Nothing is downloaded as a binary, and no
container engine is needed.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from trainedmodel_devkit.cache import building, cache_folder, locked
from trainedmodel_devkit.environments import checkout
from trainedmodel_devkit.errors import BuildFailed, MissingTool
from trainedmodel_devkit.processes import run_to_end, scratch
from trainedmodel_devkit.progress import step

_ASSETS = "KUBEBUILDER_ASSETS"


@dataclass(frozen=True)
class Binaries:
    """Where the programs of the control plane are."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


@dataclass(frozen=True)
class NodeBinaries:
    """Where the programs are that a real node takes beside the control plane's."""

    kubelet: Path
    kube_proxy: Path
    kube_scheduler: Path
    pause: Path
    """What holds a pod's namespaces; statically linked, for an image of its own."""


@dataclass(frozen=True)
class _Program:
    name: str
    package: str
    expected_s: float
    """Build time on two cores, in the order below: the first compiles what the others share."""


_KUBERNETES = (
    _Program("etcd", "go.etcd.io/etcd/server/v3", 40),
    _Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 260),
    _Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 60),
    _Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", 25),
)
_NODE = (
    _Program("kubelet", "k8s.io/kubernetes/cmd/kubelet", 30),
    _Program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 15),
    _Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 5),
)
_PAUSE = _Program("pause", ".", 2)
_KUBEADM = _Program("kubeadm", "k8s.io/kubernetes/cmd/kubeadm", 40)
_COREDNS = _Program("coredns", ".", 60)
_KIND = _Program("kind", "sigs.k8s.io/kind", 20)
_KIND_MODULE = "sigs.k8s.io/kind"
_VERSITYGW = _Program("versitygw", "github.com/versity/versitygw/cmd/versitygw", 80)
_FAKE_GCS = _Program("fake-gcs-server", "github.com/fsouza/fake-gcs-server", 110)
_HELM = _Program("helm", "helm.sh/helm/v4/cmd/helm", 90)
_CERT_MANAGER = _Program("cert-manager", ".", 150)
_CERT_MANAGER_MODULE = "github.com/cert-manager/cert-manager"
_ALERTS = _Program("alerts", ".", 40)


def control_plane_binaries() -> Binaries:
    """Return the control plane's programs, those of `KUBEBUILDER_ASSETS` first, then the cache's.

    What is in neither is compiled.

    Raises:
        MissingTool: `KUBEBUILDER_ASSETS` is incomplete, or a compiler is needed and missing or too
        old.
    """
    assets = os.environ.get(_ASSETS)
    given = _from_assets(Path(assets)) if assets else {}
    found = {
        program.name: given.get(program.name) or _cached(program, "kubernetes", "k8s.io/kubernetes")
        for program in _KUBERNETES
    }
    return Binaries(
        etcd=found["etcd"],
        kube_apiserver=found["kube-apiserver"],
        kube_controller_manager=found["kube-controller-manager"],
        kubectl=found["kubectl"],
    )


def node_binaries() -> NodeBinaries:
    """Return the node's programs, compiled at first use.

    Raises:
        MissingTool: a compiler is needed and missing or too old.
    """
    found = {one.name: _cached(one, "kubernetes", "k8s.io/kubernetes") for one in _NODE}
    source = checkout() / "devkit" / "go" / "pause"
    version = "v0.0-" + _fingerprint(source)
    return NodeBinaries(
        kubelet=found["kubelet"],
        kube_proxy=found["kube-proxy"],
        kube_scheduler=found["kube-scheduler"],
        pause=_compiled(_PAUSE, source, version),
    )


def kind_binary() -> Path:
    """Return kind, which only the end-to-end suite uses, compiled at first use."""
    return _cached(_KIND, "kind", _KIND_MODULE)


def kind_node_binaries() -> dict[str, Path]:
    """Return what a node image of kind carries, by name; `KUBEBUILDER_ASSETS` is not asked.

    kubeadm decides about versions, so all are of the one version that it is of.
    """
    found = {
        one.name: _cached(one, "kubernetes", "k8s.io/kubernetes")
        for one in (*_KUBERNETES, *_NODE, _KUBEADM)
    }
    found["coredns"] = _wrapped(_COREDNS, "coredns", "github.com/coredns/coredns")
    found["pause"] = node_binaries().pause
    return found


def kubernetes_version() -> str:
    """Return the version of the Kubernetes that is compiled, with its `v`."""
    return _required_version(checkout() / "devkit" / "go" / "kubernetes", "k8s.io/kubernetes")


def kind_base_files() -> Path:
    """Return the folder of the files that kind puts into each node image, from its Go module."""
    source = checkout() / "devkit" / "go" / "kind"
    target = f"kind-{_required_version(source, _KIND_MODULE)}/base-files"
    return _from_module(source, _KIND_MODULE, "images/base/files", target)


def versitygw_binary() -> Path:
    """Return the S3 server's program, compiled at first use."""
    return _cached(_VERSITYGW, "versitygw", "github.com/versity/versitygw")


def fake_gcs_server_binary() -> Path:
    """Return a server of Google Cloud Storage's API, which only tests use."""
    return _cached(_FAKE_GCS, "fakegcs", "github.com/fsouza/fake-gcs-server")


def helm_binary() -> Path:
    """Return helm, which only tests use, compiled at first use."""
    return _cached(_HELM, "helm", "helm.sh/helm/v4")


def cert_manager_binary() -> Path:
    """Return cert-manager's controllers and CA injector, which only tests use, as one program."""
    return _wrapped(_CERT_MANAGER, "certmanager", _CERT_MANAGER_MODULE)


def cert_manager_crds() -> Path:
    """Return the folder of cert-manager's CRDs, from its Go module."""
    source = checkout() / "devkit" / "go" / "certmanager"
    target = f"certmanager-{_wrapped_version(source, _CERT_MANAGER_MODULE)}/crds"
    return _from_module(source, _CERT_MANAGER_MODULE, "deploy/crds", target)


def alerts_binary() -> Path:
    """Return Prometheus' reader and engine of rules, which only tests use."""
    return _wrapped(_ALERTS, "prometheus", "github.com/prometheus/prometheus")


def _wrapped(program: _Program, module: str, dependency: str) -> Path:
    """Return a program of ours around the packages of somebody else's module."""
    source = checkout() / "devkit" / "go" / module
    return _compiled(program, source, _wrapped_version(source, dependency))


def _wrapped_version(source: Path, dependency: str) -> str:
    return f"{_required_version(source, dependency)}-{_fingerprint(source)}"


def _from_module(source: Path, module: str, folder: str, place: str) -> Path:
    """Return a folder of somebody else's module, copied into the cache: the original is read-only.

    A module of ours requires it, and `go.sum` has its checksum.
    """
    target = cache_folder() / place
    if target.exists():
        return target
    with locked(target.parent.name):
        if not target.exists():
            said = _run_go(source, "mod", "download", "-json", module)
            with building(target) as draft:
                _copy_writable(Path(json.loads(said)["Dir"]) / folder, draft)
    return target


def _copy_writable(source: Path, target: Path) -> None:
    for place, _, files in os.walk(source):
        copy = target / Path(place).relative_to(source)
        copy.mkdir()
        for file in files:
            shutil.copyfile(Path(place) / file, copy / file)


def _fingerprint(source: Path) -> str:
    """Return what tells one state of a program of ours from another."""
    return hashlib.sha256((source / "main.go").read_bytes()).hexdigest()[:12]


def _from_assets(folder: Path) -> dict[str, Path]:
    found = {p.name: folder / p.name for p in _KUBERNETES if os.access(folder / p.name, os.X_OK)}
    missing = {"etcd", "kube-apiserver", "kubectl"} - found.keys()
    if missing:
        names = ", ".join(sorted(missing))
        raise MissingTool(
            f"{_ASSETS}={folder} has no {names}: complete the folder or unset {_ASSETS}"
        )
    return found


def _cached(program: _Program, module: str, dependency: str) -> Path:
    source = checkout() / "devkit" / "go" / module
    return _compiled(program, source, _required_version(source, dependency))


def _compiled(program: _Program, source: Path, version: str) -> Path:
    name = f"{source.name}-{version}"
    target = cache_folder() / name / program.name
    if target.exists():
        return target
    with locked(name):
        if not target.exists():
            _compile(program, source, version, target)
    return target


def _required_version(source: Path, dependency: str) -> str:
    text = (source / "go.mod").read_text()
    match = re.search(rf"(?:^|\s){re.escape(dependency)} (v\S+)", text)
    if match is None:
        raise MissingTool(f"{source.name}/go.mod requires no {dependency}")
    return match[1]


def _compile(program: _Program, source: Path, version: str, target: Path) -> None:
    component = "k8s.io/component-base/version"
    major, minor = version.removeprefix("v").split(".")[:2]
    # Without these a Kubernetes program calls itself v0.0.0, and clients refuse features.
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = "-s -w " + " ".join(f"-X {component}.{key}={value}" for key, value in stamps.items())
    with (
        step(f"compiling {program.name} of {target.parent.name}", program.expected_s),
        building(target) as draft,
    ):
        _run_go(source, "build", "-ldflags", flags, "-o", str(draft), program.package)


def _run_go(source: Path, *words: str) -> str:
    """Run the compiler's command in a module of ours and return what it says.

    Raises:
        MissingTool: the compiler is missing or too old.
        BuildFailed: with the end of what it wrote to standard error.
    """
    settings = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    if not any(os.environ.get(name) for name in ("GOCACHE", "XDG_CACHE_HOME", "HOME")):
        settings["GOCACHE"] = str(cache_folder() / "go-build")  # the compiler insists on one
    # The compiler's scratch is hundreds of megabytes, which it leaves if it is killed.
    with scratch("go-") as folder:
        settings["GOTMPDIR"] = str(folder)
        command = [_go(source), *words]
        result = run_to_end(command, cwd=source, env={**os.environ, **settings})
    if result.returncode != 0:
        raise BuildFailed(f"go {words[0]} {words[-1]}:\n{result.stderr[-4000:]}")
    return result.stdout


def _go(source: Path) -> str:
    """Return the Go compiler, checked against what the module asks for."""
    match = re.search(r"^go (\d+)\.(\d+)", (source / "go.mod").read_text(), re.MULTILINE)
    wanted = (int(match[1]), int(match[2])) if match else (0, 0)
    advice = (
        f"install Go {wanted[0]}.{wanted[1]} or newer and put it on PATH, or set {_ASSETS} "
        "to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl"
    )
    go = shutil.which("go")
    if go is None:
        raise MissingTool(f"no Go compiler found: {advice}")
    said = subprocess.run(
        [go, "env", "GOVERSION"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    ).stdout
    have = re.match(r"go(\d+)\.(\d+)", said)
    if have is None or (int(have[1]), int(have[2])) < wanted:
        raise MissingTool(f"{said.strip() or go} is too old: {advice}")
    return go
