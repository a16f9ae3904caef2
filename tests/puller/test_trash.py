"""The trash: what is left there is found again, and the folder itself is never deleted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from trainedmodel_puller.volume.trash import Trash


def test_a_trash_that_could_not_be_listed_is_emptied_later_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trash = Trash(tmp_path)
    (tmp_path / "half" / "deleted").mkdir(parents=True)

    def refuse(_: object) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", refuse)
        trash.empty()
    assert list(trash.left) == [""], "it is told"
    trash.empty()
    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []
    assert trash.left == {}


def test_what_another_thread_is_deleting_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trash"
    folder.mkdir()
    trash = Trash(folder)
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    seen: list[list[str]] = []
    delete = Trash._delete

    def delete_while_another_empties(self: Trash, path: Path) -> None:
        monkeypatch.setattr(Trash, "_delete", lambda _, other: seen.append([other.name]))
        trash.empty()
        monkeypatch.setattr(Trash, "_delete", delete)
        delete(self, path)

    monkeypatch.setattr(Trash, "_delete", delete_while_another_empties)
    trash.discard(doomed)
    assert seen == []
    assert list(folder.iterdir()) == []
