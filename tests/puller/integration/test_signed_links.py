"""P9: the signature of a signed link is in no file that others may read, no log, no answer."""

from __future__ import annotations

import http.server
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.puller.processes import Puller, get

SECRET = "S1GNATUREthatOpensTheStore"


class _Signed(http.server.BaseHTTPRequestHandler):
    """Serves who has the signature; other paths fail in their own ways."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        if f"sig={SECRET}" not in self.path:
            status, body = 403, b""
        elif self.path.startswith("/garbled"):
            self.wfile.write(b"this is not HTTP\r\n\r\n")
            self.close_connection = True
            return
        elif self.path.startswith("/missing"):
            status, body = 404, b""
        else:
            status, body = 200, b"w" * 1000
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD = _answer  # noqa: N815 - the names of the base class

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Signed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_p9_a_signature_is_in_no_file_that_others_may_read(tmp_path: Path, store: str) -> None:
    puller = Puller(tmp_path, flags=("--log-level", "debug"))
    puller.start()
    try:
        for path in ("good", "missing", "garbled"):
            puller.put(path, f"{store}/{path}/model.bin?sig={SECRET}")
        puller.wait("good", 30, state="Loaded")
        for path in ("missing", "garbled"):
            puller.wait(path, 30, state="Failed")
        shown = b"".join(get(f"{puller.url}/{page}")[1] for page in ("status", "metrics"))
        puller.terminate()
    finally:
        puller.kill()
    assert SECRET.encode() not in shown
    assert SECRET not in puller.log.read_text()
    holders = [
        path
        for path in (tmp_path / "volume").rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    # what a restarted puller needs to fetch again is the puller's alone
    assert [path.name for path in holders] == ["held.json"]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600
    assert "sig=" not in (puller.models / "good" / ".trainedmodel.json").read_text()
