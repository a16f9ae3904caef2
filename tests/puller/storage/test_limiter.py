from __future__ import annotations

import asyncio

import pytest
from trainedmodel_puller.storage.transfer.fair_limiter import FairLimiter


async def _hold(limiter: FairLimiter, key: str, log: list[str]) -> None:
    async with limiter.slot(key):
        log.append(key)
        await asyncio.sleep(0)


async def test_a_newcomer_gets_the_next_slot_before_a_model_with_many_waiting() -> None:
    limiter = FairLimiter(4)
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        for _ in range(1000):
            group.create_task(_hold(limiter, "many", log))
        await asyncio.sleep(0)
        group.create_task(_hold(limiter, "few", log))
    assert log.index("few") < 12
    assert len(log) == 1001


async def test_equals_take_turns() -> None:
    limiter = FairLimiter(1)
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        for key in ["a"] * 5 + ["b"] * 5 + ["c"] * 5:
            group.create_task(_hold(limiter, key, log))
    assert all(set(log[n : n + 3]) == {"a", "b", "c"} for n in range(1, 10, 3))


async def test_never_more_than_the_limit_and_cancelled_waiters_take_nothing() -> None:
    limiter = FairLimiter(3)
    held = most = 0

    async def hold(key: int) -> None:
        nonlocal held, most
        async with limiter.slot(key):
            held += 1
            most = max(most, held)
            try:
                await asyncio.sleep(0.001)
            finally:
                held -= 1

    tasks = [asyncio.create_task(hold(n % 7)) for n in range(200)]
    await asyncio.sleep(0.002)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (held, most) == (0, 3)
    async with asyncio.timeout(1), limiter.slot(0), limiter.slot(1), limiter.slot(2):
        pass


async def test_a_slot_given_in_the_moment_of_cancellation_is_handed_on() -> None:
    limiter = FairLimiter(1)
    async with limiter.slot("a"):
        waiting = asyncio.create_task(_hold(limiter, "b", []))
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1), limiter.slot("c"):
        pass


async def test_p12_a_slot_that_is_lent_serves_another_and_is_taken_back_without_waiting() -> None:
    limiter = FairLimiter(1)
    log: list[str] = []
    async with limiter.slot("silent") as slot:
        async with asyncio.TaskGroup() as group:
            group.create_task(_hold(limiter, "other", log))
            await asyncio.sleep(0)
            assert log == []
            slot.lend()
            slot.lend()
        assert log == ["other"]
        slot.take_back()
        slot.take_back()
        async with asyncio.TaskGroup() as group:
            late = group.create_task(_hold(limiter, "late", log))
            await asyncio.sleep(0)
            assert not late.done()
            slot.lend()
    async with asyncio.timeout(1), limiter.slot("last"):
        log.append("last")
    assert log == ["other", "late", "last"]
