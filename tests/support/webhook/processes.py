"""The webhook as the operator's own processes, as shipped and wired, behind one address."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from support.webhook.replicas import balancer, until
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.operatorprocess import SYSTEM, OperatorProcess, operator_account
from trainedmodel_devkit.ports import free_port


class Replica(OperatorProcess):
    """One operator process with the webhook."""

    def __init__(self, kubeconfig: Path, folder: Path, *flags: str) -> None:
        self.port = free_port()
        super().__init__(
            kubeconfig,
            folder / f"operator-{self.port}.log",
            f"--webhook-port={self.port}",
            *("--leader-elect", f"--lease-namespace={SYSTEM}"),
            *flags,
        )
        self.start()

    def end(self) -> None:
        """End it at once."""
        self.kill()
        self.wait()


@contextlib.asynccontextmanager
async def replicas(
    control_plane: ControlPlane, folder: Path, *flags: str, count: int = 2
) -> AsyncIterator[tuple[int, list[Replica]]]:
    """Run replicas as the shipped service account; yields the port that leads to all of them.

    What they said is shown if the test fails.
    """
    kubeconfig = await asyncio.to_thread(operator_account, control_plane)
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(Replica(kubeconfig, folder, *flags))
            stack.callback(found[-1].end)
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
