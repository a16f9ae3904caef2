"""cert-manager beside a control plane: its CRDs, and its controllers as one process.

Issuers of the kinds SelfSigned and CA work, Certificates are issued and renewed, and webhook
configurations that ask by `cert-manager.io/inject-ca-from` are given their authority. Its admission
webhook does not run: what it would refuse is taken by the API server, as in the minute before it
comes up anywhere.
"""

from typing import Self

from trainedmodel_devkit.binaries import cert_manager_binary, cert_manager_crds
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.processes import ManagedProcess


class CertManager:
    """cert-manager on a control plane that runs; a context manager."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.control_plane = control_plane
        self.process = ManagedProcess(
            "cert-manager",
            [cert_manager_binary(), f"--kubeconfig={control_plane.kubeconfig}"],
            log=control_plane.folder / "logs" / "cert-manager.log",
        )

    def __enter__(self) -> Self:
        kubectl = self.control_plane.kubectl
        kubectl("apply", "--server-side", "-f", str(cert_manager_crds()))
        kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()

    def renew(self, namespace: str, certificate: str) -> None:
        """Have a Certificate issued again now, as `cmctl renew` does: by its condition Issuing."""
        condition = (
            '{"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", '
            '"message": "renewal was asked for", "lastTransitionTime": "2020-01-01T00:00:00Z"}'
        )
        self.control_plane.kubectl(
            *("patch", "certificate", certificate, "-n", namespace, "--subresource=status"),
            *("--type=json", "-p"),
            f'[{{"op": "add", "path": "/status/conditions/-", "value": {condition}}}]',
        )
