"""The cache folder: compiled programs, server environments, trained models.

Building the control plane takes minutes, so it happens once for each version and outlives the
checkout. Two rules keep the folder trustworthy without any bookkeeping: a name exists only if the
build behind it ended well (builds work on a temporary name and are renamed), and a lock file for
each name makes a second process wait instead of building again.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainedmodel_devkit.errors import BuildFailed
from trainedmodel_devkit.progress import say


def cache_folder() -> Path:
    """Return the cache folder, created if missing."""
    if own := os.environ.get("TRAINEDMODEL_CACHE"):
        folder = Path(own).expanduser()
    elif shared := os.environ.get("XDG_CACHE_HOME"):
        folder = Path(shared) / "trainedmodel"
    else:
        folder = Path.home() / ".cache" / "trainedmodel"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of one cache name; waits for another process that has it.

    The kernel drops the lock when its holder dies, so a killed build never blocks the next one.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name.replace('/', '_')}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another process is at it, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """Give a temporary name; what stands there at the end becomes `target` by rename.

    If the body raises, the temporary is removed. A killed build leaves only a name that nobody
    looks for; the next build of the same target removes it (call it under the target's lock).

    Raises:
        BuildFailed: `TRAINEDMODEL_NO_BUILDS` is set: a test with a limit of time is running.
    """
    if os.environ.get("TRAINEDMODEL_NO_BUILDS"):
        raise BuildFailed(
            f"{target} is not built, and this is no time for it: build it before the tests, with "
            "`python -m trainedmodel_devkit prepare`"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.building-*"):
        _remove(leftover)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.building-", dir=target.parent))
    try:
        yield draft / target.name
        (draft / target.name).rename(target)
    finally:
        _remove(draft)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
