"""Requests from within the cluster, by a Service's own address: run as a script, in a pod.

It asks each model in turn, on a new connection each time, and tells on port 8000 what came of it.
A connection that is refused, before a request was sent, is tried again for two seconds, as any
ingress does: a pod that is being stopped refuses until the node's rules are without it.
Arguments: the Service's address, then the models' names.
"""

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
).encode()
TOLD: dict[str, Any] = {"answered": 0, "refused": 0, "failures": []}
STARTED = time.monotonic()
CONNECT_FOR_S = 2.0


class Teller(BaseHTTPRequestHandler):
    """Tells the numbers."""

    def do_GET(self) -> None:
        """Answer with all numbers."""
        body = json.dumps(TOLD).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def ask(address: str, model: str) -> str:
    """Ask once; return what went wrong, if anything did."""
    connection = http.client.HTTPConnection(address, 80, timeout=10)
    try:
        connect(connection)
        path = f"/v2/models/{model}/infer"
        connection.request("POST", path, BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
    return "" if answer.status == 200 else f"status {answer.status}"


def connect(connection: http.client.HTTPConnection) -> None:
    """Connect, and count what was refused."""
    deadline = time.monotonic() + CONNECT_FOR_S
    while True:
        try:
            return connection.connect()
        except ConnectionRefusedError:
            TOLD["refused"] += 1
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    """Ask without rest."""
    address, models = sys.argv[1], sys.argv[2:]
    server = HTTPServer(("", 8000), Teller)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        for model in models:
            if fault := ask(address, model):
                at = round(time.monotonic() - STARTED, 2)
                TOLD["failures"] = [*TOLD["failures"][-500:], f"{at} {model}: {fault}"]
            else:
                TOLD["answered"] += 1
            time.sleep(0.01)


if __name__ == "__main__":
    main()
