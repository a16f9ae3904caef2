"""The command `trainedmodel-puller`: flags, environment, logs, exit codes."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import click
import structlog

from trainedmodel_puller.app import run
from trainedmodel_puller.drivers.factory import SERVER_KINDS
from trainedmodel_puller.errors import SettingsError
from trainedmodel_puller.settings import PodIdentity, Settings
from trainedmodel_puller.storage.settings import StorageSettings

_FOLDER = click.Path(path_type=Path, file_okay=False)
_SECRETS = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("command", type=click.Choice(["run"]), default="run", required=False)
@click.option(
    "--config-dir",
    type=_FOLDER,
    default=Path("/mnt/configs"),
    envvar="TRAINEDMODEL_CONFIG_DIR",
    show_envvar=True,
    help="Folder with the entries: one <name>.json a model, or KServe's models.json.",
)
@click.option(
    "--model-dir",
    type=_FOLDER,
    default=Path("/mnt/models"),
    envvar="TRAINEDMODEL_MODEL_DIR",
    show_envvar=True,
    help="Folder that the model server serves from.",
)
@click.option(
    "--state-dir",
    type=_FOLDER,
    envvar="TRAINEDMODEL_STATE_DIR",
    show_envvar=True,
    help="The puller's own folder, on the same file system as --model-dir.  "
    "[default: 'state' beside --model-dir]",
)
@click.option(
    "--server",
    type=click.Choice(SERVER_KINDS),
    default="mlserver",
    envvar="TRAINEDMODEL_SERVER",
    show_envvar=True,
    help="Kind of model server; 'none' only keeps the files.",
)
@click.option(
    "--server-url",
    default="http://127.0.0.1:8080",
    envvar="TRAINEDMODEL_SERVER_URL",
    show_envvar=True,
    help="Where the model server listens.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9180,
    envvar="TRAINEDMODEL_PORT",
    show_envvar=True,
    help="Port of /healthz, /readyz, /status and /metrics.",
)
@click.option(
    "--service",
    envvar="TRAINEDMODEL_SERVICE",
    show_envvar=True,
    help="Parent service of this pod. With POD_NAME, POD_NAMESPACE and POD_UID in the "
    "environment, a ModelReport is kept for it.",
)
@click.option(
    "--service-account-dir",
    type=_FOLDER,
    default=_SECRETS,
    envvar="TRAINEDMODEL_SERVICE_ACCOUNT_DIR",
    show_envvar=True,
    help="Folder with the service account's token and ca.crt.",
)
@click.option(
    "--period",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    envvar="TRAINEDMODEL_PERIOD",
    show_envvar=True,
    help="Seconds between two looks when nothing wakes the loop.",
)
@click.option(
    "--max-downloads",
    type=click.IntRange(1, 1024),
    default=16,
    envvar="TRAINEDMODEL_MAX_DOWNLOADS",
    show_envvar=True,
    help="Models downloaded at once.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, 1024),
    default=32,
    envvar="TRAINEDMODEL_MAX_CONNECTIONS",
    show_envvar=True,
    help="Connections to stores at once, over all models.",
)
@click.option(
    "--max-loads",
    type=click.IntRange(0, 1024),
    default=0,
    envvar="TRAINEDMODEL_MAX_LOADS",
    show_envvar=True,
    help="Loads at once; 0: as many as the kind of server bears.",
)
@click.option(
    "--load-timeout",
    type=click.FloatRange(1, 86400),
    default=600.0,
    envvar="TRAINEDMODEL_LOAD_TIMEOUT",
    show_envvar=True,
    help="Seconds that a load may take before it is called failed.",
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    envvar="TRAINEDMODEL_STALL_TIMEOUT",
    show_envvar=True,
    help="Seconds that a store may send nothing.",
)
@click.option(
    "--file-root",
    "file_roots",
    type=_FOLDER,
    multiple=True,
    envvar="TRAINEDMODEL_FILE_ROOT",
    show_envvar=True,
    help="Folder that file:// may read from; may be given more than once.",
)
@click.option(
    "--pvc-root",
    type=_FOLDER,
    envvar="TRAINEDMODEL_PVC_ROOT",
    show_envvar=True,
    help="Folder in which volume claims are mounted by name, for pvc://<claim>/<path>.",
)
@click.option(
    "--credentials-dir",
    type=_FOLDER,
    envvar="TRAINEDMODEL_CREDENTIALS_DIR",
    show_envvar=True,
    help="Folder of credential profiles: one folder each, one file a variable (mounted Secrets).",
)
@click.option(
    "--watch/--no-watch",
    "has_watch",
    default=True,
    envvar="TRAINEDMODEL_WATCH",
    show_envvar=True,
    help="Whether changes of --config-dir wake the loop at once.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    default="json",
    envvar="TRAINEDMODEL_LOG_FORMAT",
    show_envvar=True,
    help="Form of the log lines.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar="TRAINEDMODEL_LOG_LEVEL",
    show_envvar=True,
    help="Least level that is logged.",
)
@click.option("--pod-name", envvar="POD_NAME", hidden=True)
@click.option("--pod-namespace", envvar="POD_NAMESPACE", hidden=True)
@click.option("--pod-uid", envvar="POD_UID", hidden=True)
def main(command: str, **flags: Any) -> None:
    """Make one model server serve what a folder of entries asks for.

    Store credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*) or the pod's identity.
    """
    configure_logging(flags.pop("log_format"), flags.pop("log_level"))
    try:
        asyncio.run(run(make_settings(flags)))
    except BaseExceptionGroup as group:
        causes = group.subgroup(SettingsError)
        if causes is None:
            raise
        raise click.ClickException(str(causes.exceptions[0])) from group
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def make_settings(flags: dict[str, Any]) -> Settings:
    """Turn flags into settings."""
    model_dir: Path = flags["model_dir"]
    pod_name, service = flags["pod_name"], flags["service"]
    identity = None
    if pod_name and service:
        missing = [key for key in ("pod_namespace", "pod_uid") if not flags[key]]
        if missing:
            names = ", ".join(key.upper() for key in missing)
            raise SettingsError(f"with POD_NAME and --service, {names} must be set too")
        identity = PodIdentity(
            pod_name=pod_name,
            pod_uid=flags["pod_uid"],
            namespace=flags["pod_namespace"],
            service=service,
            account_dir=flags["service_account_dir"],
        )
    return Settings(
        config_dir=flags["config_dir"],
        model_dir=model_dir,
        state_dir=flags["state_dir"] or model_dir.absolute().parent / "state",
        server=flags["server"],
        server_url=flags["server_url"],
        port=flags["port"],
        period_s=flags["period"],
        max_downloads=flags["max_downloads"],
        max_connections=flags["max_connections"],
        max_loads=flags["max_loads"],
        load_timeout_s=flags["load_timeout"],
        stall_timeout_s=flags["stall_timeout"],
        storage=StorageSettings(
            file_roots=flags["file_roots"],
            pvc_root=flags["pvc_root"],
            profiles_dir=flags["credentials_dir"],
            answer_timeout_s=flags["stall_timeout"],
        ),
        identity=identity,
        has_watch=flags["has_watch"],
    )


def configure_logging(form: str, level: str) -> None:
    """Send one structured line a decision to standard error."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()
