"""What a run with kind takes is made before the run, and a cluster lives as long as its block."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainedmodel_devkit.binaries import control_plane_binaries, kind_binary
from trainedmodel_devkit.errors import MissingTool
from trainedmodel_devkit.kind.choice import NODE_IMAGE_VARIABLE, Choice, choose
from trainedmodel_devkit.kind.cluster import KindCluster
from trainedmodel_devkit.kind.engine import BoxedDocker, Engine, MachinesDocker, complaint_of, run
from trainedmodel_devkit.kind.nodeimage import node_image
from trainedmodel_devkit.kind.prerequisites import check_builders, check_engine

_LOAD_TIMEOUT_S = 300


def prepare_kind() -> None:
    """Build what is not in the cache yet.

    Raises:
        MissingTool: this machine cannot run kind; the message says what to install.
    """
    choice = _chosen()
    if choice.own_engine:
        check_engine()
    else:
        check_builders()
    _kind_program(choice)
    _kubectl_program(choice)
    if choice.is_built:
        node_image()


@contextlib.contextmanager
def kind_cluster() -> Iterator[KindCluster]:
    """Run a cluster until the block ends.

    Raises:
        MissingTool: this machine cannot run kind.
        CommandFailed: Docker or kind ended with an error.
        StartFailed: Docker or the node did not become ready.
    """
    choice = _chosen()
    with contextlib.ExitStack() as stack:
        engine: Engine = MachinesDocker()
        if choice.own_engine:
            check_engine()
            engine = stack.enter_context(BoxedDocker())
        if choice.is_built:
            run(engine, "docker", "load", "--input", node_image(), timeout_s=_LOAD_TIMEOUT_S)
        programs = (_kind_program(choice), _kubectl_program(choice))
        yield stack.enter_context(KindCluster(engine, *programs, choice.image))


def _chosen() -> Choice:
    return choose(os.environ.get(NODE_IMAGE_VARIABLE), complaint_of())


def _kind_program(choice: Choice) -> Path:
    """Return kind: the user's where Docker is the user's, else the one compiled here."""
    found = None if choice.own_engine else shutil.which("kind")
    return Path(found) if found else kind_binary()


def _kubectl_program(choice: Choice) -> Path:
    """Return kubectl: the user's where Docker is the user's, else the one compiled here.

    Raises:
        MissingTool: the user has none. It is not compiled then: that takes the whole control plane.
    """
    if choice.own_engine:
        return control_plane_binaries().kubectl
    found = shutil.which("kubectl")
    if found is None:
        raise MissingTool("the provider kind needs kubectl on PATH")
    return Path(found)
