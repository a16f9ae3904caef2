"""A real puller whose sources hang, each in its own way, and what an innocent model notices.

`measure()` runs this file in namespaces of its own (network and mounts), in which DNS never answers
and two claims are file systems whose server never answers. Needs root, or the right to make user
namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from support.puller.processes import Puller, get

MODEL = b"w" * 1024 * 1024
#: How many innocent models are added, one after the other.
GOOD = 8
_SILENT_HOSTS = 6


@dataclass(frozen=True)
class Measured:
    """What the innocent noticed, in seconds.

    Attributes:
        hanging: Sources that hang.
        told: How many of those were told as failed, or are still tried, by the end.
        loaded: For each innocent model: from its entry to `Loaded`.
        healthz, status: The slowest answer of each.
        ended: From SIGTERM to the end of the process.
        code: Its exit code.
        left_behind: Calls that were left behind at the end.
    """

    hanging: int
    told: int
    loaded: list[float]
    healthz: float
    status: float
    ended: float
    code: int
    left_behind: float


def measure(timeout_s: float = 180) -> Measured:
    """Run this file in namespaces of its own, and read what it prints."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    folders = [str(Path(__file__).parents[2])]
    ran = subprocess.run(
        ["unshare", "--mount", "--net", *user, sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(ran.stderr.decode()[-6000:])
    return Measured(**json.loads(ran.stdout.splitlines()[-1]))


# -- strangers that hang ---------------------------------------------------------------------


class Stranger:
    """A TCP server on loopback that treats each connection as one function says."""

    def __init__(self, treat: Callable[[socket.socket, bytes], None], *, reads: bool = True):
        self._treat = treat
        self._reads = reads
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            taken, _ = self._socket.accept()
            threading.Thread(target=self._talk, args=(taken,), daemon=True).start()

    def _talk(self, taken: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                head = b""
                while self._reads and b"\r\n\r\n" not in head:
                    more = taken.recv(65536)
                    if not more:
                        return
                    head += more
                self._treat(taken, head)


def say_nothing(taken: socket.socket, _: bytes) -> None:
    """Keep the connection and never say a word."""
    while taken.recv(65536):
        pass


def stall(taken: socket.socket, head: bytes) -> None:
    """Send one byte of a body of a megabyte."""
    taken.sendall(
        b'HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\nETag: "1"\r\nAccept-Ranges: bytes\r\n'
        b"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
    )
    if not head.startswith(b"HEAD"):
        taken.sendall(b"x")
        say_nothing(taken, head)


def serve(taken: socket.socket, head: bytes) -> None:
    """Serve a good model."""
    body = b"" if head.startswith(b"HEAD") else MODEL
    taken.sendall(
        b'HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\nETag: "1"\r\n'
        b"Accept-Ranges: bytes\r\n\r\n" + body
    )


def list_for_ever(taken: socket.socket, _: bytes) -> None:
    """Send a page of a listing each second, with no end."""
    time.sleep(1)
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>n"
        b"</NextContinuationToken><Contents><Key>m/%d</Key><Size>1</Size><ETag>1</ETag>"
        b"<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"
    ) % time.monotonic_ns()
    taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page) + page)


