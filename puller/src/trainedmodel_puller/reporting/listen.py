"""The socket of the endpoints, on both address families."""

from __future__ import annotations

import contextlib
import socket


def listen_everywhere(port: int) -> socket.socket:
    """Return a socket that listens on all addresses of both families, where there are both.

    Probes use the pod's address, which may be of either family. If IPv6 is disabled, a socket for
    it would be an error.

    Raises:
        OSError: the port cannot be bound.
    """
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))
