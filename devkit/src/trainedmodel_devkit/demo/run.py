"""One performance of the demo: signals, failures, exit status.

Whatever ends it (the last step, a failed one, Ctrl-C, SIGTERM), everything is taken down in order
before the process exits. A second Ctrl-C does not hurry that: it takes seconds, and the guard would
have to finish what it interrupts.
"""

import asyncio
import shutil
import signal
import time
import traceback
from collections.abc import Mapping

from trainedmodel_devkit.binaries import control_plane_binaries
from trainedmodel_devkit.demo import actions
from trainedmodel_devkit.demo.catalog import IRIS, IRIS_FIRST_URI, NAMESPACE, WINE
from trainedmodel_devkit.demo.scenario import SCENARIO
from trainedmodel_devkit.demo.show import Show, make_show
from trainedmodel_devkit.demo.stage import Stage
from trainedmodel_devkit.errors import DevkitError
from trainedmodel_devkit.progress import duration

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TAIL_LINES = 15
_TAIL_WIDTH = 400
_ANSWERED = 'HTTP/1.1" 200 OK'
_INTERRUPTED = 130


def run_demo(*, once: bool) -> int:
    """Perform the demo and return the exit status; without `once`, stay until Ctrl-C."""
    with make_show() as show:
        return asyncio.run(_Performance(show, once).run())


class _Performance:
    """One run, and whether somebody has asked for its end."""

    def __init__(self, show: Show, once: bool) -> None:
        self._show = show
        self._once = once
        self._done = False
        self._interrupted = False
        self._ending: float | None = None

    async def run(self) -> int:
        """Perform until the end, a failure or a signal; return the exit status."""
        playing = asyncio.create_task(self._play(), name="demo")
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt, playing)
        await asyncio.wait([playing])
        if self._ending is not None:
            self._show.say(f"everything is gone ({duration(time.monotonic() - self._ending)})")
        if playing.cancelled():
            return 0 if self._done else _INTERRUPTED
        return playing.result()

    async def _play(self) -> int:
        try:
            with self._show.step("Bring up a cluster, a store, the operator and three pods"):
                stage = Stage(announce=self._show.say, on_models=self._show.models)
                await stage.__aenter__()
        except Exception as error:
            self._show.fail(*_account(error))
            return 1
        try:
            return await self._perform(stage)
        finally:
            try:
                self._end()
            finally:
                await stage.__aexit__()

    async def _perform(self, stage: Stage) -> int:
        for title, step in SCENARIO:
            try:
                with self._show.step(title):
                    await step(stage, self._show)
            except Exception as error:
                sentence, trace = _account(error)
                self._show.fail(f"{title}: {sentence}", trace | _tails(await stage.logs()))
                return 1
        self._done = True
        self._show.say("every step happened, and was checked where it happens")
        if not self._once:
            self._invite(stage)
            await asyncio.Event().wait()
        return 0

    def _invite(self, stage: Stage) -> None:
        """Tell the user how to go on by hand."""
        lines = [f"export KUBECONFIG={stage.control_plane.kubeconfig}"]
        if shutil.which("kubectl") is None:
            lines.append(f'export PATH="{control_plane_binaries().kubectl.parent}:$PATH"')
        lines += [
            f"kubectl apply -n {NAMESPACE} -f {WINE.sample}",
            f"kubectl patch -n {NAMESPACE} tmodel {IRIS.name} --type=merge "
            f"-p '{actions.update_patch(IRIS_FIRST_URI)}'",
            f"kubectl get -n {NAMESPACE} modelreports -o yaml",
        ]
        self._show.verbatim("In another terminal, from this folder:\n\n" + "\n".join(lines))
        self._show.waiting("everything runs until Ctrl-C")

    def _interrupt(self, playing: "asyncio.Task[int]") -> None:
        if not self._interrupted:
            self._interrupted = True
            if self._ending is None:
                playing.cancel()
                self._end()

    def _end(self) -> None:
        if self._ending is None:
            self._ending = time.monotonic()
            self._show.close("taking everything down")


def _account(error: Exception) -> tuple[str, dict[str, str]]:
    """Return a sentence on what went wrong, and the trace if nobody raised it on purpose."""
    if isinstance(error, DevkitError):
        return str(error), {}
    return f"{type(error).__name__}: {error}", {
        "trace": "".join(traceback.format_exception(error)).rstrip()
    }


def _tails(logs: Mapping[str, str]) -> dict[str, str]:
    """Cut logs down to what fits on a screen or two: the last lines but those of requests."""
    return {name: "\n".join(_last_lines(log)) for name, log in logs.items()}


def _last_lines(log: str) -> list[str]:
    lines = [line for line in log.splitlines() if not line.endswith(_ANSWERED)]
    return [line[:_TAIL_WIDTH] for line in lines[-_TAIL_LINES:]]
