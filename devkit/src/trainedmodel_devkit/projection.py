"""A projected volume as the kubelet makes it: what it contains, and how it is replaced.

The puller's promise never to act on a half-written snapshot can only be tested against the real
thing, so the writer below produces the same tree, in the same order of steps, as the kubelet: files
in a folder named by time, `..data` pointing to it and moved by one rename, and for each key a link
through `..data`.
"""

import os
import shutil
import tempfile
from base64 import b64decode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_DATA = "..data"
_DRAFT = "..data_tmp"

Payload = dict[str, bytes]


def payload_of(config_maps: Iterable[Mapping[str, Any]]) -> Payload:
    """Merge ConfigMaps into the files of one volume; of two equal keys the later one wins."""
    files: Payload = {}
    for config_map in config_maps:
        files |= {key: text.encode() for key, text in (config_map.get("data") or {}).items()}
        files |= {
            key: b64decode(text) for key, text in (config_map.get("binaryData") or {}).items()
        }
    return files


class AtomicWriter:
    """Replaces all files of a folder at one instant.

    A reader who resolves `..data` once sees one payload, whole. A reader who opens `<key>` sees
    either the old or the new file, never a mixture; a new key's link appears just after the switch,
    a removed one's dangles until then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, payload: Mapping[str, bytes]) -> bool:
        """Make the folder show the payload; return False, and touch nothing, if it already does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        old = self._present()
        if old is not None and _content(old) == payload:
            return False
        new = self._write_files(payload)
        self._switch(new)
        self._link(payload)
        self._unlink_stale(payload)
        if old is not None:
            shutil.rmtree(old)
        return True

    def _present(self) -> Path | None:
        link = self._folder / _DATA
        return self._folder / link.readlink() if link.is_symlink() else None

    def _write_files(self, payload: Mapping[str, bytes]) -> Path:
        now = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
        folder = Path(tempfile.mkdtemp(prefix=now, dir=self._folder))
        folder.chmod(0o755)
        for key, content in payload.items():
            (folder / key).write_bytes(content)
        return folder

    def _switch(self, new: Path) -> None:
        draft = self._folder / _DRAFT
        draft.unlink(missing_ok=True)
        draft.symlink_to(new.name)
        draft.rename(self._folder / _DATA)

    def _link(self, payload: Mapping[str, bytes]) -> None:
        for key in payload:
            link = self._folder / key
            if not link.is_symlink():
                link.symlink_to(f"{_DATA}/{key}")

    def _unlink_stale(self, payload: Mapping[str, bytes]) -> None:
        for name in os.listdir(self._folder):
            if not name.startswith("..") and name not in payload:
                (self._folder / name).unlink()


def _content(folder: Path) -> Payload:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
