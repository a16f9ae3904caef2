"""Keys and certificates as they are made, kept and served."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from trainedmodel_operator.core.certificates import Held, Lifetimes
from trainedmodel_operator.errors import CertificateError
from trainedmodel_operator.webhook import pki

pytestmark = pytest.mark.slow

HOSTS = frozenset({"localhost", "127.0.0.1"})
LIFETIMES = Lifetimes()


def now() -> datetime:
    return datetime.now(UTC)


async def hands_shaken(port: int, trusted: pki.Bundle) -> bool:
    """Tell whether a server proves to be who a bundle's authorities say."""
    context = ssl.create_default_context(cadata=trusted.authorities)
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except ssl.SSLError:
        return False
    writer.close()
    return True


async def test_what_is_made_is_trusted_and_served_and_changed_without_a_new_server() -> None:
    first, second = (pki.start_anew(HOSTS, now(), LIFETIMES) for _ in range(2))
    context = pki.new_context()
    pki.load_pair(context, first.certificate, first.key)
    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        assert await hands_shaken(port, first)
        assert not await hands_shaken(port, second)
        pki.load_pair(context, second.certificate, second.key)
        assert await hands_shaken(port, second)
        with pytest.raises(CertificateError, match="cannot be used"):
            pki.load_pair(context, first.certificate, second.key)
        assert await hands_shaken(port, second)
    finally:
        server.close()
        await server.wait_closed()


async def test_no_handshake_falls_between_a_certificate_and_its_key() -> None:
    first = pki.start_anew(HOSTS, now(), LIFETIMES)
    leaves = [first, pki.issue_leaf(first, HOSTS, now(), LIFETIMES)]
    context = pki.new_context()
    pki.load_pair(context, first.certificate, first.key)
    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]

    async def change() -> None:
        for leaf in itertools.cycle(leaves):
            await asyncio.to_thread(pki.load_pair, context, leaf.certificate, leaf.key)

    changing = asyncio.create_task(change())
    try:
        for _ in range(75):
            assert all(await asyncio.gather(*(hands_shaken(port, first) for _ in range(4))))
    finally:
        changing.cancel()
        await asyncio.wait([changing])
        server.close()
        await server.wait_closed()


async def test_where_there_are_no_memory_files_a_temporary_one_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    bundle = pki.start_anew(HOSTS, now(), LIFETIMES)
    pki.load_pair(pki.new_context(), bundle.certificate, bundle.key)


def test_a_bundle_survives_its_secret() -> None:
    bundle = pki.start_anew(HOSTS, now(), LIFETIMES)
    assert pki.Bundle.from_secret(bundle.to_secret()) == bundle
    held = pki.read_bundle(bundle)
    assert held.authorities[0].has_key
    assert held.leaf is not None
    assert held.leaf.has_key
    assert held.leaf.hosts == HOSTS
    assert held.leaf.signer == held.authorities[0].fingerprint


def test_a_second_authority_leaves_the_leaf_trusted_and_signs_the_next() -> None:
    first = pki.start_anew(HOSTS, now(), LIFETIMES)
    both = pki.add_authority(first, now(), LIFETIMES)
    newest, old = pki.read_bundle(both).authorities
    assert (newest.has_key, old.has_key) == (True, False)
    leaf = pki.read_bundle(both).leaf
    assert leaf is not None
    assert leaf.signer == old.fingerprint
    after = pki.read_bundle(pki.issue_leaf(both, HOSTS, now(), LIFETIMES)).leaf
    assert after is not None
    assert after.signer == newest.fingerprint


def test_an_expired_authority_is_left_out_and_the_newest_never() -> None:
    short = Lifetimes(authority=timedelta(minutes=1))
    both = pki.add_authority(pki.start_anew(HOSTS, now(), short), now(), LIFETIMES)
    later = now() + timedelta(minutes=2)
    (kept,) = pki.read_bundle(pki.drop_expired(both, later)).authorities
    assert kept == pki.read_bundle(both).authorities[0]
    assert pki.drop_expired(both, now()) == both


@pytest.mark.parametrize("text", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_is_read_as_none(text: str) -> None:
    assert pki.read_bundle(pki.Bundle(text, text, text, text)) == Held()
    with pytest.raises(CertificateError):
        pki.issue_leaf(pki.Bundle(text, text, text, text), HOSTS, now(), LIFETIMES)


def test_a_secret_of_any_content_is_read() -> None:
    data = {"ca.crt": "%%%", "tls.crt": "/////w==", "other": "x"}
    assert pki.Bundle.from_secret(data) == pki.Bundle()


def test_a_leaf_never_outlives_its_authority() -> None:
    short = Lifetimes(authority=timedelta(days=2))
    held = pki.read_bundle(pki.start_anew(HOSTS, now(), short))
    assert held.leaf is not None
    assert held.leaf.not_after == held.authorities[0].not_after


def test_no_key_is_ever_shown() -> None:
    bundle = pki.start_anew(HOSTS, now(), LIFETIMES)
    assert "PRIVATE" not in f"{bundle!r} {bundle}"
