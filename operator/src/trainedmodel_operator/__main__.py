"""The command line: `trainedmodel-operator`, or `python -m trainedmodel_operator`.

The command needs no argument. Every option has an environment variable, which `--help` shows. The
option wins.

Exit codes: 0 after SIGTERM or SIGINT, 1 if the operator cannot start or a part failed, 75 if it was
the leader and lost the Lease, 2 for an invalid command line.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any, Final

import click
import structlog

from trainedmodel_operator.app import run
from trainedmodel_operator.cli import flags
from trainedmodel_operator.cli.convert_command import convert_command
from trainedmodel_operator.cli.lease_flags import LEASE_FLAGS, take_lease_settings
from trainedmodel_operator.cli.webhook_flags import WEBHOOK_FLAGS, take_webhook_settings
from trainedmodel_operator.errors import ConfigurationError, LeadershipLost
from trainedmodel_operator.observability.logs import configure_logs
from trainedmodel_operator.settings import Settings, check_ports

#: A list of thousands of objects is as many allocations and no garbage: with Python's own
#: thresholds a quarter of a start's time goes into looking for some.
_COLLECT_AFTER: Final = (50_000, 20, 20)

_DEFAULTS = Settings()
#: Exit code after the loss of the Lease: not an error; the process is to be started again.
LOST = 75

log = structlog.get_logger()


@click.group(
    invoke_without_command=True,
    context_settings={
        "auto_envvar_prefix": "TRAINEDMODEL_OPERATOR",
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    callback=flags.namespaces,
    envvar="TRAINEDMODEL_OPERATOR_NAMESPACE",
    show_envvar=True,
    show_default="all namespaces",
    help="Namespace to serve. Repeatable; commas or spaces separate several names.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=_DEFAULTS.metrics_port,
    show_envvar=True,
    help="Port of the Prometheus metrics; 0 turns them off.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    default=_DEFAULTS.health_port,
    show_envvar=True,
    help="Port of the probes (/healthz and /readyz); 0 turns them off.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    default=_DEFAULTS.log_format,
    show_envvar=True,
    help="Format of the log: one JSON object for each line, or readable text.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default=_DEFAULTS.log_level,
    show_envvar=True,
    help="Lowest level that is logged.",
)
@click.option(
    "--resync-s",
    type=flags.Seconds(min=0.1),
    default=_DEFAULTS.resync_s,
    hidden=True,
    help="Seconds between two resyncs.",
)
@flags.with_flags((*LEASE_FLAGS, *WEBHOOK_FLAGS))
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Turn TrainedModels into ConfigMap entries, and report back the truth.

    Reaches the cluster by KUBECONFIG, by the pod's service account, or by ~/.kube/config.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        lease, webhook = take_lease_settings(options), take_webhook_settings(options)
        settings = Settings(lease=lease, webhook=webhook, **options)
        check_ports(settings)
        configure_logs(settings)
        _tell_unknown_variables()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        asyncio.run(run(settings))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    except LeadershipLost:
        sys.exit(LOST)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        log.exception("operator_failed")
        sys.exit(1)


def _tell_unknown_variables() -> None:
    """Warn of unknown variables, because a misspelt one would be ignored in silence."""
    known = {f"{flags.PREFIX}{one.name}".upper() for one in main.params}
    for option in main.params:
        if isinstance(option.envvar, str):
            known.add(option.envvar)
    for name, meant in flags.unknown_variables(known).items():
        if not name.startswith(f"{flags.PREFIX}CONVERT_"):
            log.warning(
                "variable_ignored", variable=name, error="unknown variable", did_you_mean=meant
            )


main.add_command(convert_command)


if __name__ == "__main__":
    main()
