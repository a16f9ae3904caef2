"""Requests from within the cluster, to a Service's own address: run as a script in a pod.

It asks each model in turn, on a new connection each time, and checks the value of the answer. It
serves the counts on port 8000.

An inference changes nothing, so it may be sent again (RFC 9110, section 9.2.2). An attempt that
ended before the first byte of an answer is repeated for two seconds, as docs/migration.md asks of
clients. Two counters tell these attempts apart:

    refused   no connection: the pod listens no more, and the node's rules still lead to it
    reset     the connection was there, and the pod closed it before it answered: it took the
              connection into its queue, or read the request, and then stopped

Everything else is a failure: a status that is not 200, a wrong value, a connection that breaks
after the first byte of an answer, ten seconds of silence, no answer after two seconds of attempts.

Arguments: the Service's address, then NAME=FACTOR for each model.
"""

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
).encode()
COUNTS: dict[str, Any] = {"answered": 0, "refused": 0, "reset": 0, "failures": []}
STARTED = time.monotonic()
ANSWER_WITHIN_S = 10.0
REPEAT_FOR_S = 2.0
PAUSE_S = 0.05


class Unanswered(Exception):
    """An attempt ended before the first byte of an answer."""

    def __init__(self, counter: str, cause: str) -> None:
        super().__init__(f"{counter}: {cause}")
        self.counter = counter


class CountsHandler(BaseHTTPRequestHandler):
    """Serves the counts."""

    def do_GET(self) -> None:
        """Answer with all counts."""
        body = json.dumps(COUNTS).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def ask(address: str, model: str, factor: float) -> str:
    """Ask until there is an answer; return what went wrong, if anything did."""
    deadline = time.monotonic() + REPEAT_FOR_S
    while True:
        connection = http.client.HTTPConnection(address, timeout=ANSWER_WITHIN_S)
        try:
            return attempt(connection, model, factor)
        except Unanswered as error:
            COUNTS[error.counter] += 1
            if time.monotonic() > deadline:
                return f"no answer in {REPEAT_FOR_S:g} s of attempts, the last one was {error}"
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            return repr(error)
        finally:
            connection.close()
        time.sleep(PAUSE_S)


def attempt(connection: http.client.HTTPConnection, model: str, factor: float) -> str:
    """Ask once; return what is wrong with the answer, if anything is.

    Raises:
        Unanswered: the attempt ended before the first byte of an answer.
    """
    try:
        connection.connect()
    except ConnectionResetError as error:  # accepted and closed before connect() has returned
        raise Unanswered("reset", repr(error)) from None
    except OSError as error:
        raise Unanswered("refused", repr(error)) from None
    # A server may answer and close before it has read everything: the answer counts, if one came.
    with contextlib.suppress(ConnectionError):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"/v2/models/{model}/infer", BODY, headers)
    try:
        first_byte = connection.sock.recv(1, socket.MSG_PEEK)
    except ConnectionError as error:
        raise Unanswered("reset", repr(error)) from None
    if not first_byte:
        raise Unanswered("reset", "closed without an answer")
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        return f"status {answer.status}"
    value = json.loads(body)["outputs"][0]["data"][0]
    return "" if value == factor else f"answered {value!r}, not {factor!r}"


def main() -> None:
    """Ask without a pause."""
    address, models = sys.argv[1], [word.rpartition("=") for word in sys.argv[2:]]
    server = HTTPServer(("", 8000), CountsHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        for model, _, factor in models:
            if fault := ask(address, model, float(factor)):
                at = round(time.monotonic() - STARTED, 2)
                COUNTS["failures"] = [*COUNTS["failures"][-500:], f"{at} {model}: {fault}"]
            else:
                COUNTS["answered"] += 1
            time.sleep(0.01)


if __name__ == "__main__":
    main()
