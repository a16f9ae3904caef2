from __future__ import annotations

import asyncio

from trainedmodel_puller.storage.transfer.stream_ramp import StreamRamp


async def _streams(rate_each: int, *, seconds: float = 0.8) -> int:
    """Count the streams that have joined after a while, each moving so many bytes a second."""
    ramp, joined = StreamRamp(), 0
    ends = asyncio.get_running_loop().time() + seconds

    async def stream(rank: int) -> None:
        nonlocal joined
        if await ramp.join(rank):
            joined += 1
            while asyncio.get_running_loop().time() < ends:
                before = asyncio.get_running_loop().time()
                await asyncio.sleep(0.005)
                ramp.count(int(rate_each * (asyncio.get_running_loop().time() - before)))
            ramp.end()

    async with asyncio.TaskGroup() as group:
        for rank in range(8):
            group.create_task(stream(rank))
    return joined


async def test_slow_streams_are_joined_by_all_others() -> None:
    assert await _streams(10_000_000) == 8


async def test_fast_streams_stay_two() -> None:
    assert await _streams(1_000_000_000) == 2


async def test_the_end_of_the_work_is_not_waited_for() -> None:
    ramp = StreamRamp()
    assert await ramp.join(0)
    async with asyncio.timeout(0.5):
        waiting = asyncio.create_task(ramp.join(7))
        await asyncio.sleep(0)
        ramp.end()
        assert not await waiting