def redirect(target: str) -> Callable[[socket.socket, bytes], None]:
    """Send everybody elsewhere; an empty target is the same address."""

    def treat(taken: socket.socket, head: bytes) -> None:
        place = target.encode() or head.split(b" ", 2)[1]
        taken.sendall(b"HTTP/1.1 302 Go\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % place)

    return treat


def refuse_to_accept() -> int:
    """Return a port whose queue is full: connections to it are never made."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    keep = [full]
    for _ in range(4):
        waiting = socket.socket()
        waiting.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            waiting.connect(full.getsockname())
        keep.append(waiting)
    _KEPT.extend(keep)
    port: int = full.getsockname()[1]
    return port


_KEPT: list[socket.socket] = []


@contextlib.contextmanager
def hung_folder(path: Path) -> Iterator[None]:
    """Mount a FUSE file system on a folder; its server, this process, never answers."""
    path.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"hung", str(path).encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "the file system cannot be mounted")
    try:
        yield
    finally:
        libc.umount2(str(path).encode(), 2)
        os.close(fd)


def silence_dns(folder: Path) -> None:
    """Have every lookup of a name wait for a server that never answers."""
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up
    conf = folder / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:2\n")
    subprocess.run(["mount", "--bind", str(conf), "/etc/resolv.conf"], check=True)
    hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    hole.bind(("127.0.0.1", 53))
    _KEPT.append(hole)


# -- the sources -----------------------------------------------------------------------------


def _write_profile(folder: Path, name: str, **values: str) -> str:
    (folder / name).mkdir(parents=True)
    for variable, value in values.items():
        (folder / name / variable).write_text(value)
    return name


def hanging(profiles: Path) -> Iterator[tuple[str, str | None]]:
    """Yield URI and credential profile of each source that hangs."""
    mute, deaf = Stranger(say_nothing), Stranger(say_nothing, reads=False)
    key = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}

    def s3(name: str, url: str) -> str:
        return _write_profile(profiles, name, AWS_ENDPOINT_URL=url, **key)

    for number in range(_SILENT_HOSTS):
        yield f"http://store{number}.models.example/m/model.bin", None
    yield "s3://models/dns", s3("dns", "http://s3.models.example")
    yield "s3://models/dns2", s3("dns2", "http://s3-2.models.example")
    yield f"http://127.0.0.1:{refuse_to_accept()}/model.bin", None
    yield "s3://models/connect", s3("connect", f"http://127.0.0.1:{refuse_to_accept()}")
    yield f"https://127.0.0.1:{deaf.port}/model.bin", None  # TLS handshake
    yield "s3://models/tls", s3("tls", f"https://127.0.0.1:{deaf.port}")
    yield f"{mute.url}/headers.bin", None
    yield "s3://models/headers", s3("headers", mute.url)
    yield f"{Stranger(stall).url}/body.bin", None
    yield "s3://models/body.bin", s3("body", Stranger(stall).url)
    yield "s3://models/m", s3("endless", Stranger(list_for_ever).url)
    yield f"{Stranger(redirect('')).url}/loop.bin", None
    yield f"{Stranger(redirect(f'{mute.url}/x')).url}/away.bin", None
    yield "pvc://hung/m", None
    yield "pvc://hung2/m/model.bin", None
    yield "hf://org/model", _write_profile(profiles, "hub", HF_TOKEN="x", HF_ENDPOINT=mute.url)
    for name, proxy in (("proxy", mute.url), ("proxy2", f"http://127.0.0.1:{refuse_to_accept()}")):
        way = {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
        yield "https://far.models.example/model.bin", _write_profile(profiles, name, **way)
        yield (
            "s3://models/proxy",
            _write_profile(
                profiles, f"s3-{name}", AWS_ENDPOINT_URL="https://far.models.example", **key, **way
            ),
        )
    token = _write_profile(
        profiles,
        "token",
        AWS_REGION="us-east-1",
        AWS_ENDPOINT_URL=Stranger(serve).url,
        AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{mute.url}/credentials",
    )
    yield "s3://models/token", token


# -- the measurement -------------------------------------------------------------------------


class _Asker(threading.Thread):
    """Asks one path again and again, and notes the slowest answer."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.slowest = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            began = time.monotonic()
            status, _ = get(self._url, 60)
            assert status == 200
            self.slowest = max(self.slowest, time.monotonic() - began)


def _left_behind(puller: Puller) -> float:
    text = get(f"{puller.url}/metrics")[1].decode()
    lines = [line for line in text.splitlines() if line.startswith("trainedmodel_puller_left_be")]
    return float(lines[0].split()[-1]) if lines else -1.0


def _measure(root: Path) -> Measured:
    silence_dns(root)
    with hung_folder(root / "claims" / "hung"), hung_folder(root / "claims" / "hung2"):
        flags = (
            *("--pvc-root", str(root / "claims")),
            *("--credentials-dir", str(root / "profiles")),
            *("--stall-timeout", "8"),
        )
        puller = Puller(root, flags=flags)
        sources = list(hanging(root / "profiles"))
        good = Stranger(serve)
        puller.start()
        try:
            for number, (uri, profile) in enumerate(sources):
                more = {} if profile is None else {"credentials": profile}
                puller.put(f"bad{number}", uri, **more)
            askers = [_Asker(f"{puller.url}/{path}") for path in ("healthz", "status")]
            for asker in askers:
                asker.start()
            time.sleep(3)  # all of them hang
            loaded = []
            for number in range(GOOD):
                began = time.monotonic()
                puller.put(f"good{number}", f"{good.url}/good{number}/model.bin")
                puller.wait(f"good{number}", 60, state="Loaded")
                loaded.append(time.monotonic() - began)
                time.sleep(1.5)
            for asker in askers:
                asker.ended.set()
                asker.join(70)
            models = (puller.status() or {})["models"]
            bad = [model for name, model in models.items() if name.startswith("bad")]
            left = _left_behind(puller)
            code, ended = puller.terminate()
        finally:
            puller.kill()
        if os.environ.get("SHOW_LOG"):
            sys.stderr.write(puller.log.read_text())
        return Measured(
            hanging=len(sources),
            told=sum(model["state"] in {"Failed", "Downloading"} for model in bad),
            loaded=[round(seconds, 3) for seconds in loaded],
            healthz=round(askers[0].slowest, 3),
            status=round(askers[1].slowest, 3),
            ended=round(ended, 3),
            code=code,
            left_behind=left,
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="trainedmodel-hanging-") as _root:
        sys.stdout.write(json.dumps(asdict(_measure(Path(_root)))) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the strangers' threads wait for ever
