"""Hand-shakes of the native engine, on a thread of a crew, with a provider of OpenSSL loaded."""

from __future__ import annotations

from OpenSSL import SSL

from tests.protocols.tls.native_links import server_on_crew
from tests.protocols.tls.tls_links import Link, client, completed, issuer


def shake_hands(certificate, provider, version="TLSv1.3", authorities=b""):
    """Of a client that verifies the chain."""
    gateway = server_on_crew(
        certificates=[certificate], provider=provider, minimum="1.2", alpn_below_1_3=frozenset({"mmtp/1"})
    )
    assert gateway.offloaded
    device = client(minimum="1.2", authorities=authorities or issuer().pem)
    if version == "TLSv1.2":
        device.context.set_max_proto_version(SSL.TLS1_2_VERSION)
    link = Link(device.engine("localhost"), gateway.engine()).run()
    assert completed(link.gateway_events).version == version
    assert completed(link.device_events).peer_chain
