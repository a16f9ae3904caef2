"""What tests of faults share: pullers that start at once, and the instant server as a process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.puller.forked import ForkedPuller, Zygote
from support.puller.processes import get
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import wait_until

Make = Callable[..., ForkedPuller]


@contextlib.contextmanager
def puller_factory(zygote: Zygote, root: Path) -> Iterator[Make]:
    """Make pullers below `root`; what they read may lie in `root`/source. All end with the block.

    A puller is made with `make(*flags, server=..., server_url=..., env=..., start=...)`; what
    `start` holds goes to the zygote.
    """
    made: list[ForkedPuller] = []
    (root / "source").mkdir(exist_ok=True)

    def make(
        *flags: str, at: Path | None = None, start: dict[str, Any] | None = None, **details: Any
    ) -> ForkedPuller:
        folder = at or root / f"p{len(made)}"
        all_flags = ("--file-root", str(root / "source"), *flags)
        puller = ForkedPuller(zygote, folder, flags=all_flags, **details)
        made.append(puller)
        puller.start(**(start or {}))
        return puller

    try:
        yield make
    finally:
        for puller in made:
            puller.kill()


def write_model(root: Path, name: str, content: bytes = b"weights") -> str:
    """Write a model of one small file where `file://` may read it; return its URI."""
    folder = root / "source" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(content)
    return f"file://{folder}"


def write_instant(root: Path, name: str, content: bytes = b"weights") -> str:
    """Write a model of Triton's layout, for the instant server; return its URI."""
    write_model(root, f"{name}/1", content)
    return f"file://{root / 'source' / name}"


class InstantProcess:
    """The devkit's instant model server, on a port that it keeps; a context manager."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> InstantProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        command = [sys.executable, "-m", "trainedmodel_devkit.instant", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_until(self._answers, what="an answer of the instant server", every_s=0.02)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            get(f"{self.url}/count")
            return True
        return False

    def kill(self) -> None:
        """End it as the kernel would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def told(self) -> dict[str, Any]:
        """Return what it was asked (`asked`, `insane`) and has (`loaded`)."""
        document: dict[str, Any] = json.loads(get(f"{self.url}/asked")[1])
        return document

    @property
    def loaded(self) -> set[str]:
        """Names that it has."""
        return set(self.told()["loaded"])

    @property
    def count(self) -> int:
        """How many models it has."""
        return int(get(f"{self.url}/count")[1])
