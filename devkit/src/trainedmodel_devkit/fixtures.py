"""Context managers that several test folders turn into fixtures of their own."""

import contextlib
from collections.abc import Iterator

from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.stores import S3Store


@contextlib.contextmanager
def control_plane(*, audit_log: bool = False) -> Iterator[ControlPlane]:
    """Run a control plane; compiles it at first use, which takes minutes."""
    with ControlPlane(audit_log=audit_log) as running:
        yield running


@contextlib.contextmanager
def s3_store() -> Iterator[S3Store]:
    """Run an S3 server with an empty folder."""
    with S3Store() as running:
        yield running
