"""Stand-ins of servers that tests cannot run, or not in seconds: their words, none of their work.

vLLM's behaviour and words were measured on 0.32, and its driver runs against the real one as well
(`integration/test_vllm.py`). SGLang, TensorFlow Serving and OpenVINO Model Server were only read,
in sources and documentation: what passes here may still fail there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from trainedmodel_puller.drivers.config_format import ConfigFormat
from trainedmodel_puller.drivers.ovms import OvmsConfigText
from trainedmodel_puller.drivers.tfs_config import TfsConfigText

Json = dict[str, Any]


def write_adapter(folder: Path, *, weights: str = "fine", rank: int = 8) -> Path:
    """Write what the stand-ins take for an adapter; weights that are `broken` do not load."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_text(weights)
    return folder


class StandInVLLM:
    """What vLLM says to those who load and unload adapters."""

    owner = "vllm"
    max_rank = 16

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.has_lora = True
        self.metrics = ""
        #: Told of each call before it is answered; may answer it instead.
        self.before: Callable[[str, str], web.Response | None] = lambda _call, _name: None

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._ok)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        return app

    async def _ok(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _models(self, _: web.Request) -> web.Response:
        def row(name: str, root: str, parent: str | None) -> Json:
            return {"id": name, "owned_by": self.owner, "root": root, "parent": parent}

        rows = [row("base", "/base", None)]
        rows += [row(name, root, "base") for name, root in self.adapters.items()]
        return web.json_response({"object": "list", "data": rows})

    async def _load(self, request: web.Request) -> web.Response:
        if not self.has_lora:
            return web.json_response({"detail": "Not Found"}, status=404)
        body = await request.json()
        name, root = body["lora_name"], body["lora_path"]
        self.calls.append(("load", name))
        if (answer := self.before("load", name)) is not None:
            return answer
        fault = self._fault_of(name, Path(root))
        if fault is not None:
            return web.json_response({"error": {"message": fault[1]}}, status=fault[0])
        self.adapters[name] = root
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    def _fault_of(self, name: str, root: Path) -> tuple[int, str] | None:
        if name == "base":
            return 400, "The lora adapter 'base' conflicts with a served base model."
        if name in self.adapters:
            return 400, (
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        try:
            rank = json.loads((root / "adapter_config.json").read_text())["r"]
            weights = (root / "adapter_model.safetensors").read_text()
        except FileNotFoundError:
            return 404, f"Loading lora {name} failed: No adapter found for <path>"
        failed = "Call to add_lora method failed: Worker failed with error "
        if rank > self.max_rank:
            return 500, f"{failed}'LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.'"
        if weights == "broken":
            return 500, f"{failed}'Error while deserializing header: invalid header length'"
        return None

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.calls.append(("unload", name))
        if (answer := self.before("unload", name)) is not None:
            return answer
        if self.adapters.pop(name, None) is None:
            message = f"The lora adapter '{name}' cannot be found."
            return web.json_response({"error": {"message": message}}, status=404)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


class StandInSGLang(StandInVLLM):
    """What SGLang says, by its sources."""

    owner = "sglang"

    def __init__(self) -> None:
        super().__init__()
        self.max_loaded: int | None = None

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/model_info", self._info)
        app.router.add_get("/server_info", self._server_info)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/load_lora_adapter", self._load)
        app.router.add_post("/unload_lora_adapter", self._unload)
        return app

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response({"model_path": "/base", "is_generation": True})

    async def _server_info(self, _: web.Request) -> web.Response:
        return web.json_response({"max_loaded_loras": self.max_loaded, "version": "0.5"})

    async def _load(self, request: web.Request) -> web.Response:
        return self._as_result(await super()._load(request))

    async def _unload(self, request: web.Request) -> web.Response:
        return self._as_result(await super()._unload(request))

    def _as_result(self, answer: web.Response) -> web.Response:
        is_ok = answer.status == 200
        said = "" if is_ok else json.loads(answer.text or "{}")["error"]["message"]
        while self.max_loaded is not None and len(self.adapters) > self.max_loaded:
            del self.adapters[next(iter(self.adapters))]
        result = {"success": is_ok, "error_message": said, "loaded_adapters": self.adapters}
        return web.json_response(result, status=200 if is_ok else 400)


class StandInTfs:
    """What TensorFlow Serving does with its configuration file and says of versions.

    A version folder with a file `broken` in it does not load.
    """

    format: ConfigFormat = TfsConfigText()

    def __init__(self, config: Path) -> None:
        self.config = config
        self.versions: dict[str, dict[int, Json]] = {}
        self.history: list[dict[str, tuple[int, ...]]] = []
        self.is_reading = True
        self.is_stuck = False

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models/{name}", self._model)
        app.cleanup_ctx.append(self._polling)
        return app

    async def _polling(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._poll())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _poll(self) -> None:
        while True:
            if self.is_reading:
                self.read()
            await asyncio.sleep(0.02)

    def read(self) -> None:
        try:
            text = self.config.read_text()
        except FileNotFoundError:
            return
        if not text.strip():
            return  # no configuration at all: no action
        asked = {name: row.versions for name, row in self.format.rows(text).items()}
        if not self.history or self.history[-1] != asked:
            self.history.append(asked)
        for name, row in self.format.rows(text).items():
            for version in row.versions:
                self._bring_up(name, version, Path(row.base_path) / str(version))
        for name, statuses in self.versions.items():
            for version in [v for v in statuses if v not in asked.get(name, ())]:
                if statuses[version]["state"] != "END":
                    statuses[version] = _status(version, "END")
                statuses[version]["asked"] = False

    def _bring_up(self, name: str, version: int, folder: Path) -> None:
        known = self.versions.setdefault(name, {})
        status = known.get(version)
        if status is not None and status["state"] != "LOADING" and status["asked"]:
            return
        if not folder.is_dir():
            return
        if self.is_stuck:
            known[version] = _status(version, "LOADING")
        elif (folder / "broken").exists():
            known[version] = self._failed(version)
        else:
            known[version] = _status(version, "AVAILABLE")

    def _failed(self, version: int) -> Json:
        return _status(version, "END", "DATA_LOSS", "Can't parse saved_model.pb as binary proto")

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not self.versions.get(name):
            error = f"Could not find any versions of model {name}"
            return web.json_response({"error": error}, status=404)
        return web.json_response({"model_version_status": list(self.versions[name].values())})


class StandInOvms(StandInTfs):
    """What OpenVINO Model Server says, by its documentation: the file is read when told to."""

    format = OvmsConfigText()

    def __init__(self, config: Path) -> None:
        super().__init__(config)
        self.is_reading = False
        self.reloads = 0

    def application(self) -> web.Application:
        app = super().application()
        app.router.add_get("/v1/config", self._config)
        app.router.add_post("/v1/config/reload", self._reload)
        return app

    def _failed(self, version: int) -> Json:
        return _status(version, "LOADING", "UNKNOWN", "UNKNOWN")

    async def _model(self, _: web.Request) -> web.Response:
        return web.json_response({"error": "Model with requested name is not found"}, status=404)

    async def _config(self, _: web.Request) -> web.Response:
        told = {
            name: {"model_version_status": list(statuses.values())}
            for name, statuses in self.versions.items()
        }
        return web.json_response(told)

    async def _reload(self, request: web.Request) -> web.Response:
        self.reloads += 1
        self.read()
        all_statuses = [one for some in self.versions.values() for one in some.values()]
        if any(one["state"] == "LOADING" for one in all_statuses):
            error = "Reloading config file failed. Check server logs for more info."
            return web.json_response({"error": error}, status=412)
        answer = await self._config(request)
        answer.set_status(201)
        return answer


def _status(version: int, state: str, code: str = "OK", message: str = "") -> Json:
    status = {"error_code": code, "error_message": message}
    return {"version": str(version), "state": state, "status": status, "asked": True}


@asynccontextmanager
async def running(application: web.Application) -> AsyncIterator[str]:
    """Run a stand-in; gives its address."""
    async with TestServer(application) as server:
        yield str(server.make_url("")).rstrip("/")


def recorded(answers: dict[str, tuple[int, str]], software: str = "") -> web.Application:
    """Make a server that says what a real one said; all other paths are 404."""

    async def answer(request: web.Request) -> web.Response:
        status, body = answers.get(request.path, (404, '{"detail":"Not Found"}'))
        headers = {"Server": software} if software else {}
        kind = "application/json" if re.match(r"\s*[\[{]", body) else "text/plain"
        return web.Response(status=status, text=body, content_type=kind, headers=headers)

    application = web.Application()
    application.router.add_get("/{tail:.*}", answer)
    return application
