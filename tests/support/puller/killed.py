"""A way that a puller goes, once for each of its steps, killed before that step (P7).

A step is a change of the world outside the process (see `zygote`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import pytest
from support.puller.forked import ForkedPuller

#: More steps than any way has.
MOST_STEPS = 300


def is_done(puller: ForkedPuller, revision: str | None) -> bool:
    """Tell whether the puller has brought about what is desired, with nothing left to tidy."""
    status = puller.status()
    if status is None or not status.get("isSettled"):
        return False
    if revision is None:
        return "m" not in status["models"]
    model = status["models"].get("m", {})
    is_loaded = (model.get("state"), model.get("revision")) == ("Loaded", revision)
    return is_loaded and not list((puller.state / "staging").iterdir())


def live(puller: ForkedPuller, revision: str | None) -> None:
    """Let an unharmed puller do its work."""
    puller.start()
    puller.until(lambda: is_done(puller, revision), f"{revision} to be all there is", 30)
    puller.kill()


def want(puller: ForkedPuller, uri: str | None) -> str | None:
    """Desire a model, or none; return its revision."""
    if uri is not None:
        return puller.put("m", uri)
    (puller.config / "m.json").unlink(missing_ok=True)
    return None


def wipe(puller: ForkedPuller) -> None:
    """Begin anew, without the half second that an unload takes."""
    for folder in (puller.models, puller.state):
        shutil.rmtree(folder)
    puller.models.mkdir()


def enumerate_kills(
    puller: ForkedPuller,
    before: list[str | None],
    after: str | None,
    check: Callable[[str, bool], None],
    wipe: Callable[[ForkedPuller], None] = wipe,
) -> None:
    """Go the way from `before` to `after` once for each step, killed before that step.

    `check` is called with the last step's words: after the kill, and again (True) in the end.
    """
    for step in range(MOST_STEPS):
        for uri in before:
            live(puller, want(puller, uri))
        revision = want(puller, after)
        puller.steps.unlink(missing_ok=True)
        puller.start(kill_at=step)
        deadline = time.monotonic() + 30
        while not puller.has_died and not is_done(puller, revision):
            assert time.monotonic() < deadline, puller.status()
            time.sleep(0.005)
        was_killed = puller.has_died
        puller.kill()
        where = puller.steps.read_text().splitlines()[-1]
        check(where, False)
        live(puller, revision)
        check(where, True)
        for folder in ("staging", "trash"):
            assert list((puller.state / folder).iterdir()) == [], where
        if not was_killed:
            assert step > 5, "so few steps cannot be all of it"
            live(puller, want(puller, None))
            assert puller.files() == []
            return
        wipe(puller)
    pytest.fail("the way never came to its end")
