"""The flags of `trainedmodel-puller`: name, variable, default, bounds and help of each.

Each flag `--some-flag` is also the variable `TRAINEDMODEL_SOME_FLAG`. Sizes take Kubernetes
quantities (`512Mi`, `10Gi`). Each parameter has the name of its field in `settings.Settings` or
`storage.settings.StorageSettings`, so a flag needs no other code to reach its field.

KServe's injector passes `--enable-puller` to its agent. The flag is accepted and ignored, so that
this program can replace the agent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from trainedmodel_contract import names
from trainedmodel_contract.quantity import parse_bytes

from trainedmodel_puller.drivers.factory import AUTO, SERVER_KINDS, is_experimental

F = TypeVar("F", bound=Callable[..., Any])

_FOLDER: Final = click.Path(path_type=Path, file_okay=False)
_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_SECRETS: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MANY: Final = click.IntRange(1, 1024)


class ByteCount(click.ParamType[int]):
    """A number of bytes, written as a Kubernetes quantity."""

    name = "quantity"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a quantity; the error of a malformed one names the flag."""
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


_BYTES: Final = ByteCount()


def _flag(name: str, help_text: str, **details: Any) -> Callable[[F], F]:
    variable = f"TRAINEDMODEL_{name.strip('-').split('/')[0].replace('-', '_').upper()}"
    return click.option(
        *details.pop("names", (name,)),
        envvar=details.pop("envvar", variable),
        show_envvar=True,
        help=help_text,
        **details,
    )


