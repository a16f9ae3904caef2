"""containerd in a box: its configuration, and the import of images."""

import json
import time
from pathlib import Path

from trainedmodel_devkit.errors import CommandFailed, StartFailed
from trainedmodel_devkit.realnode.box import Box
from trainedmodel_devkit.realnode.prerequisites import CNI_FOLDER
from trainedmodel_devkit.realnode.tasks import SOCKET, Tasks

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


class Containerd:
    """The container runtime of a box."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._folder = box.folder / "containerd"
        self.socket = SOCKET
        self.tasks = Tasks(box.run)
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
