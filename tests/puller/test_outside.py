"""Threads for calls that may never return."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from trainedmodel_puller import metrics
from trainedmodel_puller.storage.outside import Lookups, OutsideLoop, OutsideThreads


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging calls wait for; opened at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


async def _hang(threads: OutsideThreads, place: str, gate: threading.Event) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await threads.run(place, gate.wait)


async def test_a_place_that_hangs_uses_up_its_own_threads_and_no_others(
    gate: threading.Event,
) -> None:
    threads = OutsideThreads(most=8, most_of_a_place=2)
    for _ in range(5):
        await _hang(threads, "hung", gate)
    async with asyncio.timeout(5):
        assert await threads.run("good", lambda: 7) == 7


async def test_the_next_free_thread_goes_to_the_place_with_the_fewest(
    gate: threading.Event,
) -> None:
    threads = OutsideThreads(most=2, most_of_a_place=8)
    first_gate = threading.Event()
    first = asyncio.create_task(threads.run("many", first_gate.wait))
    await _hang(threads, "many", gate)  # both threads are taken now
    order: list[str] = []

    async def note(place: str) -> None:
        await threads.run(place, lambda: order.append(place))

    waiting = [asyncio.create_task(note("many")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.append(asyncio.create_task(note("one")))
    await asyncio.sleep(0.01)
    first_gate.set()
    await first
    await asyncio.gather(*waiting)
    assert order[0] == "one"


async def test_calls_that_nobody_waits_for_are_counted_until_they_return(
    gate: threading.Event,
) -> None:
    def left() -> float:
        value = metrics.REGISTRY.get_sample_value("trainedmodel_puller_left_behind_calls")
        assert value is not None
        return value

    before = left()
    threads = OutsideThreads()
    await _hang(threads, "hung", gate)
    await _hang(threads, "hung", gate)
    assert left() == before + 2
    gate.set()
    for _ in range(500):
        if left() == before:
            break
        await asyncio.sleep(0.01)
    assert left() == before


async def test_an_error_of_a_call_is_its_callers() -> None:
    def fail() -> None:
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        await OutsideThreads().run("x", fail)


async def test_a_name_that_nobody_answers_costs_one_thread_however_often_it_is_tried(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def look_up(host: object, *_: object) -> list[object]:
        asked.append(host)
        if host == "silent.example":
            gate.wait()
        return ["found"]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    lookups = Lookups(most=2)
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await lookups.getaddrinfo("silent.example", 80)
    assert await lookups.getaddrinfo("good.example", 80) == ["found"]
    assert asked == ["silent.example", "good.example"]


async def test_too_many_names_that_nobody_answers_are_refused_in_words(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: gate.wait())
    lookups = Lookups(most=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await lookups.getaddrinfo("silent.example", 80)
    with pytest.raises(socket.gaierror, match="1 DNS lookups have not returned; no further lookup"):
        await lookups.getaddrinfo("other.example", 80)


def test_the_loop_resolves_names_as_the_system_does() -> None:
    with asyncio.Runner(loop_factory=OutsideLoop) as runner:

        async def resolve() -> list[object]:
            running = asyncio.get_running_loop()
            return [address[4] for address in await running.getaddrinfo("localhost", 80)]

        found = runner.run(resolve())
    assert found == [address[4] for address in socket.getaddrinfo("localhost", 80)]


def test_a_process_ends_without_waiting_for_what_it_left_behind() -> None:
    code = """
import asyncio, time
from trainedmodel_puller.storage.outside import OutsideLoop, OutsideThreads
async def main():
    try:
        async with asyncio.timeout(0.1):
            await OutsideThreads().run("hung", lambda: time.sleep(3600))
    except TimeoutError:
        print("left")
with asyncio.Runner(loop_factory=OutsideLoop) as runner:
    runner.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100, check=True)
    assert ran.stdout == b"left\n"


def test_a_signal_ends_the_process_in_time_whatever_hangs() -> None:
    """A thread that hangs in a system call is waited for by the interpreter, for ever."""
    code = """
import concurrent.futures, time
from trainedmodel_puller.cli import command
command._LONGEST_END_S = 0.5
command.end_soon()
concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 3600)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100, check=True)
    assert b"shutdown_forced" in ran.stdout + ran.stderr
