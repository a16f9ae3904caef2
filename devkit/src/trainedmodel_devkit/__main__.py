"""Command line of the development kit: `python -m trainedmodel_devkit`."""

import os
import signal
import sys
from types import FrameType

import click

from trainedmodel_devkit import guard
from trainedmodel_devkit.binaries import (
    alerts_binary,
    cert_manager_binary,
    cert_manager_crds,
    control_plane_binaries,
    fake_gcs_server_binary,
    helm_binary,
    node_binaries,
    versitygw_binary,
)
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.demo import run_demo
from trainedmodel_devkit.environments import ensure_environment
from trainedmodel_devkit.errors import DevkitError
from trainedmodel_devkit.kind import prepare_kind
from trainedmodel_devkit.models import train_all
from trainedmodel_devkit.progress import say
from trainedmodel_devkit.realnode import NodeCluster, check_prerequisites
from trainedmodel_devkit.realnode.images import ensure_image, mend_store
from trainedmodel_devkit.realnode.recipes import mlserver_recipe, operator_recipe, puller_recipe
from trainedmodel_devkit.servers import Llama, MLServer, MultiModelServer, TorchServe, Triton
from trainedmodel_devkit.stores import S3Store


@click.group()
def main() -> None:
    """Real parts for tests and the demo: control plane, S3 store, model servers."""


@main.command()
@click.option("--tests", "for_tests", is_flag=True, help="Also the servers that only tests use.")
@click.option(
    "--e2e",
    "provider",
    type=click.Choice(["node", "kind", "kubeconfig"]),
    help="Only what the end-to-end suite needs with a provider.",
)
def prepare(for_tests: bool, provider: str | None) -> None:
    """Compile and install everything that is not in the cache yet."""
    try:
        if provider is not None:
            _ensure_for_e2e(provider)
            return
        _ensure_all()
        if for_tests:
            if os.geteuid() == 0:  # who is not root runs no node
                node_binaries()
            helm_binary()
            fake_gcs_server_binary()
            cert_manager_binary()
            cert_manager_crds()
            alerts_binary()
            for launcher in (MultiModelServer(), TorchServe(), Llama()):
                launcher.ensure()
            ensure_environment("tfsprotos", expected_s=5, with_dependencies=False)
    except DevkitError as error:
        raise click.ClickException(str(error)) from error
    say("everything is in place")


@main.command()
def clean() -> None:
    """Remove what killed runs have left: processes, network devices, cgroups, mounts, folders.

    Each start of a part does the same. What runs is left alone.
    """
    try:
        number = guard.mend()
        mend_store()
    except DevkitError as error:
        raise click.ClickException(str(error)) from error
    say(f"removed what {number} killed runs have left" if number else "nothing was left behind")


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
def node() -> None:
    """Run a cluster with a real node until Ctrl-C, with this checkout's images on it; needs root.

    Prints the line that points kubectl to it. An S3 server for its pods runs beside it.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    recipes = (operator_recipe, puller_recipe, mlserver_recipe)
    try:
        check_prerequisites()
        archives = [ensure_image(recipe()) for recipe in recipes]
        with NodeCluster() as cluster, S3Store(cluster.machine_address) as store:
            cluster.load_images(archives)
            click.echo(f"export KUBECONFIG={cluster.control_plane.kubeconfig}")
            for key, value in store.env().items():
                click.echo(f"export {key}={value}")
            say(f"images: {', '.join(recipe().name for recipe in recipes)}; runs until Ctrl-C")
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


def _ensure_for_e2e(provider: str) -> None:
    """Compile and build what the end-to-end suite takes, so that no test has to wait for it."""
    if provider == "node":
        check_prerequisites()
        control_plane_binaries()
        node_binaries()
    if provider == "kind":
        prepare_kind()
    if provider != "kubeconfig":
        for recipe in (operator_recipe, puller_recipe, mlserver_recipe):
            ensure_image(recipe())
    versitygw_binary()
    helm_binary()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="python -m trainedmodel_devkit")
