"""Free ports on loopback for servers that want to be told their port.

They come from below the range that the kernel uses for outgoing connections, so that a connection
made between the choice and the server's start cannot take one away.
"""

import random
import socket

_FIRST, _LAST = 20000, 32000
_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on, and that this process has not given out before."""
    for _ in range(1000):
        port = random.randint(_FIRST, _LAST)  # noqa: S311 - no secret
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError(f"no free port between {_FIRST} and {_LAST}")


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether somebody takes connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
