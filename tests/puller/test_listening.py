"""Where the puller's own endpoints listen."""

from __future__ import annotations

import socket

import pytest
from trainedmodel_puller.reporting.listen import listen_everywhere


def test_a_probe_is_accepted_at_an_address_of_either_family() -> None:
    with listen_everywhere(0) as listening:
        port = listening.getsockname()[1]
        hosts = ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]
        for host in hosts:
            socket.create_connection((host, port), timeout=5).close()


def test_without_ipv6_the_other_family_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen_everywhere(0) as listening:
        assert listening.family is socket.AF_INET


def test_a_port_that_is_taken_is_an_error() -> None:
    with listen_everywhere(0) as listening, pytest.raises(OSError, match="in use"):
        listen_everywhere(listening.getsockname()[1])
