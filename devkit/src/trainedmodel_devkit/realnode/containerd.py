"""containerd in a box: its configuration, the import of images, and the containers' processes."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from trainedmodel_devkit.errors import CommandFailed, StartFailed
from trainedmodel_devkit.realnode.box import Box
from trainedmodel_devkit.realnode.prerequisites import CNI_FOLDER

PAUSE_IMAGE = "localhost/trainedmodel-pause:dev"
_START_TIMEOUT_S = 30
# restrict_oom_score_adj: where CAP_SYS_RESOURCE is missing, runc dies if it must lower a score.
_CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"""


@dataclass(frozen=True)
class RunningContainer:
    """One container that runs, and the number of its first process inside the box."""

    id: str
    pid: int


class Containerd:
    """The container runtime of a box."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._folder = box.folder / "containerd"
        self.socket = "/run/containerd/containerd.sock"
        self._process = box.process(
            "containerd", ["containerd", "--config", self._folder / "config.toml"]
        )

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            StartFailed: with the end of its log.
        """
        network = self._folder / "cni"
        network.mkdir(parents=True)
        (network / "10-pods.conflist").write_text(json.dumps(self._box.addresses.cni_config()))
        config = _CONFIG.format(
            folder=self._folder,
            socket=self.socket,
            pause=PAUSE_IMAGE,
            cni_bin=CNI_FOLDER,
            cni_conf=network,
        )
        (self._folder / "config.toml").write_text(config)
        self._process.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            self._process.check_alive()
            if time.monotonic() > deadline:
                raise StartFailed(f"containerd is silent:\n{self._process.log()[-3000:]}")
            time.sleep(0.05)

    def load(self, archive: Path) -> None:
        """Import the images of a docker archive, under the names it carries."""
        # Debian's containerd unpacks with the platform's default differ unless told: the CRI
        # plugin looks into its own snapshotter.
        self._ctr("images", "import", "--snapshotter=overlayfs", archive)

    def find(self, pod: str, container: str) -> RunningContainer | None:
        """Return a pod's running container by its name in the pod, None while there is none."""
        wanted = f'labels."io.kubernetes.pod.name"=={pod}'
        named = f'labels."io.kubernetes.container.name"=={container}'
        found = self._ctr("containers", "list", "--quiet", f"{wanted},{named}").split()
        running = {
            words[0]: int(words[1])
            for line in self._ctr("tasks", "list").splitlines()[1:]
            if len(words := line.split()) == 3 and words[2] == "RUNNING"
        }
        alive = [RunningContainer(one, running[one]) for one in found if one in running]
        return alive[0] if alive else None

    def kill(self, pod: str, container: str) -> None:
        """Kill a container's processes, as the kernel does when memory runs out.

        Raises:
            CommandFailed: it does not run.
        """
        found = self.find(pod, container)
        if found is None:
            raise CommandFailed(f"{pod}/{container} does not run")
        self._ctr("tasks", "kill", "--all", "--signal", "SIGKILL", found.id)

    def resident_bytes(self, pod: str, container: str) -> int:
        """Return the resident memory of a container's processes.

        Raises:
            CommandFailed: it does not run.
        """
        found = self.find(pod, container)
        if found is None:
            raise CommandFailed(f"{pod}/{container} does not run")
        lines = self._ctr("tasks", "ps", found.id).splitlines()[1:]
        pages = sum(
            int(self._box.run("cat", f"/proc/{line.split()[0]}/statm").split()[1]) for line in lines
        )
        return pages * 4096

    def log(self) -> str:
        """Return what containerd said."""
        return self._process.log()

    def _answers(self) -> bool:
        try:
            return "io.containerd.grpc.v1" in self._ctr("plugins", "list")
        except CommandFailed:
            return False

    def _ctr(self, *words: str | Path) -> str:
        return self._box.run("ctr", "--address", self.socket, "--namespace", "k8s.io", *words)
