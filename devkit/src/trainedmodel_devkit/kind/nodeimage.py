"""The image of a node, made of Debian packages and of programs compiled from Go modules.

kind's own image is the model: the same entrypoint and unit files (they are in kind's Go module),
Debian with systemd below them. Three things are otherwise. containerd, runc and the CNI plugins are
Debian's. Pods' network is a file of the image instead of a DaemonSet, so there is one node, with
kind's default subnet of pods. There is no provisioner of volumes.

kubeadm starts the control plane from images. They are made here, under the names that kubeadm asks
for, and imported into the store of the node's containerd while the image is built: the node pulls
nothing.
"""

import subprocess
from pathlib import Path

from trainedmodel_devkit.binaries import kind_base_files, kind_node_binaries, kubernetes_version
from trainedmodel_devkit.errors import BuildFailed
from trainedmodel_devkit.kind.choice import NODE_IMAGE
from trainedmodel_devkit.realnode.images import Recipe, ensure_image

_PARTS = Path(__file__).with_name("node")
_PACKAGES = tuple((_PARTS / "packages.txt").read_text(encoding="utf-8").split())
_IN_NODE = ("kubeadm", "kubectl", "kubelet")

# A program without libraries needs nothing but a temporary folder beside it.
_STATIC = """\
FROM scratch
WORKDIR /tmp
WORKDIR /
COPY {program} {place}
ENV PATH=/usr/local/bin
"""
_PROXY = """\
ARG BASE
FROM ${BASE} AS debian
COPY proxy-files.sh /
RUN sh /proxy-files.sh /proxy
FROM scratch
COPY --from=debian /proxy/ /
COPY kube-proxy /usr/local/bin/kube-proxy
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin
"""
_NODE = """\
ARG BASE
FROM ${BASE}
COPY base/usr/ /usr/
COPY base/kind/ /kind/
COPY base/etc/ /etc/
COPY bin/ /usr/bin/
COPY manifests/ /kind/manifests/
COPY network.conflist /etc/cni/net.d/10-kind.conflist
COPY settings.sh /kind/bin/
COPY setup.sh import.sh /build/
RUN VERSION={version} PAUSE={pause} sh /build/setup.sh
RUN --mount=type=bind,source=images,target=/images sh /build/import.sh && rm -r /build
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/kind/bin/settings.sh", "/usr/local/bin/entrypoint", "/sbin/init"]
"""


def node_image() -> Path:
    """Return the archive of the node image, built at first use.

    Raises:
        BuildFailed: with the end of the build's output.
    """
    programs = kind_node_binaries()
    names = image_names(_wanted_by(programs["kubeadm"]))
    archives = {
        program: ensure_image(_image_of(program, name, programs[program]))
        for program, name in names.items()
    }
    return ensure_image(_node_recipe(programs, archives, names["pause"]))


def image_names(listed: str) -> dict[str, str]:
    """Read `kubeadm config images list`: the full name of each image, by its program's name."""
    return {name.rpartition("/")[2].partition(":")[0]: name for name in listed.split()}


def _wanted_by(kubeadm: Path) -> str:
    command = [
        str(kubeadm),
        "config",
        "images",
        "list",
        f"--kubernetes-version={kubernetes_version()}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildFailed(f"kubeadm names no images: {result.stderr.strip()}")
    return result.stdout


def _image_of(program: str, name: str, path: Path) -> Recipe:
    if program == "kube-proxy":
        files = _PARTS / "proxy-files.sh"
        return Recipe(name, _PROXY, {program: path, files.name: files}, 10, _PACKAGES)
    # kubeadm's manifests name the program, but for these two.
    is_started = program in ("coredns", "pause")
    place = f"/{program}" if is_started else f"/usr/local/bin/{program}"
    dockerfile = _STATIC.format(program=program, place=place)
    if is_started:
        dockerfile += f'ENTRYPOINT ["{place}"]\n'
    return Recipe(name, dockerfile, {program: path}, 5, ())


def _node_recipe(programs: dict[str, Path], archives: dict[str, Path], pause: str) -> Recipe:
    context = {f"bin/{one}": programs[one] for one in _IN_NODE}
    # The archives' own names carry hashes, and a program that is gone must leave no image.
    context |= {f"images/{program}.tar": archive for program, archive in archives.items()}
    context |= {one.name: one for one in _PARTS.iterdir() if one.name != "packages.txt"}
    context["base"] = kind_base_files()
    dockerfile = _NODE.replace("{version}", kubernetes_version()).replace("{pause}", pause)
    return Recipe(NODE_IMAGE, dockerfile, context, 120, _PACKAGES)
