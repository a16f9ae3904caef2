"""The webhook's certificates: stored in a Secret, published, and loaded by this replica's server.

There are two implementations of `Certificates`. Each runs beside the server:

`SelfSignedCertificates`: all replicas read one Secret every few seconds and serve its leaf. The
leader carries out the decisions of `core.certificates`, one step for each read: a write of the
Secret under the resourceVersion that was read, or a patch of the one `caBundle`. It reverts manual
edits there. A replica that may not write never makes a certificate of its own. So at any moment
there is one served leaf, or two that are both trusted.

`FileCertificates`: cert-manager, or another tool, keeps `tls.crt` and `tls.key` in a mounted folder
and puts the authority into the configuration itself. Here the files are read again when they
change.

A failure ends neither of them. A certificate lives for months, so a Secret that cannot be read for
an hour is a warning in the log, and the next read may succeed. Foreign objects are not touched: a
Secret without the operator's label is refused with a message that names the fix.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import structlog
from trainedmodel_contract import names

from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.core.certificates import Decision, Lifetimes, Situation, Step, decide
from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.pacing.rate_limiter import PriorityLevel
from trainedmodel_operator.errors import CertificateError, Conflict, NotFound, OperatorError
from trainedmodel_operator.webhook import pki

#: Name of the webhook in its configuration: the entry whose caBundle is ours to write.
WEBHOOK_NAME: Final = "pods.trainedmodel.dev"
FIELD_MANAGER: Final = f"{names.MANAGED_BY}-webhook"

_APPLY: Final = "application/apply-patch+yaml"
_MERGE_PATCH: Final = "application/merge-patch+json"
_STRATEGIC: Final = "application/strategic-merge-patch+json"
#: A leader carries out this many steps at one look; a whole start takes three.
_MOST_STEPS: Final = 6
_FIRST_LOOK_S: Final = 0.5

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePlace:
    """Where the self-made certificates are kept and published.

    Attributes:
        namespace: The operator's own.
        secret: Name of the Secret.
        configuration: Name of the MutatingWebhookConfiguration.
        hosts: Names and addresses that API servers call the webhook by.
        period_s: Seconds between two looks.
    """

    namespace: str
    secret: str = "trainedmodel-webhook"  # noqa: S105 - the Secret's name
    configuration: str = "trainedmodel-webhook"
    hosts: frozenset[str]
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    period_s: float = 15.0


class Certificates(Protocol):
    """The certificates for the webhook's server."""

    @property
    def context(self) -> ssl.SSLContext:
        """The context to serve with; its certificate may change at any time."""
        ...

    @property
    def has_begun(self) -> asyncio.Event:
        """Set once there is a certificate to serve."""
        ...

    async def run(self) -> None:
        """Keep the context's certificate current, for ever."""
        ...


