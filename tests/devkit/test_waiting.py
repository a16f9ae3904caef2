"""A wait ends with what it waited for, or says what it last saw."""

import asyncio
import itertools

import pytest
from trainedmodel_devkit.errors import WaitedInVain
from trainedmodel_devkit.waiting import until, wait_until


def test_a_wait_returns_what_became_true() -> None:
    numbers = itertools.count()
    assert wait_until(lambda: max(0, next(numbers) - 2), every_s=0.001) == 1


def test_a_wait_in_vain_names_the_condition_what_it_saw_and_the_details() -> None:
    with pytest.raises(WaitedInVain, match=r"a pod: still \[\] after 0.01 s\nthe log$"):
        wait_until(list, 0.01, what="a pod", every_s=0.001, details=lambda: "the log")


async def test_the_loop_waits_for_a_value_and_for_what_is_awaited() -> None:
    numbers = itertools.count()

    async def answer() -> str:
        await asyncio.sleep(0)
        return "yes" if next(numbers) > 2 else ""

    assert await until(answer, every_s=0.001) == "yes"
    assert await until(lambda: next(numbers) > 10, every_s=0.001) is True


async def test_the_loop_gives_up_while_the_condition_is_awaited() -> None:
    with pytest.raises(WaitedInVain, match=r"an answer: still 'no answer' after 0\.01 s"):
        await until(lambda: asyncio.sleep(60), 0.01, what="an answer")
    with pytest.raises(WaitedInVain, match=r"condition: still 0 after 0\.01 s"):
        await until(int, 0.01, every_s=0.001)


async def test_a_timeout_of_the_condition_itself_is_not_taken_for_the_end_of_the_wait() -> None:
    async def fails() -> bool:
        raise TimeoutError("the socket")

    with pytest.raises(TimeoutError, match="the socket"):
        await until(fails)
