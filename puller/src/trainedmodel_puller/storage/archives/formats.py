"""Model files that happen to be zips or tars: libraries open them as they are. Pure.

The suffix would be wrong both ways: a `.bin` may be a PyTorch file, and a `.pt` may have been
packed by hand. So the names inside decide. A TorchServe or MMS `.mar` is unpacked: those servers
load folders. MediaPipe's `.task` and files of libraries unknown here are unpacked like archives;
published as a folder with one object each, they stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: All of one line's names at the top make the format.
_AT_TOP: Final = (
    frozenset({"META-INF/MANIFEST.MF"}),  # jar, war
    frozenset({"[Content_Types].xml"}),  # office documents
    frozenset({"mimetype"}),  # OpenDocument, epub
    frozenset({"EGG-INFO/PKG-INFO"}),
    frozenset({"metadata.json", "config.json", "model.weights.h5"}),  # Keras 3
    frozenset({"metadata.json", "config.json", "model.weights.json"}),  # Keras 3, in shards
    frozenset({"_stable_baselines3_version"}),
    frozenset({"model.ini", "experimental/modelDetails.json"}),  # H2O MOJO
    frozenset({"model.ini", "domains/d000.txt"}),  # H2O MOJO
    frozenset({"serialized_exported_program.json", "version"}),  # torch.export, early
)
#: The same below the one folder that holds everything.
_IN_FOLDER: Final = (
    frozenset({"data.pkl", "version"}),  # torch.save, TorchScript
    frozenset({"data.pkl", "constants.pkl"}),
    frozenset({"data.pkl", "byteorder"}),
    frozenset({"archive_format", "archive_version"}),  # torch.export
    frozenset({".data/extern_modules"}),  # torch.package
)
_TAR_AT_TOP: Final = (
    frozenset({"sys_info", "pickle", "storages"}),  # torch.save before 2017
    frozenset({"model_config.yaml", "model_weights.ckpt"}),  # NeMo
)
_TOP_NAMES: Final = frozenset().union(*_AT_TOP)
_FOLDER_NAMES: Final = frozenset().union(*_IN_FOLDER)
_UNPACKED_ANYWAY: Final = "MAR-INF/MANIFEST.json"


def zip_is_model_file(names: Iterable[str]) -> bool:
    """Return whether a zip with these entries is one file of some library, to be left as it is."""
    top: set[str] = set()
    below: set[str] = set()
    folders: set[str] = set()
    is_npz = is_skops = True
    count = 0
    for name in names:
        count += 1
        head, _, tail = name.partition("/")
        if name == _UNPACKED_ANYWAY:
            return False
        if name in _TOP_NAMES:
            top.add(name)
        if tail in _FOLDER_NAMES:
            below.add(tail)
        if len(folders) < 2:
            folders.add(head)
        if head.endswith(".dist-info") and tail == "WHEEL":
            return True
        is_npz = is_npz and name.endswith(".npy")
        # skops: a schema, and what it refers to by number
        is_skops = is_skops and (name == "schema.json" or _is_numbered(name))
        if name == "schema.json":
            top.add(name)
    if count and is_npz:
        return True
    if is_skops and "schema.json" in top:
        return True
    if len(folders) == 1 and any(names <= below for names in _IN_FOLDER):
        return True
    return any(names <= top for names in _AT_TOP)


def tar_is_model_file(names: Iterable[str]) -> bool:
    """Return the same for a tar, of which only the first names may be known."""
    found = {name.removeprefix("./") for name in names}
    return any(names <= found for names in _TAR_AT_TOP)


def _is_numbered(name: str) -> bool:
    stem, dot, suffix = name.partition(".")
    return bool(dot) and stem.isdecimal() and "/" not in suffix
