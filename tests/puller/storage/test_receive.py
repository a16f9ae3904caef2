"""One stream: it is counted, its silence is noticed, and who is slow lends the slot to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import pytest
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri, parse_uri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, SourceObject, Storage
from trainedmodel_puller.storage.transfer.fair_limiter import FairLimiter, Slot
from trainedmodel_puller.storage.transfer.receive import receive
from typing_extensions import Buffer

pytestmark = pytest.mark.looptime

KIB = 1024
URI = parse_uri("s3://bucket/model")
STALL_S = 30.0


class Script:
    """A store that sends what it is told to, when it is told to: (seconds to wait, bytes)."""

    def __init__(self, steps: Sequence[tuple[float, int]]) -> None:
        self.steps = steps

    async def read(
        self, uri: StorageUri, item: SourceObject, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        for wait_s, size in self.steps:
            await asyncio.sleep(wait_s)
            yield bytes(size)


class NotedSlot(Slot):
    """A slot that notes when it is lent and taken back."""

    def __init__(self) -> None:
        super().__init__(FairLimiter(1), "model")
        self.said: list[tuple[float, str]] = []
        self._began = asyncio.get_running_loop().time()

    def lend(self) -> None:
        if not self._is_lent:
            self._note("lent")
        super().lend()

    def take_back(self) -> None:
        if self._is_lent:
            self._note("back")
        super().take_back()

    def _note(self, word: str) -> None:
        self.said.append((asyncio.get_running_loop().time() - self._began, word))

    @property
    def words(self) -> list[str]:
        return [word for _, word in self.said]


async def received(
    steps: Sequence[tuple[float, int]],
    size: int | None = None,
    sink_s: float = 0.0,
    stall_s: float = STALL_S,
) -> NotedSlot:
    """Receive a stream; return its slot, with what it said before it was given back."""
    total = sum(count for _, count in steps) if size is None else size
    slot = NotedSlot()

    async def sink(chunk: Buffer, count: int) -> None:
        await asyncio.sleep(sink_s)

    storage = cast("Storage", cast("Any", Script(steps)))
    item = SourceObject(path="file", size=total)
    async with slot:
        await receive(storage, URI, item, 0, total, sink, stall_s, slot)
        said = list(slot.said)
    slot.said = said
    return slot


async def test_who_is_quick_keeps_the_slot() -> None:
    slot = await received([(0.5, 256 * KIB)] * 20)
    assert slot.words == []


@pytest.mark.parametrize("chunk", [32 * KIB, 64 * KIB, 256 * KIB])
async def test_who_trickles_lends_the_slot_whatever_the_size_of_the_chunks(chunk: int) -> None:
    """50 KiB/s, in small chunks or large ones."""
    slot = await received([(chunk / (50 * KIB), chunk)] * (1024 * KIB // chunk))
    assert slot.words == ["lent"]
    assert slot.said[0][0] <= 4.0


async def test_a_slot_is_lent_and_taken_back_as_often_as_a_stream_slows_down() -> None:
    slow, quick = [(3.0, 8 * KIB)] * 2, [(0.5, 512 * KIB)] * 8
    slot = await received([*slow, *quick, *slow, *quick])
    assert slot.words == ["lent", "back", "lent", "back"]


async def test_silence_lends_the_slot_and_at_last_is_a_fault() -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(SourceFault, match="sent nothing of 'file' for 30 s") as caught:
        await received([(0.1, KIB), (3600, KIB)])
    assert caught.value.reason is Reason.SOURCE_STALLED
    assert asyncio.get_running_loop().time() - began == pytest.approx(30.1, abs=0.2)


async def test_each_byte_puts_the_fault_off() -> None:
    slot = await received([(STALL_S - 1, 1)] * 4)
    assert slot.words == ["lent"]


async def test_what_the_volume_takes_its_time_for_is_not_the_stores_silence() -> None:
    await received([(0.1, KIB)] * 3, sink_s=3 * STALL_S)


@pytest.mark.parametrize(("sent", "word"), [(2000, "more"), (500, "fewer")])
async def test_a_store_that_sends_another_size_than_it_listed_is_at_fault(
    sent: int, word: str
) -> None:
    with pytest.raises(SourceFault, match=f"{word} bytes of 'file' than the 1000 it listed") as e:
        await received([(0.1, sent)], size=1000)
    assert e.value.reason is Reason.SIZE_MISMATCH


async def test_what_has_no_listed_size_may_have_any() -> None:
    slot = NotedSlot()
    taken: list[int] = []

    async def sink(chunk: Buffer, count: int) -> None:
        taken.append(count)

    storage = cast("Storage", cast("Any", Script([(0.1, 10), (0.1, 20)])))
    item = SourceObject(path="file", size=UNKNOWN_SIZE)
    async with slot:
        await receive(storage, URI, item, 0, UNKNOWN_SIZE, sink, STALL_S, slot)
    assert taken == [10, 20]
