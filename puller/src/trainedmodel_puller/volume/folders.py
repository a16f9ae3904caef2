"""Checks that two folders are writable and on one file system. It writes nothing."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from trainedmodel_puller.errors import SettingsError

#: A volume that has no room or is read-only still serves what is on it.
_REFUSES_WRITES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
#: What no waiting mends: the folders were named wrongly, or belong to somebody else.
_WRONG_FOLDERS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}
)


def try_move(source: Path, target: Path, others: Iterable[Path]) -> None:
    """Check that a rename from one folder to another is possible. Needs no space.

    The kernel refuses another file system, or a read-only one, before it checks that the file to
    rename exists.

    Raises:
        OSError: it is not possible, or one of the folders is not writable.
    """
    with contextlib.suppress(FileNotFoundError):
        os.rename(source / ".probe", target / ".probe")
    for folder in (target, *others):
        os.stat(folder)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def refuses_writes(error: OSError) -> bool:
    """Return whether the error only means that the volume is full or read-only."""
    return error.errno in _REFUSES_WRITES


def refuse(error: OSError, model_dir: Path, state_dir: Path) -> None:
    """Raise an error that waiting cannot mend as SettingsError, with the flags and the fix."""
    if error.errno == errno.EXDEV:
        raise SettingsError(
            "--model-dir and --state-dir must be on one file system: put both on the same volume"
        ) from error
    if error.errno in _WRONG_FOLDERS:
        raise SettingsError(
            f"--model-dir {model_dir} and --state-dir {state_dir} "
            f"must be writable folders: {error.strerror} ({error.filename})"
        ) from error
