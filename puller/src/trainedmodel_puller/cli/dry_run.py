"""`trainedmodel-puller plan`: prints the actions that `run` would take, and takes none.

It reads the same inputs as `run` and decides with the same functions. It writes nothing and creates
no folder, so it may run beside a running puller.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from trainedmodel_puller.app import find_server, make_limits, make_state, make_volume
from trainedmodel_puller.control.config_reader import read_folder
from trainedmodel_puller.core.plan import plan
from trainedmodel_puller.core.report import report_models
from trainedmodel_puller.core.snapshot import LastGoodConfig, resolve_snapshot
from trainedmodel_puller.core.state import ServerView
from trainedmodel_puller.core.status import status_document
from trainedmodel_puller.drivers.auto import identify
from trainedmodel_puller.drivers.base import ModelServer, ServerGone, ServerInDoubt
from trainedmodel_puller.drivers.factory import AUTO
from trainedmodel_puller.errors import SettingsError
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.settings import Settings
from trainedmodel_puller.volume.durable import words_of
from trainedmodel_puller.volume.volume import Volume


async def print_plan(settings: Settings, *, as_json: bool) -> None:
    """Print desired and observed state and the actions between them.

    Raises:
        SettingsError: the server cannot be detected, or the configuration folder cannot be read.
    """
    document = await make_plan(settings)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo("\n".join(_lines(document)))


async def make_plan(settings: Settings) -> dict[str, Any]:
    """Return the status document of a plan made now.

    Raises:
        SettingsError: see `print_plan`.
    """
    if settings.server == AUTO and await identify(settings.server_url) is None:
        raise SettingsError(
            "--server auto: could not detect the model server; "
            "start it, or set --server to its kind"
        )
    server = await find_server(settings, asyncio.Event())
    if server is None:
        raise SettingsError(
            "--server auto: the model server stopped answering during its detection; "
            "start it, or set --server to its kind"
        )
    try:
        state = make_state(settings)
        volume = make_volume(settings, server)
        await asyncio.to_thread(_read, settings, volume, state)
        if settings.volume_limit:
            await state.usage.measure()
        state.server = await _look(server, state)
        observed = state.observed()
        made = plan(state.desired, observed, make_limits(settings, server), time.monotonic())
        models = report_models(state.desired, observed, made.deferred)
        document = status_document(state.desired, observed, made, models, time.monotonic())
        document["server"] |= {"kind": server.kind, "url": server.url}
        return document
    finally:
        await server.close()


def _read(settings: Settings, volume: Volume, state: LiveState) -> None:
    files, why = read_folder(settings.config_dir)
    if files is None:
        raise SettingsError(f"--config-dir: {why}")
    held = LastGoodConfig()
    try:
        if volume.exists():
            state.disk = volume.scan(mend=False)
            state.free_bytes = volume.free_bytes()
            held = volume.held.read()
    except OSError as error:
        state.volume_doubt = words_of(error)
    owners = {name: disk.id for name, disk in state.disk.items()}
    state.desired, _ = resolve_snapshot(files, held, owners, why)


async def _look(server: ModelServer, state: LiveState) -> ServerView:
    try:
        observation = await server.observe(list(state.disk))
    except (ServerGone, ServerInDoubt) as error:
        return ServerView(False, {}, {}, str(error))
    return ServerView(True, observation.states, observation.revisions)


def _lines(document: dict[str, Any]) -> Iterator[str]:
    config, server, made = document["config"], document["server"], document["plan"]
    doubt = f", in doubt: {config['problem']}" if config["problem"] else ""
    yield f"desired   {config['models']} models, {config['faults']} refused entries{doubt}"
    answer = "answers" if server["isKnown"] else server["message"]
    yield f"server    {server['kind']} {server['url']}: {answer}"
    rows = [
        (
            model_id,
            model["state"],
            model.get("reason") or "-",
            model.get("revision") or "-",
            model.get("loadedRevision") or "-",
        )
        for model_id, model in document["models"].items()
    ]
    yield ""
    yield from _table(("MODEL", "STATE", "REASON", "DESIRED", "LOADED"), rows)
    yield ""
    yield f"actions   {made['counts']['next'] or 'none'}"
    for action in made["next"]:
        yield f"  {action['name']}: {action['words']}"
    for name in made["cancelled"]:
        yield f"  {name}: cancel the download in progress"
    if made["waiting"]:
        yield f"waiting   {made['counts']['waiting']}"
    for item in made["waiting"]:
        yield f"  {item['name']}: {item['reason']}: {item['message']}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
