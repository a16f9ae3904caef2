"""The command line: settings from flags, the logs, and the exit codes."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Coroutine
from dataclasses import fields
from typing import Any, Final

import click
import structlog

from trainedmodel_puller.app import run
from trainedmodel_puller.cli.dry_run import print_plan
from trainedmodel_puller.cli.flags import with_flags
from trainedmodel_puller.cli.logs import configure_logging
from trainedmodel_puller.errors import SettingsError
from trainedmodel_puller.settings import PodIdentity, Settings
from trainedmodel_puller.storage.outside import OutsideLoop
from trainedmodel_puller.storage.settings import StorageSettings, fsspec_schemes

#: Loaded objects stay, and the objects of a pass are freed when it ends. With Python's default
#: thresholds a thousand models cause repeated collections that free nothing.
_COLLECT_AFTER: Final = (50_000, 20, 20)
#: The process ends within 5 s of a SIGTERM. An orderly shutdown that takes longer is forced.
_LONGEST_END_S: Final = 4.5
#: Other users may read; only this user may write.
_UMASK: Final = 0o022


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("command", type=click.Choice(["run", "plan"]), default="run", required=False)
@click.option("--json", "as_json", is_flag=True, help="`plan` prints JSON.")
@with_flags
def main(command: str, *, as_json: bool, **flags: Any) -> None:
    """Load the models of a folder of entries into one model server.

    `run` runs until it gets a signal. `plan` reads the entries, the volume and the server once,
    prints the actions that `run` would take, and changes nothing.

    Store credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*) or the pod's identity.
    """
    configure_logging(flags.pop("log_format"), flags.pop("log_level"))
    # the server reads these files as another user; the inherited umask must not prevent it
    os.umask(_UMASK)
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    gc.enable()
    try:
        settings = make_settings(flags)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    is_run = command == "run"
    _end_with_words(run(settings, end_soon) if is_run else print_plan(settings, as_json=as_json))


def end_soon() -> None:
    """Force the end of the process if the orderly shutdown takes too long.

    The interpreter would wait for a thread that hangs in a system call, such as one of the model
    volume's disk. The files on the volume are safe against a kill at any moment.
    """
    timer = threading.Timer(_LONGEST_END_S, _end_now)
    timer.daemon = True
    timer.start()


def _end_now() -> None:
    structlog.get_logger().warning(
        "shutdown_forced", error=f"a task did not end within {_LONGEST_END_S} s of the signal"
    )
    os._exit(0)


def _end_with_words(job: Coroutine[Any, Any, None]) -> None:
    try:
        with asyncio.Runner(loop_factory=OutsideLoop) as runner:
            runner.run(job)
    except BaseExceptionGroup as group:
        causes = group.subgroup(SettingsError)
        if causes is None:
            raise
        raise click.ClickException(str(causes.exceptions[0])) from group
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def make_settings(flags: dict[str, Any]) -> Settings:
    """Turn flags into settings.

    Raises:
        SettingsError: two flags contradict each other.
    """
    storage = StorageSettings(
        **_fields(StorageSettings, flags),
        answer_timeout_s=flags["stall_timeout_s"],
        fsspec_schemes=fsspec_schemes(flags["storage_backends"]),
    )
    given = _fields(Settings, flags)
    given["state_dir"] = flags["state_dir"] or flags["model_dir"].absolute().parent / "state"
    settings = Settings(**given, storage=storage, identity=_make_identity(flags))
    _check_volume(settings)
    return settings


def _fields(kind: type[Settings | StorageSettings], flags: dict[str, Any]) -> dict[str, Any]:
    return {one.name: flags[one.name] for one in fields(kind) if one.name in flags}


def _check_volume(settings: Settings) -> None:
    """Refuse a --volume-dir that does not contain the puller's folders."""
    for flag, folder in (("--model-dir", settings.model_dir), ("--state-dir", settings.state_dir)):
        root = settings.volume_dir
        if root is not None and not folder.absolute().is_relative_to(root.absolute()):
            raise SettingsError(
                f"{flag} {folder} is not below --volume-dir {root}: name the folder that holds both"
            )


def _make_identity(flags: dict[str, Any]) -> PodIdentity | None:
    if not flags["pod_name"] or not flags["service"]:
        return None
    missing = [key for key in ("pod_namespace", "pod_uid") if not flags[key]]
    if missing:
        names = ", ".join(key.upper() for key in missing)
        raise SettingsError(f"POD_NAME and --service also need {names} in the environment")
    return PodIdentity(
        pod_name=flags["pod_name"],
        pod_uid=flags["pod_uid"],
        namespace=flags["pod_namespace"],
        service=flags["service"],
        account_dir=flags["service_account_dir"],
    )
