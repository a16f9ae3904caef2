"""Triton: quirks measured on 2.51.

- It must run with `--model-control-mode=explicit`; in any other mode load and unload are 503.
- A load of what is loaded does nothing, with status 200, unless it sees a newer time stamp: of
  twelve swaps by exchange half were skipped and the old weights went on serving. Setting the time
  stamps of the whole tree to now before each load gave 24 reloads of 24. Hence `touch`.
- Unload answers 200 at once and takes 1.3-2 s: the index says UNLOADING, then UNAVAILABLE.
- Unknown models are 200 on unload, and `ready` is 400 for all that is not ready.
- Each load holds one of 8 HTTP threads, and ten slow ones silenced `/live` for 21 s: four at most.
- Index rows without a state were never loaded.
- `name:` in `config.pbtxt` must equal the folder or be left out: `prepare` takes it out.
- A dangling link makes every index call fail; downloads never make links.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import OBSERVE_TIMEOUT_S
from trainedmodel_puller.drivers.v2 import RepositoryServer
from trainedmodel_puller.durable import replace_file
from trainedmodel_puller.errors import ServerFault

CONFIG: Final = "config.pbtxt"
_TOKENS: Final = re.compile(
    r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#[^\n]*|[{}\[\]]|\bname\s*:\s*'
)


class Triton(RepositoryServer):
    """One Triton Inference Server in explicit mode."""

    kind = "triton"

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Check for a version folder, and free `config.pbtxt` of another name.

        Raises:
            ServerFault: InvalidLayout; there is no numbered version folder.
        """
        if not any(path.is_dir() and path.name.isdigit() for path in tree.iterdir()):
            raise ServerFault(
                Reason.INVALID_LAYOUT,
                "no version folder ('1/') at the top of the source: Triton loads "
                f"<name>/{CONFIG} and <name>/<number>/",
            )
        config = tree / CONFIG
        if config.is_file():
            text = config.read_text()
            anonymous = without_name(text)
            if anonymous != text:
                replace_file(config, anonymous, durable=False)
                return True
        return False

    def touch(self, tree: Path) -> None:
        """Set every time stamp in the tree to now, without which a reload may be skipped."""
        now = time.time()
        for folder, _, files in os.walk(tree):
            for name in files:
                os.utime(os.path.join(folder, name), (now, now))
            os.utime(folder, (now, now))

    def _load_body(self, entry: Entry) -> dict[str, Any]:
        return {"parameters": dict(entry.parameters)} if entry.parameters else {}

    async def _is_gone(self, name: str) -> bool:
        if await self._is_ready(name):
            return False
        _, body = await self._client.call("POST", "/v2/repository/index", 2 * OBSERVE_TIMEOUT_S, {})
        return self._read_index(body).get(name) is not ServerState.UNLOADING


def without_name(text: str) -> str:
    """Take the top-level `name:` field out of a protobuf text; all else stays as it is."""
    depth = 0
    for match in _TOKENS.finditer(text):
        part = match.group()
        if part in "{[":
            depth += 1
        elif part in "}]":
            depth -= 1
        elif depth == 0 and part.startswith("name"):
            value = re.compile(r'(?:"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\')(?:[ \t]*[,;])?').match(
                text, match.end()
            )
            if value is not None:
                return text[: match.start()] + text[value.end() :]
    return text
