"""Triton: quirks measured on 2.51.

- It must run with `--model-control-mode=explicit`. In any other mode load and unload are 503.
- A load of a loaded model does nothing, with status 200, unless Triton sees a newer time stamp. Of
  twelve swaps by exchange, half were skipped and the old weights kept serving. With the time stamps
  of the whole tree set to now before each load, 24 of 24 loads were effective. Hence `touch`.
- Unload returns 200 at once and takes 1.3-2 s. The index says UNLOADING, then UNAVAILABLE.
- Unload of an unknown model is 200. `ready` is 400 for each model that is not ready.
- Each load holds one of 8 HTTP threads. Ten slow loads blocked `/live` for 21 s, so at most four
  run at once.
- Index rows without a state were never loaded.
- `name:` in `config.pbtxt` must equal the folder's name or be absent. `prepare` removes it there
  and in `configs/`. The file need not be UTF-8: comments may hold any bytes, and `prepare` keeps
  them. Triton refuses a byte order mark and UTF-16 without giving a reason, so `prepare` writes
  plain UTF-8.
- An ensemble needs an empty version folder. Many stores lose it, so `prepare` makes it.
- A dangling link makes every index call fail. Downloads never make links.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import time
from pathlib import Path
from typing import Any

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.layouts import (
    TRITON_CONFIG,
    refuse_triton,
    triton_refusal,
    triton_versions,
)
from trainedmodel_puller.core.pbtxt import is_ensemble, without_name
from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import OBSERVE_TIMEOUT_S
from trainedmodel_puller.drivers.userfiles import (
    read_user_file,
    refused,
    replace_user_file,
)
from trainedmodel_puller.drivers.v2 import INDEX_PATH, RepositoryServer


class Triton(RepositoryServer):
    """One Triton Inference Server in explicit mode."""

    kind = "triton"

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Require a version folder, or the files of an ensemble."""
        return refuse_triton(shape)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Check for a version folder, and remove the name from the configurations.

        Raises:
            ServerFault: InvalidLayout; there is no numbered version folder.
        """
        shape = self._checked_shape(tree, entry)
        content = read_user_file(tree, TRITON_CONFIG)
        is_changed = False
        if not triton_versions(shape):
            if not is_ensemble(_text_of(TRITON_CONFIG, content or b"")):
                raise refused(triton_refusal(shape))
            (tree / "1").mkdir()
            is_changed = True
        contents = {TRITON_CONFIG: content}
        # For servers that run with --model-config-name.
        for name in shape.folders.get("configs", ()):
            if name.endswith(".pbtxt"):
                contents[f"configs/{name}"] = read_user_file(tree, f"configs/{name}")
        for path, known in contents.items():
            if known is None:
                continue
            fitted = without_name(_text_of(path, known)).encode("utf-8", "surrogateescape")
            if fitted != known:
                replace_user_file(tree, path, fitted)
                is_changed = True
        return is_changed

    def touch(self, tree: Path) -> None:
        """Set every time stamp in the tree to now. Otherwise Triton may skip a reload."""
        now = time.time()
        for folder, _, files in os.walk(tree):
            for path in (*(os.path.join(folder, name) for name in files), folder):
                with contextlib.suppress(PermissionError):  # written by a server that runs as root
                    os.utime(path, (now, now))

    def _load_body(self, entry: Entry) -> dict[str, Any]:
        return {"parameters": dict(entry.parameters)} if entry.parameters else {}

    async def _is_gone(self, name: str) -> bool:
        if await self._is_ready(name):
            return False
        _, body = await self._client.call("POST", INDEX_PATH, 2 * OBSERVE_TIMEOUT_S, {})
        return self._read_index(body).get(name) is not ServerState.UNLOADING


def _text_of(path: str, content: bytes) -> str:
    """Return a configuration's text. Bytes that are not UTF-8 are kept as lone surrogates.

    Triton does not read the byte order marks of Windows editors. They are removed, and UTF-16 is
    decoded.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise refused(f"{path} is neither UTF-8 nor UTF-16: save it as UTF-8") from error
    return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
