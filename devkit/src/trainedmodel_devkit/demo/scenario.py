"""The order of the demo, in words.

A step does an action and says what came of it; the times are the show's.
"""

from collections.abc import Awaitable, Callable

from trainedmodel_devkit.demo import actions
from trainedmodel_devkit.demo.board import ready_condition
from trainedmodel_devkit.demo.catalog import (
    BRIGHTNESS,
    BROKEN_SAMPLE,
    EXHIBITS,
    IRIS,
    IRIS_UPDATED_URI,
    NAMESPACE,
    WINE,
)
from trainedmodel_devkit.demo.show import Show
from trainedmodel_devkit.demo.stage import Stage

Step = Callable[[Stage, Show], Awaitable[None]]


async def apply_models(stage: Stage, show: Show) -> None:
    """Apply three models to two services and wait until all are Ready."""
    files = " ".join(f"-f {one.sample}" for one in EXHIBITS)
    show.command(f"kubectl apply -n {NAMESPACE} {files}")
    seconds = await actions.apply_exhibits(stage)
    show.say(f"all Ready {seconds:.1f} s after the command began")
    await _print_table(stage, show)


async def ask_every_pod(stage: Stage, show: Show) -> None:
    """Ask each model in each pod."""
    for one in await actions.ask_every_pod(stage):
        answer = ", ".join(f"{value:g}" for value in one.answer)
        kind = "" if one.exhibit is BRIGHTNESS else "class "
        show.say(f"{one.pod:9}  {one.exhibit.name:10}  {one.exhibit.question}  ->  {kind}{answer}")


async def update_iris(stage: Stage, show: Show) -> None:
    """Update a model while both pods are asked for it."""
    patch = actions.update_patch(IRIS_UPDATED_URI)
    show.command(f"kubectl patch -n {NAMESPACE} tmodel {IRIS.name} --type=merge -p '{patch}'")
    update = await actions.update_iris(stage)
    show.say(f"revision {update.revisions[0]} -> {update.revisions[1]}")
    show.say(f"Ready at the new revision {update.ready_s:.1f} s after the command began")
    show.say(
        f"{update.sent} requests sent meanwhile, {update.failed} failed: {update.old_answers} "
        f"answered by the old model, {update.new_answers} by the new one"
    )
    show.say(f"both pods now say class 1 for {IRIS.question}")


async def apply_broken(stage: Stage, show: Show) -> None:
    """Apply a model whose files do not exist, and see it told truthfully."""
    show.command(f"kubectl apply -n {NAMESPACE} -f {BROKEN_SAMPLE}")
    broken = await actions.apply_broken(stage)
    status, ready, failure = broken.status, ready_condition(broken), broken.status.last_failure
    show.say(f"state {status.state}, reason {status.reason}")
    if ready is not None:
        show.say(f"condition Ready={ready.status}: {ready.message}")
    if failure is not None:
        show.say(f"last failure, in {failure.pod}: {failure.message}")
    if failure is not None and failure.next_retry_time is not None:
        show.say(
            f"attempt {failure.attempt}; tried again at {failure.next_retry_time:%H:%M:%S} UTC"
        )
    show.say("the others are Ready as before")


async def delete_wine(stage: Stage, show: Show) -> None:
    """Delete a model and see it leave servers and disks."""
    show.command(f"kubectl delete -n {NAMESPACE} -f {WINE.sample}")
    for pod, seconds in (await actions.delete_wine(stage)).items():
        show.say(f"{pod}: its server answers 404 and its files are gone after {seconds:.1f} s")


async def look_back(stage: Stage, show: Show) -> None:
    """Print what kubectl says at the end."""
    await _print_table(stage, show)


SCENARIO: tuple[tuple[str, Step], ...] = (
    ("Apply three models", apply_models),
    ("Ask every pod for every model", ask_every_pod),
    ("Update iris while both pods answer requests", update_iris),
    ("Apply a model whose files do not exist", apply_broken),
    ("Delete wine", delete_wine),
    ("Look at the result", look_back),
)


async def _print_table(stage: Stage, show: Show) -> None:
    show.command(f"kubectl get tmodel -n {NAMESPACE}")
    show.verbatim(await stage.kubectl("get", "tmodel"))
