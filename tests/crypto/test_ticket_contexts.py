"""Contexts of a listener with tickets of ours, and with certificates of two kinds of keys for one name."""

from __future__ import annotations

import pytest
from cryptography import x509

from accessgw.core.interfaces.tls import OpenedTicket
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.model.counters import TlsCounters
from accessgw.model.listener_settings import CertificateSettings
from protocols.errors import RemoteError
from protocols.tls.engine import HandshakeCompleted
from protocols.tls.psk import ExternalPsk
from tests.protocols.tls.tls_links import Link, client, localhost

OURS, FOREIGN = b"\x01" + bytes(16), b"\x02" + bytes(16)


class Tickets:
    """TicketKeys that know one ticket until second 100."""

    full_authentication_days = 7

    def open(self, identity, now):
        return OpenedTicket(identity, 0.0, 0, bytes(8)) if identity == OURS and now <= 100 else None

    def key(self, opened):
        return b"k" * 32


def written(directory, *kinds):
    found = []
    for kind in kinds:
        certificate = localhost(kind)
        chain, key = directory / f"{kind}.pem", directory / f"{kind}-key.pem"
        chain.write_bytes(certificate.chain)
        key.write_bytes(certificate.key)
        found.append(CertificateSettings(chain=str(chain), key=str(key)))
    return found


def shake(contexts, device):
    """HandshakeCompleted of the gateway, and of the device."""
    link = Link(device, contexts.engine())
    device.start()
    for _ in range(3):
        link.to_gateway()
        link.to_device()
    return tuple(
        next(event for event in events if type(event) is HandshakeCompleted)
        for events in (link.gateway_events, link.device_events)
    )


def test_a_ticket_is_taken_while_it_is_good(tmp_path):
    time, counters = [0.0], TlsCounters()
    contexts = ServerContexts(
        written(tmp_path, "ec"),
        ["mmtp/1"],
        options=ContextOptions(tickets=Tickets()),
        counters=counters,
        wall=lambda: time[0],
    )

    def resumed(identity):
        completed, _ = shake(contexts, client().engine("localhost", psk=ExternalPsk(identity, b"k" * 32)))
        return completed.resumed, completed.psk_identity

    assert resumed(OURS) == (True, OURS)
    assert contexts.is_own_ticket(OURS)
    assert counters.psk_refused == {}
    assert resumed(FOREIGN) == (False, b"")
    assert not contexts.is_own_ticket(FOREIGN + bytes(100))  # one of OpenSSL's
    time[0] = 101.0
    assert resumed(OURS) == (False, b"")
    assert counters.psk_refused["unknown"] == 2


def test_a_key_that_is_not_the_tickets_ends_the_hand_shake(tmp_path):
    contexts = ServerContexts(
        written(tmp_path, "ec"), ["mmtp/1"], options=ContextOptions(tickets=Tickets()), wall=lambda: 0.0
    )
    with pytest.raises(RemoteError, match="binder does not verify"):
        shake(contexts, client().engine("localhost", psk=ExternalPsk(OURS, b"x" * 32)))


def test_two_kinds_of_keys_for_one_name(tmp_path):
    contexts = ServerContexts(written(tmp_path, "rsa", "ec"), ["mmtp/1"])

    def shown(*algorithms):
        device = client(signature_algorithms=algorithms).engine("localhost")
        _, completed = shake(contexts, device)
        return x509.load_der_x509_certificate(completed.peer_chain[0]).public_key().key_size

    assert shown("ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256") == 256
    assert shown("rsa_pss_rsae_sha256") == 2048


def test_groups_are_the_listeners(tmp_path):
    contexts = ServerContexts(written(tmp_path, "ec"), ["mmtp/1"], options=ContextOptions(groups=("P-384",)))
    completed, _ = shake(contexts, client(groups=("X25519", "P-384")).engine("localhost"))
    assert completed.group == "secp384r1"
