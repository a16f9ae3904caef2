"""Detection of the model server's kind (`--server auto`).

A server is recognised by answers that no other server gives. They were recorded from real servers;
those of SGLang, TensorFlow Serving and OpenVINO Model Server are from their sources. Several
servers imitate paths of another (`/v1/models` has five meanings). So a name is enough only if no
other server uses it; otherwise two answers must agree.

Detection never guesses. If no answer comes in time, if the answers fit no known server, or if two
servers answer, the result is None and the caller tries again. An address that only serves
predictions, such as TorchServe's 8080, does not match: the driver cannot load models there.

Only GET requests are sent, to paths that these servers have. Each is at most a 404 to the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import structlog

from trainedmodel_puller.drivers.client import parsed

log: Final = structlog.get_logger()

#: The default addresses of the known kinds.
DEFAULT_URLS: Final = (
    "http://127.0.0.1:8080",  # MLServer, KServe, llama-server
    "http://127.0.0.1:8000",  # Triton, vLLM, OpenVINO Model Server
    "http://127.0.0.1:8081",  # management of TorchServe and Multi Model Server
    "http://127.0.0.1:8501",  # TensorFlow Serving
    "http://127.0.0.1:30000",  # SGLang
)

#: Time limit for all answers of one server, in seconds.
TIMEOUT_S: Final = 3.0
_MAX_BODY: Final = 4 * 1024 * 1024
#: A model that does not exist. Each server words this error differently.
_NOBODY: Final = "/v1/models/trainedmodel-nobody"


@dataclass(frozen=True, slots=True)
class Identity:
    """A detected server.

    Attributes:
        kind: As in `--server`.
        url: Its address.
    """

    kind: str
    url: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    software: str
    document: Any

    def get(self, key: str) -> Any:
        """Return a field of the document; None if it is not an object or lacks the field."""
        return self.document.get(key) if isinstance(self.document, dict) else None


#: Answers by path, without the paths that were not answered in time.
_Answers = Mapping[str, _Answer]
_NOTHING: Final = _Answer(0, "", None)


async def identify(url: str | None = None, *, timeout_s: float = TIMEOUT_S) -> Identity | None:
    """Detect the server at `url`, or at one of the default addresses.

    Returns:
        Kind and address; None if no server answers, the answers fit no known server, or more than
        one server answers.
    """
    urls = DEFAULT_URLS if url is None else (url.rstrip("/"),)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        asked = await asyncio.gather(*(_identify_one(session, one, timeout_s) for one in urls))
    found = [identity for identity in asked if identity is not None]
    if len(found) > 1:
        log.warning(
            "servers_ambiguous",
            servers=[f"{one.kind} at {one.url}" for one in found],
            fix="set --server and --server-url",
        )
    return found[0] if len(found) == 1 else None


async def _identify_one(
    session: aiohttp.ClientSession, url: str, timeout_s: float
) -> Identity | None:
    try:
        async with asyncio.timeout(timeout_s):
            answers = await _ask_all(session, url)
    except TimeoutError:
        return None
    kinds = [kind for kind, matches in _MATCHERS.items() if matches(answers)]
    return Identity(kinds[0], url) if len(kinds) == 1 else None


async def _ask_all(session: aiohttp.ClientSession, url: str) -> _Answers:
    """Ask the first path alone: often it is enough, or shows that no server listens."""
    first, *others = _PATHS
    answer = await _ask(session, url + first)
    if answer is None:
        return {}
    if _is_named_v2(answer):
        return {first: answer}
    said = await asyncio.gather(*(_ask(session, url + path) for path in others))
    pairs = zip(_PATHS, (answer, *said), strict=True)
    return {path: answer for path, answer in pairs if answer is not None}


async def _ask(session: aiohttp.ClientSession, url: str) -> _Answer | None:
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MAX_BODY:
                    return None
            software = response.headers.get("Server", "")
            return _Answer(response.status, software, _read(body))
    except (aiohttp.ClientError, OSError, ValueError):
        return None


def _read(body: bytes) -> Any:
    try:
        return parsed(body)
    except ValueError:
        return None


# -- answers that only one server gives -------------------------------------------------


def _is_named_v2(answer: _Answer) -> bool:
    return answer.status == 200 and str(answer.get("name")) in {"triton", "mlserver", "kserve"}


def _is_v2(name: str) -> Callable[[_Answers], bool]:
    def matches(answers: _Answers) -> bool:
        said = answers.get("/v2", _NOTHING)
        return said.status == 200 and said.get("name") == name

    return matches


def _is_managed(title: str) -> Callable[[_Answers], bool]:
    """Match a management address: by its description, and by a list that predictions lack."""

    def matches(answers: _Answers) -> bool:
        info = answers.get("/api-description", _NOTHING).get("info")
        listed = answers.get("/models", _NOTHING)
        is_titled = isinstance(info, dict) and info.get("title") == title
        return is_titled and listed.status == 200 and isinstance(listed.get("models"), list)

    return matches


def _is_llama(answers: _Answers) -> bool:
    props, listed = answers.get("/props", _NOTHING), answers.get("/models", _NOTHING)
    is_router = props.get("role") == "router" and isinstance(listed.get("data"), list)
    return is_router and props.software == "llama.cpp"


def _is_owner(answers: _Answers, owner: str) -> bool:
    rows = answers.get("/v1/models", _NOTHING).get("data")
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, dict) and row.get("owned_by") == owner for row in rows)
    )


def _is_vllm(answers: _Answers) -> bool:
    said = answers.get("/version", _NOTHING)
    return said.status == 200 and bool(said.get("version")) and _is_owner(answers, "vllm")


def _is_sglang(answers: _Answers) -> bool:
    infos = [answers.get(path, _NOTHING) for path in ("/model_info", "/get_model_info")]
    has_info = any(said.status == 200 and said.get("model_path") for said in infos)
    return has_info and _is_owner(answers, "sglang")


def _is_tfs(answers: _Answers) -> bool:
    said = answers.get(_NOBODY, _NOTHING)
    words = str(said.get("error"))
    return said.status == 404 and "Could not find any versions of model" in words


def _is_ovms(answers: _Answers) -> bool:
    said, config = answers.get(_NOBODY, _NOTHING), answers.get("/v1/config", _NOTHING)
    is_unknown = "Model with requested name is not found" in str(said.get("error"))
    return is_unknown and config.status == 200 and isinstance(config.document, dict)


_PATHS: Final = (
    "/v2",
    "/v1/models",
    _NOBODY,
    "/v1/config",
    "/version",
    "/model_info",
    "/get_model_info",
    "/models",
    "/api-description",
    "/props",
)
_MATCHERS: Final[Mapping[str, Callable[[_Answers], bool]]] = {
    "triton": _is_v2("triton"),
    "mlserver": _is_v2("mlserver"),
    "kserve": _is_v2("kserve"),
    "torchserve": _is_managed("TorchServe APIs"),
    "mms": _is_managed("Model Server APIs"),
    "llama": _is_llama,
    "vllm": _is_vllm,
    "sglang": _is_sglang,
    "tfs": _is_tfs,
    "ovms": _is_ovms,
}
