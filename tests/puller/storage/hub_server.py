"""A stand-in for Hugging Face's hub: its HTTP API, as its official client asks for it.

`test_hub.py` has the official client list and download from it, which is what keeps it faithful.
Large files are not served by the hub itself but by a content server at another origin, by a signed
address. A repository's history is a list of commits; branches and tags point to them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from puller.storage.servers import RawServer, Request
from trainedmodel_contract.uri import StorageUri, parse_uri

TOKEN = "hf_good"
#: Whose owner may read everything but what is gated.
STRANGER_TOKEN = "hf_stranger"
LARGE = 1000
PAGE = 3


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    is_private: bool = False
    is_gated: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        named = sorted((name, sha256(content)) for name, content in files.items())
        sha = hashlib.sha1(repr((named, len(self.commits))).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs |= dict.fromkeys(refs or ("main",), sha)
        return sha

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.refs.get(revision, revision))


class Hub:
    """The hub and its content server; an async context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.api = RawServer(self._answer)
        self.content = RawServer(self._serve_content)
        #: Replaces what the content server sends of a file, by its SHA-256.
        self.lies: dict[str, bytes] = {}
        #: Where `Link` headers lead to; the hub itself if empty.
        self.links_to = ""

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        for server in (self.api, self.content):
            await self._stack.enter_async_context(server)
        self.url = f"http://127.0.0.1:{self.api.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def repository(
        self, name: str, *, is_private: bool = False, is_gated: bool = False
    ) -> Repository:
        made = Repository(is_private=is_private, is_gated=is_gated)
        return self.repositories.setdefault(name, made)

    async def _answer(self, request: Request) -> None:
        target = urlsplit(request.target)
        parts = target.path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        rest = [unquote(part) for part in (parts[4:] if is_api else parts[2:])]
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        repository = self.repositories.get(name)
        if token not in {"", TOKEN, STRANGER_TOKEN}:
            await _refuse(request, 401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.is_private and token != TOKEN):
            if token:
                await _refuse(request, 404, "RepoNotFound", "Repository not found")
            else:
                await _refuse(request, 401, "RepoNotFound", "Invalid username or password.")
        elif is_api:
            query = parse_qs(target.query)
            await self._answer_api(request, repository, name, rest, query)
        elif repository.is_gated and token != TOKEN:
            await _refuse(request, 403 if token else 401, "GatedRepo", "Access is restricted")
        else:
            await self._resolve(request, repository, rest)

    async def _answer_api(
        self,
        request: Request,
        repository: Repository,
        name: str,
        rest: list[str],
        query: dict[str, list[str]],
    ) -> None:
        verb, revision, *path = rest or ["revision", "main"]
        files = repository.files(revision)
        if files is None:
            await _refuse(request, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif verb == "revision":
            sha = repository.refs.get(revision, revision)
            await _json(request, {"id": name, "modelId": name, "sha": sha, "siblings": []})
        else:
            is_deep = query.get("recursive") in (["true"], ["True"])
            found = _tree(files, "/".join(path), is_deep=is_deep)
            if found is None:
                await _refuse(request, 404, "EntryNotFound", "does not exist")
                return
            start = int(query.get("cursor", ["0"])[0])
            page, link = found[start : start + PAGE], ""
            if start + PAGE < len(found):
                path_only = request.target.split("?")[0]
                more = f"recursive={query['recursive'][0]}&cursor={start + PAGE}"
                link = f'<{self.links_to or self.url}{path_only}?{more}>; rel="next"'
            await _json(request, page, link)

    async def _resolve(self, request: Request, repository: Repository, rest: list[str]) -> None:
        _, revision, *path = rest
        content = (repository.files(revision) or {}).get("/".join(path))
        if content is None:
            await _refuse(request, 404, "EntryNotFound", "Entry not found")
            return
        commit = repository.refs.get(revision, revision)
        if len(content) < LARGE:
            await request.serve(content, f'"{git_hash(content)}"', X_Repo_Commit=commit)
            return
        sha = sha256(content)
        self.lies.setdefault(sha, content)
        await request.answer(
            302,
            Location=f"http://127.0.0.1:{self.content.port}/{sha}?Signature=SECRET",
            X_Repo_Commit=commit,
            X_Linked_Size=len(content),
            X_Linked_Etag=f'"{sha}"',
        )

    async def _serve_content(self, request: Request) -> None:
        sha = urlsplit(request.target).path.strip("/")
        await request.serve(self.lies[sha], '"of the content server"')


def hub_uri(text: str) -> StorageUri:
    return parse_uri(f"hf://{text}")


@functools.cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@functools.cache
def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree(files: dict[str, bytes], folder: str, *, is_deep: bool) -> list[dict[str, Any]] | None:
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, content in files.items():
        if not path.startswith(prefix):
            continue
        below = path.removeprefix(prefix).split("/")
        for depth in range(1, len(below)):
            name = prefix + "/".join(below[:depth])
            oid = hashlib.sha1(name.encode()).hexdigest()
            if is_deep or depth == 1:
                found[name] = {"type": "directory", "oid": oid, "size": 0, "path": name}
        if is_deep or len(below) == 1:
            found[path] = _file(path, content)
    return [found[name] for name in sorted(found)] if found or not folder else None


def _file(path: str, content: bytes) -> dict[str, Any]:
    size = len(content)
    entry = {"type": "file", "oid": git_hash(content), "size": size, "path": path}
    if size >= LARGE:
        sha = sha256(content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n"
        entry["oid"] = git_hash(pointer.encode())
        entry["lfs"] = {"oid": sha, "size": size, "pointerSize": len(pointer)}
    return entry


async def _json(request: Request, value: object, link: str = "") -> None:
    body = json.dumps(value).encode()
    await request.answer(200, body, Content_Type="application/json", Link=link)


async def _refuse(request: Request, status: int, code: str, words: str) -> None:
    await request.answer(
        status,
        json.dumps({"error": words}).encode(),
        X_Error_Code=code,
        X_Error_Message=words,
        Content_Type="application/json",
    )
