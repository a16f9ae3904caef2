"""What the demo does and proves, without a word on the screen.

Each action changes something as a user would, waits for the outcome with a limit, checks it at the
source (the model server, the folder, the object in the API), and returns what it saw.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
from trainedmodel_contract.reasons import Reason, State
from trainedmodel_contract.trainedmodel import TrainedModel

from trainedmodel_devkit.demo.board import Models, describe, is_ready
from trainedmodel_devkit.demo.catalog import (
    BROKEN_NAME,
    BROKEN_SAMPLE,
    EXHIBITS,
    IRIS,
    IRIS_UPDATED_ANSWER,
    IRIS_UPDATED_URI,
    WINE,
    Exhibit,
    sample_file,
)
from trainedmodel_devkit.demo.errors import StepFailed
from trainedmodel_devkit.demo.stage import Stage
from trainedmodel_devkit.demo.traffic import Traffic
from trainedmodel_devkit.errors import PredictionFailed
from trainedmodel_devkit.models import predict

_READY_TIMEOUT_S = 60.0
_GONE_TIMEOUT_S = 30.0
_BEFORE_UPDATE_S = 1.0
_AFTER_UPDATE_S = 1.0


@dataclass(frozen=True)
class Prediction:
    """What one pod answered to a model's question."""

    pod: str
    exhibit: Exhibit
    answer: list[float]


@dataclass(frozen=True)
class Update:
    """An update under traffic."""

    revisions: tuple[str | None, str | None]
    sent: int
    failed: int
    old_answers: int
    new_answers: int
    ready_s: float
    """From the start of the kubectl command to Ready at the new generation."""


def update_patch(uri: str) -> str:
    """Return the merge patch that makes a TrainedModel come from another URI."""
    return json.dumps({"spec": {"model": {"storageUri": uri}}}, separators=(",", ":"))


async def apply_exhibits(stage: Stage, exhibits: Sequence[Exhibit] = EXHIBITS) -> float:
    """Apply the sample manifests; return the seconds until all models were Ready."""
    began = time.monotonic()
    words = [word for one in exhibits for word in ("-f", sample_file(one.sample))]
    await stage.kubectl("apply", *words)
    names = [one.name for one in exhibits]
    await stage.board.until(
        _all_ready(names), f"{', '.join(names)} to become Ready", _READY_TIMEOUT_S
    )
    return time.monotonic() - began


async def ask_every_pod(stage: Stage, exhibits: Sequence[Exhibit] = EXHIBITS) -> list[Prediction]:
    """Ask each model in each pod of its service.

    Raises:
        StepFailed: an answer is not the right one, or there is none.
    """
    predictions = [
        Prediction(pod, exhibit, await _ask(stage, pod, exhibit))
        for exhibit in exhibits
        for pod in stage.pods_of(exhibit.service)
    ]
    for one in predictions:
        _expect(one, one.exhibit.answer)
    return predictions


async def update_iris(stage: Stage) -> Update:
    """Give iris another URI while both pods are asked without end.

    Raises:
        StepFailed: a request failed, or a pod still serves the old version.
    """
    servers = {pod: stage.server_url(pod) for pod in stage.pods_of(IRIS.service)}
    allowed = [IRIS.answer, IRIS_UPDATED_ANSWER]
    before = stage.board[IRIS.name]
    limit_s = _READY_TIMEOUT_S + 30
    async with Traffic(IRIS, servers, allowed, limit_s=limit_s) as traffic:
        await asyncio.sleep(_BEFORE_UPDATE_S)
        began = time.monotonic()
        patch = update_patch(IRIS_UPDATED_URI)
        await stage.kubectl("patch", "tmodel", IRIS.name, "--type=merge", "-p", patch)
        await stage.board.until(
            _ready_after(before),
            "iris to become Ready at its new revision",
            _READY_TIMEOUT_S,
        )
        ready_s = time.monotonic() - began
        await asyncio.sleep(_AFTER_UPDATE_S)
    if traffic.failures:
        raise StepFailed(
            f"{len(traffic.failures)} of {traffic.sent} requests failed during the update, "
            f"the first: {traffic.failures[0]}"
        )
    if not traffic.count(IRIS.answer) or not traffic.count(IRIS_UPDATED_ANSWER):
        raise StepFailed("the requests did not span the update: only one of the versions answered")
    for pod in servers:
        _expect(Prediction(pod, IRIS, await _ask(stage, pod, IRIS)), IRIS_UPDATED_ANSWER)
    return Update(
        revisions=(before.status.revision, stage.board[IRIS.name].status.revision),
        sent=traffic.sent,
        failed=len(traffic.failures),
        old_answers=traffic.count(IRIS.answer),
        new_answers=traffic.count(IRIS_UPDATED_ANSWER),
        ready_s=ready_s,
    )


