"""Keys and certificates: makes them, reads them, and loads them into TLS.

`core.certificates` decides, and this module carries out. A `Bundle` is the content of the Secret:
PEM text under the keys that other tools use (`ca.crt`, `tls.crt`, `tls.key`), and `ca.key`. Reading
never raises. Text that is not a certificate counts as a missing authority or leaf, and the decision
is then to make a new one.

Keys are elliptic (P-256): small, and made in a millisecond. An authority may sign leaves only, and
its leaves are valid for serving only.
"""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trainedmodel_operator.core.certificates import Authority, Held, Leaf, Lifetimes
from trainedmodel_operator.errors import CertificateError

CA_CERTIFICATES: Final = "ca.crt"
CA_KEY: Final = "ca.key"
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"

_AUTHORITY_NAME: Final = "trainedmodel-operator webhook authority"
_LEAF_NAME: Final = "trainedmodel-operator webhook"


@dataclass(frozen=True, slots=True, repr=False)
class Bundle:
    """The content of the Secret, as PEM text; empty where it has none.

    Has no `repr`: two of the four must not reach a log.

    Attributes:
        authorities: Certificates of the authorities, the newest first: the `caBundle`.
        authority_key: Key of the newest.
    """

    authorities: str = ""
    authority_key: str = ""
    certificate: str = ""
    key: str = ""

    @classmethod
    def from_secret(cls, data: Mapping[str, str]) -> Bundle:
        """Read a Secret's data."""
        return cls(
            *(_decoded(data.get(key)) for key in (CA_CERTIFICATES, CA_KEY, CERTIFICATE, KEY))
        )

    def to_secret(self) -> dict[str, str]:
        """Return a Secret's data."""
        parts = (self.authorities, self.authority_key, self.certificate, self.key)
        keys = (CA_CERTIFICATES, CA_KEY, CERTIFICATE, KEY)
        return {key: encoded(part) for key, part in zip(keys, parts, strict=True)}


def encoded(text: str) -> str:
    """Return text as Secrets and webhook configurations want it."""
    return base64.b64encode(text.encode()).decode()


def read_bundle(bundle: Bundle) -> Held:
    """Read what decisions need to know of a bundle."""
    certificates = _certificates(bundle.authorities)
    authority_key, key = _key(bundle.authority_key), _key(bundle.key)
    authorities = tuple(
        Authority(
            fingerprint=_fingerprint(one),
            not_before=one.not_valid_before_utc,
            not_after=one.not_valid_after_utc,
            has_key=index == 0 and _fits(authority_key, one),
        )
        for index, one in enumerate(certificates)
    )
    chain = _certificates(bundle.certificate)
    if not chain:
        return Held(authorities)
    signer = next((one for one in certificates if _is_signed_by(chain[0], one)), None)
    return Held(
        authorities,
        Leaf(
            signer=None if signer is None else _fingerprint(signer),
            hosts=_hosts(chain[0]),
            not_before=chain[0].not_valid_before_utc,
            not_after=chain[0].not_valid_after_utc,
            has_key=_fits(key, chain[0]),
        ),
    )


def add_authority(bundle: Bundle, now: datetime, lifetimes: Lifetimes) -> Bundle:
    """Put a new authority in front of those that are there; the leaf stays."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Each has a name of its own: a verifier looks for a leaf's signer by name first.
    name = _name(f"{_AUTHORITY_NAME} {now:%Y-%m-%d %H:%M:%S}")
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - lifetimes.skew)
        .not_valid_after(now + lifetimes.authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return replace(
        bundle, authorities=_pem(certificate) + bundle.authorities, authority_key=_key_pem(key)
    )


def issue_leaf(
    bundle: Bundle, hosts: frozenset[str], now: datetime, lifetimes: Lifetimes
) -> Bundle:
    """Replace the leaf by a new one of the newest authority.

    Raises:
        CertificateError: that authority cannot sign.
    """
    authority_key = _key(bundle.authority_key)
    authorities = _certificates(bundle.authorities)
    if authority_key is None or not authorities or not _fits(authority_key, authorities[0]):
        raise CertificateError("the newest authority of the webhook's certificates has no key")
    key = ec.generate_private_key(ec.SECP256R1())
    public, issuer = key.public_key(), authorities[0]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(_LEAF_NAME))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - lifetimes.skew, issuer.not_valid_before_utc))
        .not_valid_after(min(now + lifetimes.leaf, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_general_names(hosts)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    return replace(bundle, certificate=_pem(certificate), key=_key_pem(key))


def start_anew(hosts: frozenset[str], now: datetime, lifetimes: Lifetimes) -> Bundle:
    """Make an authority and a leaf of it."""
    return issue_leaf(add_authority(Bundle(), now, lifetimes), hosts, now, lifetimes)


def drop_expired(bundle: Bundle, now: datetime) -> Bundle:
    """Leave out the old authorities that have expired."""
    newest, *old = _certificates(bundle.authorities)
    kept = [newest, *(one for one in old if one.not_valid_after_utc > now)]
    return replace(bundle, authorities="".join(_pem(one) for one in kept))


def new_context() -> ssl.SSLContext:
    """Return a context for a server that has no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Let a context serve another certificate, from its next handshake on.

    The pair is loaded into a context of its own, which each handshake is then handed over to.
    Loaded into the one that serves, there would be a moment with the new certificate and the old
    key, and a pod whose review begins in it would be refused. A pair that does not fit leaves what
    is served as it was.

    Raises:
        CertificateError: the texts are no certificate and key that fit.
    """
    loaded = new_context()
    try:
        _load(loaded, f"{certificate}\n{key}\n".encode())
    except (ssl.SSLError, OSError, ValueError) as error:
        raise CertificateError(f"the serving certificate cannot be used: {error}") from error
    context.sni_callback = functools.partial(_hand_over, loaded)


def _hand_over(
    to: ssl.SSLContext, connection: ssl.SSLObject, _name: str | None, _from: ssl.SSLContext
) -> None:
    """Answer a client's hello, whether it names a server or not, with another context."""
    connection.context = to


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Load from a file, which is the only way there is, that never lies on a disk if possible."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
        return
    descriptor = os.memfd_create("webhook-certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _decoded(text: str | None) -> str:
    try:
        return base64.b64decode(text or "", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _certificates(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode()) if pem.strip() else []
    except ValueError:
        return []


def _key(pem: str) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _fits(key: ec.EllipticCurvePrivateKey | None, certificate: x509.Certificate) -> bool:
    return key is not None and key.public_key() == certificate.public_key()


def _is_signed_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _hosts(certificate: x509.Certificate) -> frozenset[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return frozenset({*names.get_values_for_type(x509.DNSName), *addresses})


def _general_names(hosts: frozenset[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in sorted(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
