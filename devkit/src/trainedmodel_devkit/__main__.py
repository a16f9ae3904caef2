"""Command line of the development kit: `python -m trainedmodel_devkit`."""

import signal
import sys
from types import FrameType

import click

from trainedmodel_devkit.binaries import control_plane_binaries, versitygw_binary
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.demo import run_demo
from trainedmodel_devkit.environments import ensure_environment
from trainedmodel_devkit.errors import DevkitError
from trainedmodel_devkit.models import train_all
from trainedmodel_devkit.progress import say
from trainedmodel_devkit.servers import Llama, MLServer, MultiModelServer, TorchServe, Triton


@click.group()
def main() -> None:
    """Real parts for tests and the demo: control plane, S3 store, model servers."""


@main.command()
@click.option("--tests", "for_tests", is_flag=True, help="Also the servers that only tests use.")
def prepare(for_tests: bool) -> None:
    """Compile and install everything that is not in the cache yet."""
    try:
        _ensure_all()
        if for_tests:
            for launcher in (MultiModelServer(), TorchServe(), Llama()):
                launcher.ensure()
            ensure_environment("tfsprotos", expected_s=5, with_dependencies=False)
    except DevkitError as error:
        raise click.ClickException(str(error)) from error
    say("everything is in place")


@main.command()
@click.option("--audit-log", is_flag=True, help="Keep a log of every request.")
def up(audit_log: bool) -> None:
    """Run a control plane until Ctrl-C; prints the line that points kubectl to it."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ControlPlane(audit_log=audit_log) as control_plane:
            click.echo(f"export KUBECONFIG={control_plane.kubeconfig}")
            say(f"{control_plane.server} runs until Ctrl-C")
            signal.pause()
    except KeyboardInterrupt:
        say("stopped")
    except DevkitError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option("--once", is_flag=True, help="End after the last step; fail if any did not happen.")
def demo(once: bool) -> None:
    """Show the whole system: models applied, asked, updated under load, deleted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _ensure_all()
    except KeyboardInterrupt:
        sys.exit(130)
    except DevkitError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(run_demo(once=once))


def _ensure_all() -> None:
    """Compile, install and train what is not in the cache yet."""
    control_plane_binaries()
    versitygw_binary()
    Triton().ensure()
    MLServer().ensure()
    train_all()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="python -m trainedmodel_devkit")