async def apply_broken(stage: Stage) -> TrainedModel:
    """Apply the model that has no files; return it once it says so in every pod.

    Raises:
        StepFailed: it does not, or another model lost anything by it.
    """
    await stage.kubectl("apply", "-f", sample_file(BROKEN_SAMPLE))
    await stage.board.until(
        _has_failed_everywhere, f"{BROKEN_NAME} to be told as Failed", _READY_TIMEOUT_S
    )
    broken = stage.board[BROKEN_NAME]
    if broken.status.reason != Reason.OBJECT_NOT_FOUND:
        raise StepFailed(f"the reason should be {Reason.OBJECT_NOT_FOUND}, but {describe(broken)}")
    for exhibit in EXHIBITS:
        if not is_ready(model := stage.board[exhibit.name]):
            raise StepFailed(f"a broken model disturbed another: {describe(model)}")
    return broken


async def delete_wine(stage: Stage) -> dict[str, float]:
    """Delete wine; return for each pod the seconds until server and folder knew nothing of it."""
    began = time.monotonic()
    await stage.kubectl("delete", "-f", sample_file(WINE.sample))
    pods = stage.pods_of(WINE.service)
    seconds = await asyncio.gather(*(_gone(stage, pod, WINE, began) for pod in pods))
    return dict(zip(pods, seconds, strict=True))


async def _gone(stage: Stage, pod: str, exhibit: Exhibit, began: float) -> float:
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while True:
        said = await _last_answer(stage, pod, exhibit)
        files = stage.model_folder(pod, exhibit.name).exists()
        if said == "404" and not files:
            return time.monotonic() - began
        if time.monotonic() > deadline:
            where = "still there" if files else "gone"
            raise StepFailed(
                f"waited {_GONE_TIMEOUT_S:.0f} s for {exhibit.name} to leave {pod}: "
                f"its server answers {said}, the files are {where}"
            )
        await asyncio.sleep(0.05)


async def _last_answer(stage: Stage, pod: str, exhibit: Exhibit) -> str:
    try:
        return str(await predict(stage.server_url(pod), exhibit.name, exhibit.inputs))
    except PredictionFailed as error:
        return str(error.status)
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"nothing ({type(error).__name__})"


async def _ask(stage: Stage, pod: str, exhibit: Exhibit) -> list[float]:
    try:
        return await predict(stage.server_url(pod), exhibit.name, exhibit.inputs)
    except (PredictionFailed, aiohttp.ClientError, TimeoutError) as error:
        raise StepFailed(f"{pod} did not answer for {exhibit.name}: {error}") from error


def _expect(prediction: Prediction, answer: Sequence[float]) -> None:
    if prediction.answer != list(answer):
        raise StepFailed(
            f"{prediction.pod} answered {prediction.answer} for {prediction.exhibit.name}, "
            f"expected {list(answer)}"
        )


def _all_ready(names: Sequence[str]) -> Callable[[Models], bool]:
    return lambda models: all(name in models and is_ready(models[name]) for name in names)


def _ready_after(before: TrainedModel) -> Callable[[Models], bool]:
    def holds(models: Models) -> bool:
        model = models.get(before.metadata.name)
        return (
            model is not None
            and model.metadata.generation > before.metadata.generation
            and is_ready(model)
        )

    return holds


def _has_failed_everywhere(models: Models) -> bool:
    model = models.get(BROKEN_NAME)
    if model is None or model.status.copies is None:
        return False
    copies = model.status.copies
    return model.status.state == State.FAILED and copies.failed == copies.desired > 0
