"""Waiting for a condition: the one loop for it, in a thread and in the event loop.

The bound of a wait says when to give up. It says nothing about speed: it is generous, so that no
test fails because the machine is busy. A caller that measures time reads the clock itself. The
error names the condition and has what it returned last.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

from trainedmodel_devkit.errors import WaitedInVain

T = TypeVar("T")

GIVE_UP_AFTER_S: Final = 120.0


def wait_until(
    look: Callable[[], T],
    timeout_s: float = GIVE_UP_AFTER_S,
    *,
    what: str = "",
    every_s: float = 0.05,
    details: Callable[[], str] = str,
) -> T:
    """Return what `look` returns once that is true of it. It blocks the thread.

    `details` is asked for more about a failure: the log of a process, or its status.

    Raises:
        WaitedInVain: it was not true within the time.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise WaitedInVain(_message(what, found, timeout_s, details()))
        time.sleep(every_s)
    return found


@overload
async def until(
    look: Callable[[], Awaitable[T]],
    timeout_s: float = ...,
    *,
    what: str = ...,
    every_s: float = ...,
    details: Callable[[], str] = ...,
) -> T: ...


@overload
async def until(
    look: Callable[[], T],
    timeout_s: float = ...,
    *,
    what: str = ...,
    every_s: float = ...,
    details: Callable[[], str] = ...,
) -> T: ...


async def until(
    look: Callable[[], Any],
    timeout_s: float = GIVE_UP_AFTER_S,
    *,
    what: str = "",
    every_s: float = 0.05,
    details: Callable[[], str] = str,
) -> Any:
    """Return what `look` returns, or what that gives when awaited, once it is true.

    The time counts while `look` is awaited, too. The rest is as in `wait_until`.

    Raises:
        WaitedInVain: it was not true within the time.
    """
    found: object = "no answer"
    try:
        async with asyncio.timeout(timeout_s) as bound:
            while True:
                looked = look()
                found = await looked if inspect.isawaitable(looked) else looked
                if found:
                    return found
                await asyncio.sleep(every_s)
    except TimeoutError:
        if not bound.expired():  # `look` itself raised it
            raise
        raise WaitedInVain(_message(what, found, timeout_s, details())) from None


def _message(what: str, found: object, timeout_s: float, details: str) -> str:
    return f"{what or 'condition'}: still {found!r} after {timeout_s:g} s\n{details}".rstrip()
