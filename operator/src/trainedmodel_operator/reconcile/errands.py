"""Errands: tasks that may outlive the pass that started them.

A pass does not wait for a write that hangs. Otherwise a slow admission webhook of one namespace
would hold the few passes that run at once. The tasks belong to the task group of `run`. When it is
cancelled, all of them are, and it returns when they have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Errands:
    """Runs tasks until it is cancelled itself."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    def start(self, errand: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start an errand, which must not raise: that would end all of them.

        Raises:
            RuntimeError: nothing runs here, yet or any more.
        """
        if self._group is None:
            errand.close()
            raise RuntimeError(f"{name}: no errands are run")
        return self._group.create_task(errand, name=name)
