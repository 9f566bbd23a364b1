"""Native engines for the tests of TLS engines: contexts of the usual options, and keys that are elsewhere."""

from __future__ import annotations

import dataclasses

from tests.protocols.tls.tls_links import PSK, keys, localhost

try:
    from protocols.tls.native_context import NativeServerContext
except ImportError:
    HAS_NATIVE = False
else:
    HAS_NATIVE = True


def native_server(*, ticket_keys=(), ticket_count=2, revocation_lists=b"", **options):
    from protocols.tls.server_context import ServerOptions

    options.setdefault("certificates", [localhost()])
    options.setdefault("alpn", ["mmtp/1"])
    options.setdefault("find_psk", keys(PSK))
    options.setdefault("max_early_data", 16384)
    return NativeServerContext(
        ServerOptions(**options), ticket_keys=ticket_keys, tickets=ticket_count, revocation_lists=revocation_lists
    )


def without_key(certificate):
    """The same certificate, to be signed for elsewhere."""
    return dataclasses.replace(certificate, key=b"")
