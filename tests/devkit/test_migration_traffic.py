"""The requests of the migration test: what is repeated, and what counts as a loss."""

from __future__ import annotations

import importlib.util
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from trainedmodel_devkit.environments import checkout
from trainedmodel_devkit.ports import free_port

Reaction = Callable[[socket.socket], None]


@pytest.fixture
def traffic() -> ModuleType:
    """Load the script that runs in the pod, with counts of its own."""
    script = checkout() / "e2e" / "traffic_pod.py"
    spec = importlib.util.spec_from_file_location("traffic_pod", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def server(*reactions: Reaction) -> Iterator[str]:
    """Accept a connection for each reaction, the last one for ever; give the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            left = list(reactions)
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    reaction = left.pop(0) if len(left) > 1 else left[0]
                    reaction(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def reset(connection: socket.socket) -> None:
    """Close with a reset, as a pod's kernel does to what waits in the queue of a closed socket."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_and_close(connection: socket.socket) -> None:
    read_request(connection)


def read_and_reset(connection: socket.socket) -> None:
    read_request(connection)
    reset(connection)


def read_request(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(b"}]}"):
        part = connection.recv(4096)
        assert part, f"the request ended after {received!r}"
        received += part


def answer(value: float, status: str = "200 OK") -> Reaction:
    def react(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(response(value, status))

    return react


def part_of_an_answer(size: int) -> Reaction:
    """Send the first bytes of a good answer, then reset."""

    def react(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(response(3)[:size])
        reset(connection)

    return react


def response(value: float, status: str = "200 OK") -> bytes:
    body = json.dumps({"outputs": [{"data": [value]}]}).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.mark.parametrize("ending", [reset, read_and_reset, read_and_close])
def test_a_connection_that_ends_before_an_answer_is_tried_again_and_counted(
    traffic: ModuleType, ending: Reaction
) -> None:
    with server(ending, ending, answer(3)) as address:
        assert traffic.ask(address, "model", 3.0) == ""
    assert (traffic.COUNTS["reset"], traffic.COUNTS["refused"]) == (2, 0)


def test_a_refused_connection_is_tried_again_and_counted_apart(traffic: ModuleType) -> None:
    port, ended = free_port(), threading.Event()

    def listen_later() -> None:
        while not traffic.COUNTS["refused"]:
            ended.wait(0.01)
        with socket.create_server(("127.0.0.1", port)) as listening:
            connection, _ = listening.accept()
            with connection:
                answer(3)(connection)

    thread = threading.Thread(target=listen_later)
    thread.start()
    assert traffic.ask(f"127.0.0.1:{port}", "model", 3.0) == ""
    thread.join()
    assert traffic.COUNTS["refused"] >= 1
    assert traffic.COUNTS["reset"] == 0


@pytest.mark.parametrize(
    ("reaction", "fault"),
    [
        (answer(3, "404 Not Found"), "status 404"),
        (answer(3, "500 Internal Server Error"), "status 500"),
        (answer(2), "answered 2, not 3.0"),
        (part_of_an_answer(1), "ConnectionResetError"),
        (part_of_an_answer(40), "ConnectionResetError"),
        (part_of_an_answer(len(response(3)) - 1), "ConnectionResetError"),
    ],
)
def test_an_error_a_wrong_answer_or_half_an_answer_is_a_loss(
    traffic: ModuleType, reaction: Reaction, fault: str
) -> None:
    with server(reaction, answer(3)) as address:
        assert fault in traffic.ask(address, "model", 3.0)
    assert traffic.COUNTS["reset"] == 0


@pytest.mark.parametrize(("reaction", "counter"), [(reset, "reset"), (None, "refused")])
def test_attempts_without_an_answer_are_a_loss_in_the_end(
    traffic: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    reaction: Reaction | None,
    counter: str,
) -> None:
    monkeypatch.setattr(traffic, "REPEAT_FOR_S", 0.2)
    if reaction is None:
        fault = traffic.ask(f"127.0.0.1:{free_port()}", "model", 3.0)
    else:
        with server(reaction) as address:
            fault = traffic.ask(address, "model", 3.0)
    assert f"no answer in 0.2 s of attempts, the last one was {counter}" in fault
    assert traffic.COUNTS[counter] >= 2
