"""The webhook as the operator's own processes, as shipped and wired, behind one address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.ports import free_port
from webhook_replicas import SYSTEM, balancer, until


class Replica:
    """One operator process with the webhook."""

    def __init__(self, kubeconfig: Path, folder: Path, *flags: str) -> None:
        self.port = free_port()
        self.log_file = folder / f"operator-{self.port}.log"
        with self.log_file.open("wb") as output:
            self.child = subprocess.Popen(
                [
                    *(sys.executable, "-m", "trainedmodel_operator"),
                    *("--metrics-port=0", "--health-port=0", "--log-format=console"),
                    f"--webhook-port={self.port}",
                    *("--leader-elect", f"--lease-namespace={SYSTEM}"),
                    *flags,
                ],
                env={**os.environ, "KUBECONFIG": str(kubeconfig), "NO_PROXY": "127.0.0.1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(10)


@contextlib.asynccontextmanager
async def replicas(
    control_plane: ControlPlane, folder: Path, *flags: str, count: int = 2
) -> AsyncIterator[tuple[int, list[Replica]]]:
    """Run replicas as the shipped service account; yields the port that leads to all of them.

    What they said is shown if the test fails.
    """
    kubeconfig = await asyncio.to_thread(
        control_plane.kubeconfig_for_service_account, SYSTEM, "trainedmodel-operator"
    )
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(Replica(kubeconfig, folder, *flags))
            stack.callback(found[-1].kill)
        door = await stack.enter_async_context(balancer([one.port for one in found]))
        try:
            yield door, found
        except BaseException:
            sys.stderr.write("\n".join(one.log()[-5000:] for one in found))
            raise


async def all_listen(found: list[Replica], timeout_s: float = 60) -> None:
    """Wait until each replica has a certificate and listens."""
    for one in found:
        await until(partial(_is_listened_on, one.port), timeout_s)


async def _is_listened_on(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
