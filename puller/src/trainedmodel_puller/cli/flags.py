"""The flags of `trainedmodel-puller`: one place for name, variable, default, bounds and help.

Each flag `--some-flag` is also the variable `TRAINEDMODEL_SOME_FLAG`. Sizes take Kubernetes
quantities (`512Mi`, `10Gi`). `--enable-puller` is what KServe's injector passes to its agent, in
whose place this program can stand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from trainedmodel_contract import names
from trainedmodel_contract.quantity import parse_bytes

from trainedmodel_puller.drivers.factory import AUTO, SERVER_KINDS

F = TypeVar("F", bound=Callable[..., Any])

_FOLDER: Final = click.Path(path_type=Path, file_okay=False)
_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_SECRETS: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MANY: Final = click.IntRange(1, 1024)


class ByteCount(click.ParamType[int]):
    """A number of bytes, as Kubernetes writes it."""

    name = "quantity"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a quantity; anything else is told with the flag's name."""
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
        "Folder with the entries: one <name>.json a model, or KServe's models.json.",
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
        "Kind of model server; 'auto' asks it, 'none' only keeps the files.",
        type=click.Choice([AUTO, *SERVER_KINDS]),
        default=AUTO,
    ),
    _flag("--server-url", "Where the model server listens.  [default: as its kind does]"),
    _flag(
        "--server-model-dir",
        "--model-dir as the server sees it.  [default: the same]",
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
        "When /readyz turns good: each model of the first configuration was loaded or has failed "
        "once (settled), was loaded (all), or the model server answers (server).",
        type=click.Choice(names.READY_WHEN),
        default="settled",
    ),
    _flag(
        "--service",
        "Parent service of this pod. With POD_NAME, POD_NAMESPACE and POD_UID in the "
        "environment, a ModelReport is kept for it.",
    ),
    _flag(
        "--service-account-dir",
        "Folder with the service account's token and ca.crt.",
        type=_FOLDER,
        default=_SECRETS,
    ),
    _flag(
        "--period",
        "Seconds between two looks when nothing wakes the loop.",
        type=click.FloatRange(0.05, 3600),
        default=1.0,
    ),
    _flag("--max-downloads", "Models downloaded at once.", type=_MANY, default=16),
    _flag(
        "--max-connections",
        "Connections to stores at once, over all models.",
        type=_MANY,
        default=32,
    ),
    _flag(
        "--max-loads",
        "Loads at once; 0: as many as the kind of server bears.",
        type=click.IntRange(0, 1024),
        default=0,
    ),
    _flag(
        "--load-timeout",
        "Seconds that a load may take before it is called failed.",
        type=click.FloatRange(1, 86400),
        default=600.0,
    ),
    _flag(
        "--stall-timeout",
        "Seconds that a store may send nothing.",
        type=click.FloatRange(0.1, 3600),
        default=30.0,
    ),
    _flag(
        "--memory-budget",
        "Memory that the models may declare together, such as 8Gi; 0: any.",
        type=_BYTES,
        default=0,
    ),
    _flag(
        "--keep-versions",
        "Replaced revisions of a model that are kept for an instant rollback.",
        type=click.IntRange(0, 100),
        default=1,
    ),
    _flag(
        "--keep-bytes",
        "Size of the kept revisions of all models together; a download that needs the room "
        "takes it anyway.",
        type=_BYTES,
        default="10Gi",
    ),
    _flag(
        "--volume-limit",
        "Size that the volume may have, such as the sizeLimit of an emptyDir; downloads keep below "
        "it. 0: whatever its disk has.",
        type=_BYTES,
        default=0,
    ),
    _flag(
        "--volume-dir",
        "Root of the volume: all that lies there counts against --volume-limit.  "
        "[default: --model-dir and --state-dir alone]",
        type=_FOLDER,
    ),
    _flag(
        "--max-unpacked",
        "Size that one archive may unpack to; never more than there is room.",
        type=_BYTES,
        default="1Ti",
    ),
    _flag(
        "--allow-uri",
        "Prefix that storage URIs must have, such as s3://models/; may be given more than once. "
        "[default: any]",
        names=("--allow-uri", "allowed_uris"),
        multiple=True,
    ),
    _flag(
        "--max-listing",
        "Most objects that one model may have; a source with more is refused, to bound memory.",
        type=click.IntRange(1, 10_000_000),
        default=100_000,
    ),
    _flag(
        "--storage-backend",
        "Who speaks to object stores: obstore or fsspec, or for one of them s3=fsspec, gs=fsspec, "
        "az=fsspec; may be given more than once.  [default: obstore]",
        names=("--storage-backend", "storage_backends"),
        multiple=True,
    ),
    _flag(
        "--file-root",
        "Folder that file:// may read from; may be given more than once.",
        names=("--file-root", "file_roots"),
        type=_FOLDER,
        multiple=True,
    ),
    _flag(
        "--pvc-root",
        "Folder in which volume claims are mounted by name, for pvc://<claim>/<path>.",
        type=_FOLDER,
    ),
    _flag(
        "--credentials-dir",
        "Folder of credential profiles: one folder each, one file a variable (mounted Secrets).",
        type=_FOLDER,
    ),
    _flag(
        "--watch",
        "Whether changes of --config-dir wake the loop at once.",
        names=("--watch/--no-watch", "has_watch"),
        default=True,
    ),
    _flag(
        "--log-format",
        "Form of the log lines.",
        type=click.Choice(["json", "console"]),
        default="json",
    ),
    _flag(
        "--log-level",
        "Least level that is logged.",
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
