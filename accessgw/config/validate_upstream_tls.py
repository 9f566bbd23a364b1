"""Checks of TLS toward services: files that must be readable and belong together."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from accessgw.config import syntax
from accessgw.config.errors import Problem
from accessgw.config.files import no_password, readable
from accessgw.config.structure import shown
from accessgw.model.route_settings import UpstreamTlsSettings


def upstream_tls(path: str, tls: UpstreamTlsSettings, used: bool) -> Iterator[Problem]:
    """Every problem of `tls`; `used` says whether anything is reached by https://."""
    if not used:
        if tls != UpstreamTlsSettings():
            yield Problem(path, "says nothing without https://")
        return
    if tls.server_name and not syntax.is_server_name(tls.server_name):
        yield Problem(f"{path}.server_name", f"expected {syntax.SERVER_NAME}, got {shown(tls.server_name)}")
    if bool(tls.certificate) != bool(tls.key):
        present, missing = ("certificate", "key") if tls.certificate else ("key", "certificate")
        yield Problem(f"{path}.{missing}", f"{present} needs {missing}, got nothing")
    unreadable = [
        problem
        for name in ("ca", "certificate", "key")
        if getattr(tls, name)
        for problem in readable(f"{path}.{name}", getattr(tls, name))
    ]
    yield from unreadable
    if unreadable:
        return
    if tls.ca:
        try:
            ssl.create_default_context(cafile=tls.ca)
        except (ssl.SSLError, ValueError) as error:
            yield Problem(f"{path}.ca", f"expected PEM certificates of CAs, OpenSSL says: {_reason(error)}")
    if tls.certificate and tls.key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls.certificate, tls.key, no_password)
        except (ssl.SSLError, ValueError) as error:
            expected = "expected a PEM certificate chain and its unencrypted key"
            files = f"{tls.certificate} and {tls.key}"
            yield Problem(f"{path}.certificate", f"{expected}, OpenSSL says of {files}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
