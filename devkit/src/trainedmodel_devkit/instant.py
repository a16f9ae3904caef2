"""A stand-in for a model server that loads in no time, for what no real one can show.

It speaks the v2 repository protocol as Triton does, believes every load, and remembers what it was
asked. Names choose their behaviour, so that no configuration is needed:

    broken-*   load answers 400
    hang-*     load never answers
    slow-*     load answers after a second

    python -m trainedmodel_devkit.instant --port 8000

`GET /count` returns how many models are loaded. `GET /asked` returns how often each call was made,
and what made no sense: a second load of a name while one was under way, an unload of a name that is
not loaded.
"""

import argparse
import asyncio
import json
import signal
from collections import Counter
from typing import Any

_WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found"}


class InstantServer:
    """The models of one server, and what it was asked."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.loading: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.insane: list[str] = []

    async def answer(self, method: str, path: str) -> tuple[int, Any]:
        """Answer one request."""
        answer: tuple[int, Any] = (404, {"error": path})
        match [method, *path.strip("/").split("/")]:
            case ["GET", "v2", "health", _]:
                answer = self._note("health", 200, None)
            case ["POST", "v2", "repository", "index"]:
                rows = [{"name": name, "state": "READY"} for name in sorted(self.loaded)]
                answer = self._note("index", 200, rows)
            case ["POST", "v2", "repository", "models", name, "load"]:
                answer = await self._load(name)
            case ["POST", "v2", "repository", "models", name, "unload"]:
                if name not in self.loaded:
                    self.insane.append(f"unload of {name}, which is not loaded")
                self.loaded.discard(name)
                answer = self._note("unload", 200, None)
            case ["GET", "v2", "models", name, "ready"]:
                answer = self._note("ready", 200 if name in self.loaded else 400, None)
            case ["GET", "count"]:
                answer = (200, len(self.loaded))
            case ["GET", "asked"]:
                told = {"asked": self.asked, "insane": self.insane, "loaded": sorted(self.loaded)}
                answer = (200, told)
        return answer

    def _note(self, call: str, status: int, body: Any) -> tuple[int, Any]:
        self.asked[call] += 1
        return status, body

    async def _load(self, name: str) -> tuple[int, Any]:
        self.asked["load"] += 1
        if name in self.loading:
            self.insane.append(f"second load of {name} while one is under way")
        if name.startswith("broken-"):
            return 400, {"error": f"load failed for model '{name}': it is broken"}
        self.loading.add(name)
        try:
            if name.startswith("hang-"):
                await asyncio.sleep(3600)
            if name.startswith("slow-"):
                await asyncio.sleep(1)
        finally:
            self.loading.discard(name)
        self.loaded.add(name)
        return 200, None


async def _converse(
    server: InstantServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {
                key.lower(): value.strip()
                for key, _, value in (line.partition(":") for line in head[1:])
            }
            await reader.readexactly(int(fields.get("content-length", 0)))
            method, path, _ = head[0].split(" ")
            status, body = await server.answer(method, path)
            content = b"" if body is None else json.dumps(body).encode()
            writer.write(
                f"HTTP/1.1 {status} {_WORDS[status]}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(content)}\r\n\r\n".encode()
                + content
            )
            await writer.drain()
            if fields.get("connection", "").lower() == "close":
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    server = InstantServer()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listening = await asyncio.start_server(
        lambda reader, writer: _converse(server, reader, writer), "127.0.0.1", port, backlog=1024
    )
    await stop.wait()
    listening.close()


def main() -> None:
    """Parse the port and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
