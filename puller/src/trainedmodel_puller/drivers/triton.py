"""Triton: quirks measured on 2.51.

- It must run with `--model-control-mode=explicit`; in any other mode load and unload are 503.
- A load of what is loaded does nothing, with status 200, unless it sees a newer time stamp: of
  twelve swaps by exchange half were skipped and the old weights went on serving. Setting the time
  stamps of the whole tree to now before each load gave 24 reloads of 24. Hence `touch`.
- Unload answers 200 at once and takes 1.3-2 s: the index says UNLOADING, then UNAVAILABLE.
- Unknown models are 200 on unload, and `ready` is 400 for all that is not ready.
- Each load holds one of 8 HTTP threads, and ten slow ones silenced `/live` for 21 s: four at most.
- Index rows without a state were never loaded.
- `name:` in `config.pbtxt` must equal the folder or be left out: `prepare` takes it out, there and
  in `configs/`. The file need not be UTF-8: comments may hold any bytes, and keep them. A byte
  order mark, or UTF-16, is refused without a word of why: `prepare` writes plain UTF-8 instead.
- An ensemble needs a version folder with nothing in it, which many stores lose: `prepare` makes it.
- A dangling link makes every index call fail; downloads never make links.
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
        """Want a version folder, or what may be an ensemble."""
        return refuse_triton(shape)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Check for a version folder, and free the configurations of another name.

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
        # for servers that run with --model-config-name
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
        """Set every time stamp in the tree to now, without which a reload may be skipped."""
        now = time.time()
        for folder, _, files in os.walk(tree):
            for path in (*(os.path.join(folder, name) for name in files), folder):
                with contextlib.suppress(PermissionError):  # a root server's own, not the model's
                    os.utime(path, (now, now))

    def _load_body(self, entry: Entry) -> dict[str, Any]:
        return {"parameters": dict(entry.parameters)} if entry.parameters else {}

    async def _is_gone(self, name: str) -> bool:
        if await self._is_ready(name):
            return False
        _, body = await self._client.call("POST", INDEX_PATH, 2 * OBSERVE_TIMEOUT_S, {})
        return self._read_index(body).get(name) is not ServerState.UNLOADING


def _text_of(path: str, content: bytes) -> str:
    """Return a configuration's text; bytes that are not UTF-8 are kept, as lone surrogates.

    Windows editors write marks that Triton does not read: they go, and UTF-16 becomes UTF-8.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise refused(f"{path} is neither UTF-8 nor UTF-16: save it as UTF-8") from error
    return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
