"""What settings of TLS must say beyond their types: certificates, and who signs with their keys."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Sequence

from accessgw.config.errors import Problem
from accessgw.config.files import no_password, readable
from accessgw.config.structure import shown
from accessgw.model.listener_settings import CertificateSettings, ListenerSettings
from accessgw.model.tls_settings import TlsSettings

SIGNERS = '"threads", "process" or "unix:" and a path'

_PROVIDER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{0,63})?")


def check_tls(tls: TlsSettings, listeners: Sequence[ListenerSettings]) -> Iterator[Problem]:
    """Problems of [tls]."""
    if not _PROVIDER.fullmatch(tls.provider):
        yield Problem("tls.provider", f"expected the name of an OpenSSL provider, got {shown(tls.provider)}")
    if tls.signer not in ("threads", "process") and not tls.signer.startswith("unix:/"):
        yield Problem("tls.signer", f"expected {SIGNERS} that begins with /, got {shown(tls.signer)}")
        return  # what it would need is not known
    if tls.provider and tls.engine == "pure":
        yield Problem("tls.provider", f'{shown(tls.provider)} needs the native engine, tls.engine is "pure"')
    if tls.provider and tls.signer.startswith("unix:"):
        yield Problem("tls.provider", f"{shown(tls.signer)} has the keys: its option --provider names theirs")
    if tls.provider and tls.signer_fallback:
        yield Problem("tls.provider", "is used by one process: the signer, or this one without signer_fallback")
    if not tls.signs_elsewhere:
        if tls.signer_fallback:
            yield Problem("tls.signer_fallback", 'is used with signer "process" or "unix:..." only')
        return
    if tls.engine == "pure":
        yield Problem("tls.engine", f'signer {shown(tls.signer)} needs the native engine, this is "pure"')
    if tls.signer == "process" and tls.signer_restart_after >= tls.signer_timeout:
        expected = f"expected less than tls.signer_timeout, which is {tls.signer_timeout:g}, or 0 (never)"
        yield Problem("tls.signer_restart_after", f"{expected}, got {tls.signer_restart_after:g}")
    for index, listener in enumerate(listeners):
        if listener.profile == "sm":
            yield Problem(f"listeners[{index}].profile", 'signers have no SM2 keys: "sm" needs tls.signer = "threads"')


def profile_problems(path: str, listener: ListenerSettings, tls: TlsSettings) -> Iterator[Problem]:
    """Problems of a listener whose algorithms are those of RFC 8998."""
    if listener.profile != "sm":
        return
    if listener.transport != "tls":
        yield Problem(f"{path}.profile", f"only transport tls has a profile, this is {listener.transport}")
    elif not listener.certificates:
        yield Problem(f"{path}.profile", '"sm" needs an SM2 certificate, and the development certificate is none')
    if tls.engine == "native":
        yield Problem(f"{path}.profile", '"sm" needs the pure engine, and tls.engine is "native"; expected "auto"')
    if listener.early_data:
        yield Problem(f"{path}.early_data", 'tickets are not for the suites of profile "sm", expected 0')


def certificate_problems(
    path: str, certificate: CertificateSettings, tls: TlsSettings, profile: str = "default"
) -> Iterator[Problem]:
    """A chain and its key must be there and fit; a key that is the signer's is not looked at, nor, by this check, one
    of SM2 or of a provider, which Python's own OpenSSL does not take."""
    reads_key = not tls.signs_elsewhere or tls.signer_fallback
    unreadable = list(readable(f"{path}.chain", certificate.chain))
    if not certificate.key and (reads_key or tls.signer == "process"):
        unreadable.append(Problem(f"{path}.key", "expected the PEM file of the private key, got nothing"))
    elif reads_key:
        unreadable += readable(f"{path}.key", certificate.key)
    yield from unreadable
    if not unreadable and reads_key and profile != "sm" and not tls.provider:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate.chain, certificate.key, password=no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            files = f"{certificate.chain} and {certificate.key}"
            expected = "expected a PEM certificate chain and its unencrypted key"
            hint = ' (a certificate of SM2 needs profile = "sm")' if reason == "UNKNOWN_CERTIFICATE_TYPE" else ""
            yield Problem(path, f"{expected}, OpenSSL says of {files}: {reason}{hint}")