_FLAGS: Final = (
    _flag(
        "--config-dir",
        "Folder with the entries: one <name>.json for each model, or KServe's models.json.",
        type=_FOLDER,
        default=Path("/mnt/configs"),
    ),
    _flag(
        "--model-dir",
        "Folder that the model server serves from.",
        type=_FOLDER,
        default=Path("/mnt/models"),
    ),
    _flag(
        "--state-dir",
        "The puller's own folder, on the same file system as --model-dir.  "
        "[default: 'state' beside --model-dir]",
        type=_FOLDER,
    ),
    _flag(
        "--server",
        "Kind of model server; 'auto' detects it, 'none' only manages the files. Experimental, "
        f"never tested against a real server: {', '.join(filter(is_experimental, SERVER_KINDS))}.",
        type=click.Choice([AUTO, *SERVER_KINDS]),
        default=AUTO,
    ),
    _flag("--server-url", "URL of the model server.  [default: the default address of its kind]"),
    _flag(
        "--server-model-dir",
        "Path of --model-dir in the server's container.  [default: the same]",
        type=_FOLDER,
    ),
    _flag(
        "--server-config",
        "Configuration file that TensorFlow Serving or OpenVINO Model Server reads.  "
        "[default: in --model-dir]",
        type=_FILE,
    ),
    _flag(
        "--port",
        "Port of /healthz, /readyz, /status and /metrics.",
        type=click.IntRange(0, 65535),
        default=9180,
    ),
    _flag(
        "--ready-when",
        "Condition for /readyz: each model of the first configuration was loaded or has failed "
        "once (settled), was loaded (all), or the model server answers (server).",
        type=click.Choice(names.READY_WHEN),
        default="settled",
    ),
    _flag(
        "--service",
        "Service of this pod. With POD_NAME, POD_NAMESPACE and POD_UID in the environment, the "
        "puller maintains a ModelReport for it.",
    ),
    _flag(
        "--service-account-dir",
        "Folder with the service account's token and ca.crt.",
        type=_FOLDER,
        default=_SECRETS,
    ),
    _flag(
        "--period",
        "Seconds between two passes of the loop when no event triggers one.",
        names=("--period", "period_s"),
        type=click.FloatRange(0.05, 3600),
        default=1.0,
    ),
    _flag("--max-downloads", "Concurrent downloads of models.", type=_MANY, default=16),
    _flag(
        "--max-connections",
        "Concurrent connections to stores, over all models.",
        type=_MANY,
        default=32,
    ),
    _flag(
        "--max-loads",
        "Concurrent loads; 0: the limit of the server's kind.",
        type=click.IntRange(0, 1024),
        default=0,
    ),
    _flag(
        "--load-timeout",
        "Seconds until a load counts as failed.",
        names=("--load-timeout", "load_timeout_s"),
        type=click.FloatRange(1, 86400),
        default=600.0,
    ),
    _flag(
        "--stall-timeout",
        "Seconds without data from a store until a transfer counts as stalled.",
        names=("--stall-timeout", "stall_timeout_s"),
        type=click.FloatRange(0.1, 3600),
        default=30.0,
    ),
    _flag(
        "--memory-budget",
        "Limit of the memory that all models declare, such as 8Gi; 0: no limit.",
        type=_BYTES,
        default=0,
    ),
    _flag(
        "--keep-versions",
        "Replaced revisions kept for each model, for an instant rollback.",
        type=click.IntRange(0, 100),
        default=1,
    ),
    _flag(
        "--keep-bytes",
        "Limit of the kept revisions' size, over all models; a download that needs their space "
        "evicts them earlier.",
        type=_BYTES,
        default="10Gi",
    ),
    _flag(
        "--volume-limit",
        "Limit of the volume's size, such as the sizeLimit of an emptyDir; downloads stay below "
        "it. 0: the size of its disk.",
        type=_BYTES,
        default=0,
    ),
    _flag(
        "--volume-dir",
        "Root of the volume; all files below it count against --volume-limit.  "
        "[default: --model-dir and --state-dir alone]",
        type=_FOLDER,
    ),
    _flag(
        "--max-unpacked",
        "Limit of the size that one archive unpacks to; the free space limits it too.",
        names=("--max-unpacked", "max_unpacked_bytes"),
        type=_BYTES,
        default="1Ti",
    ),
    _flag(
        "--allow-uri",
        "Allowed prefix of storage URIs, such as s3://models/; may be given more than once.  "
        "[default: any]",
        names=("--allow-uri", "allowed_uris"),
        multiple=True,
    ),
    _flag(
        "--max-listing",
        "Limit of the objects of one model; a source with more is refused, to bound memory.",
        type=click.IntRange(1, 10_000_000),
        default=100_000,
    ),
    _flag(
        "--storage-backend",
        "Client library for object stores: obstore or fsspec, or for one store s3=fsspec, "
        "gs=fsspec, az=fsspec; may be given more than once.  [default: obstore]",
        names=("--storage-backend", "storage_backends"),
        multiple=True,
    ),
    _flag(
        "--file-root",
        "Folder that file:// URIs may read; may be given more than once.",
        names=("--file-root", "file_roots"),
        type=_FOLDER,
        multiple=True,
    ),
    _flag(
        "--pvc-root",
        "Folder with the mounted volume claims, by name, for pvc://<claim>/<path>.",
        type=_FOLDER,
    ),
    _flag(
        "--credentials-dir",
        "Folder of credential profiles: a folder for each profile, with a file for each variable "
        "(mounted Secrets).",
        names=("--credentials-dir", "profiles_dir"),
        type=_FOLDER,
    ),
    _flag(
        "--watch",
        "Watch --config-dir, so that a change starts a pass at once.",
        names=("--watch/--no-watch", "has_watch"),
        default=True,
    ),
    _flag(
        "--log-format",
        "Format of the log lines.",
        type=click.Choice(["json", "console"]),
        default="json",
    ),
    _flag(
        "--log-level",
        "Lowest level that is logged.",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
    ),
    click.option("--pod-name", envvar="POD_NAME", hidden=True),
    click.option("--pod-namespace", envvar="POD_NAMESPACE", hidden=True),
    click.option("--pod-uid", envvar="POD_UID", hidden=True),
    click.option("--enable-puller", is_flag=True, hidden=True, expose_value=False),
)


def with_flags(command: F) -> F:
    """Give a command all flags."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command
