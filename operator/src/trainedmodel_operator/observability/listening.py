"""Where the operator listens: at every address of its pod, of both families where there are both.

Probes, scrapes and the API server come to the pod's address, which a cluster takes from either
family. Where IPv6 is switched off, asking for it is an error, so it is not insisted on.
"""

from __future__ import annotations

import contextlib
import socket

from trainedmodel_operator.errors import ConfigurationError


def listen_everywhere(port: int, flag: str) -> socket.socket:
    """Return a socket that listens on all addresses.

    Raises:
        ConfigurationError: the port cannot be had; names the flag that asked for it.
    """
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    try:
        return socket.create_server(("0.0.0.0", port))
    except OSError as error:
        raise ConfigurationError(f"cannot bind {flag} {port}: {error.strerror}") from error