class SelfSignedCertificates:
    """Certificates from a Secret, made by the leader."""

    def __init__(
        self,
        transport: Transport,
        place: CertificatePlace,
        may_write: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.context = pki.new_context()
        self.has_begun = asyncio.Event()
        self._transport = transport
        self._place = place
        self._may_write = may_write
        self._now = now
        self._served = ""
        self._fault = ""

    async def run(self) -> None:
        """Look, act if this replica may, load what is new; for ever."""
        while True:
            try:
                await self.look()
                self._fault = ""
            except OperatorError as error:
                self._tell(error)
            is_begun = self.has_begun.is_set()
            await asyncio.sleep(self._place.period_s if is_begun else _FIRST_LOOK_S)

    async def look(self) -> None:
        """Bring Secret, configuration and context to the desired state, as far as allowed.

        Raises:
            ApiError: a read or a write failed; the next look starts again.
            NotLeading: this replica has ceased to lead meanwhile.
            CertificateError: the Secret cannot be used.
        """
        for _ in range(_MOST_STEPS):
            secret = await self._get(self._secret_path())
            bundle = self._read(secret)
            if not self._may_write():
                break
            configuration = await self._get(self._configuration_path())
            decision = await asyncio.to_thread(self._decide, bundle, configuration)
            if decision.step is Step.KEEP:
                break
            log.info("webhook_certificates_due", step=decision.step, detail=decision.reason)
            try:
                await self._carry_out(decision, secret, bundle, configuration)
            except Conflict:
                log.info("webhook_certificates_conflicted")
        await self._load(self._read(secret))

    def _decide(self, bundle: pki.Bundle, configuration: Document | None) -> Decision:
        return decide(
            Situation(
                held=pki.read_bundle(bundle),
                hosts=self._place.hosts,
                now=self._now(),
                lifetimes=self._place.lifetimes,
                is_published=_is_published(configuration, pki.encoded(bundle.authorities)),
            )
        )

    async def _carry_out(
        self,
        decision: Decision,
        secret: Document | None,
        bundle: pki.Bundle,
        configuration: Document | None,
    ) -> None:
        if decision.step is Step.PUBLISH:
            await self._publish(bundle, configuration)
            return
        after = await asyncio.to_thread(self._next_bundle, decision.step, bundle)
        await self._store(after, secret)

    def _next_bundle(self, step: Step, bundle: pki.Bundle) -> pki.Bundle:
        hosts, now, lifetimes = self._place.hosts, self._now(), self._place.lifetimes
        if step is Step.START:
            return pki.start_anew(hosts, now, lifetimes)
        if step is Step.ADD:
            return pki.add_authority(bundle, now, lifetimes)
        if step is Step.DROP:
            return pki.drop_expired(bundle, now)
        return pki.issue_leaf(bundle, hosts, now, lifetimes)

    async def _publish(self, bundle: pki.Bundle, configuration: Document | None) -> None:
        """Patch our webhook's caBundle, and nothing else of the configuration."""
        place = self._place
        if configuration is None:
            return  # decided to be published: `_is_published`
        webhook = {
            "name": WEBHOOK_NAME,
            "clientConfig": {"caBundle": pki.encoded(bundle.authorities)},
        }
        version = configuration["metadata"]["resourceVersion"]
        await self._write(
            self._configuration_path(),
            {"metadata": {"resourceVersion": version}, "webhooks": [webhook]},
            _STRATEGIC,
        )
        log.info("webhook_authority_published", configuration=place.configuration)

    async def _store(self, bundle: pki.Bundle, secret: Document | None) -> None:
        """Write the Secret: under the version that was read, or create it.

        It is created by an apply: RBAC can allow that for one name, which it cannot for a POST.
        """
        data = bundle.to_secret()
        if secret is not None:
            version = secret["metadata"]["resourceVersion"]
            body: Document = {"metadata": {"resourceVersion": version}, "data": data}
            await self._write(self._secret_path(), body, _MERGE_PATCH)
            return
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self._place.secret,
                "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
            },
            "type": "Opaque",
            "data": data,
        }
        await self._write(self._secret_path(), body, _APPLY)

    async def _load(self, bundle: pki.Bundle) -> None:
        """Serve the leaf, if it is another than now."""
        if not bundle.certificate or not bundle.key or bundle.certificate == self._served:
            return
        await asyncio.to_thread(pki.load_pair, self.context, bundle.certificate, bundle.key)
        self._served = bundle.certificate
        self.has_begun.set()
        log.info("webhook_certificate_loaded")

    def _read(self, secret: Document | None) -> pki.Bundle:
        if secret is None:
            return pki.Bundle()
        labels = secret["metadata"].get("labels") or {}
        if labels.get(names.MANAGED_BY_LABEL) != names.MANAGED_BY:
            place = f"{self._place.namespace}/{self._place.secret}"
            raise CertificateError(
                f"Secret {place} does not belong to the operator: delete it, or set another name "
                "with --webhook-secret"
            )
        return pki.Bundle.from_secret(secret.get("data") or {})

    async def _get(self, path: str) -> Document | None:
        try:
            return await self._transport.request(PriorityLevel.READ, "GET", path)
        except NotFound:
            return None

    async def _write(self, path: str, body: Document, content_type: str) -> None:
        query = {"fieldManager": FIELD_MANAGER}
        await self._transport.request(
            PriorityLevel.SHARD, "PATCH", path, query=query, body=body, content_type=content_type
        )

    def _secret_path(self) -> str:
        return f"/api/v1/namespaces/{self._place.namespace}/secrets/{self._place.secret}"

    def _configuration_path(self) -> str:
        return (
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"
            f"{self._place.configuration}"
        )

    def _tell(self, error: Exception) -> None:
        """Log a failure once, not at each look."""
        fault = str(error)
        say = log.debug if fault == self._fault else log.warning
        say("webhook_certificates_not_checked", error=fault)
        self._fault = fault


class FileCertificates:
    """Certificates that another tool keeps in a folder."""

    def __init__(self, folder: Path, period_s: float = 5.0) -> None:
        self.context = pki.new_context()
        self.has_begun = asyncio.Event()
        self._folder = folder
        self._period_s = period_s
        self._seen = b""

    async def run(self) -> None:
        """Read the files again and again; for ever."""
        fault = ""
        while True:
            try:
                if await asyncio.to_thread(self._look):
                    log.info("webhook_certificate_loaded", folder=str(self._folder))
                    self.has_begun.set()
                fault = ""
            except (CertificateError, OSError, UnicodeDecodeError) as error:
                if str(error) != fault:
                    log.warning("webhook_certificate_not_loaded", error=str(error))
                fault = str(error)
            is_begun = self.has_begun.is_set()
            await asyncio.sleep(self._period_s if is_begun else _FIRST_LOOK_S)

    def _look(self) -> bool:
        """Load the files if they changed; tell whether they did."""
        certificate = (self._folder / pki.CERTIFICATE).read_text()
        key = (self._folder / pki.KEY).read_text()
        seen = hashlib.sha256(f"{certificate}\n{key}".encode()).digest()
        if seen == self._seen:
            return False
        # Two files cannot be read at one moment: a pair that does not fit is read again.
        pki.load_pair(self.context, certificate, key)
        self._seen = seen
        return True


def service_hosts(service: str, namespace: str) -> frozenset[str]:
    """Return the names that API servers call a Service by."""
    return frozenset({f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"})


def _is_published(configuration: Document | None, bundle: str) -> bool:
    """Tell whether our webhook has this bundle; where it is not installed, nothing is to be done.

    A configuration that injects by cert-manager has no place for ours.
    """
    if configuration is None:
        return True
    found = [
        (webhook.get("clientConfig") or {}).get("caBundle")
        for webhook in configuration.get("webhooks") or ()
        if webhook.get("name") == WEBHOOK_NAME
    ]
    return all(one == bundle for one in found)
