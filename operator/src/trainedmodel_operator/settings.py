"""Settings: the values of the command line, with their units, defaults and reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final, Literal

from trainedmodel_operator.core.injection.sidecar import InjectionSettings
from trainedmodel_operator.core.lease import Terms
from trainedmodel_operator.errors import ConfigurationError

LogFormat = Literal["json", "console"]

#: Name of Service, Secret and configuration of the webhook as shipped.
WEBHOOK_NAME: Final = "trainedmodel-webhook"
PULLER_IMAGE: Final = "trainedmodel-puller:dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """How one replica serves the webhook.

    Attributes:
        port: Where API servers reach it; 0: nowhere, nothing is injected.
        certificates: Folder of certificates that another tool renews; None: self-signed.
        service: Service that API servers call it by, in the operator's own namespace.
        secret: Secret of the self-made certificates.
        configuration: MutatingWebhookConfiguration that they are published in.
        hosts: Further names and addresses that it is called by.
        injection: Settings of injected pullers.
    """

    port: int = 0
    certificates: Path | None = None
    service: str = WEBHOOK_NAME
    secret: str = WEBHOOK_NAME
    configuration: str = WEBHOOK_NAME
    hosts: tuple[str, ...] = ()
    injection: InjectionSettings = field(
        default_factory=lambda: InjectionSettings(image=PULLER_IMAGE)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """How replicas elect the one that works.

    Attributes:
        elect: Whether they do; None: in a cluster.
        namespace: Where the Lease lies; None: in the operator's own namespace.
        name: Its name.
        terms: How long things last.
    """

    elect: bool | None = None
    namespace: str | None = None
    name: str = "trainedmodel-operator"
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one operator runs.

    Attributes:
        namespaces: Exact names of the namespaces to serve; none: all of them.
        metrics_port: Where Prometheus reads the metrics; 0: nowhere.
        health_port: Where the kubelet asks whether the process is alive and ready; 0: nowhere.
        log_format: JSON for machines (one object a line), or text for people.
        log_level: The lowest level that is logged.
        resync_s: Seconds between two resyncs. 60 is how long an event that was lost, or
            an edit by hand, may go unnoticed; a resync of 10,000 models costs the API server about
            half a second.
        lease: How replicas elect the one that works.
        webhook: How the puller is injected.
    """

    namespaces: tuple[str, ...] = ()
    metrics_port: int = 9190
    health_port: int = 8080
    log_format: LogFormat = "json"
    log_level: str = "info"
    resync_s: float = 60.0
    lease: LeaseSettings = field(default_factory=LeaseSettings)
    webhook: WebhookSettings = field(default_factory=WebhookSettings)


def check_ports(settings: Settings) -> None:
    """Refuse two flags that ask for one port.

    Raises:
        ConfigurationError: there are two; names both.
    """
    asked = {
        "--metrics-port": settings.metrics_port,
        "--health-port": settings.health_port,
        "--webhook-port": settings.webhook.port,
    }
    for (one, port), (other, same) in combinations(asked.items(), 2):
        if port == same != 0:
            raise ConfigurationError(f"{one} and {other} are both {port}: set different ports")
