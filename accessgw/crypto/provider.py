"""The OpenSSL provider that the settings name, in the process whose hand-shakes sign with its keys."""

from __future__ import annotations

from accessgw.crypto.signers.build import SignerUnusable
from accessgw.model.tls_settings import TlsSettings
from protocols.tls import engines


def load_provider(settings: TlsSettings) -> None:
    """Load it, if one is named for this process; before keys are read. Raises SignerUnusable."""
    name = settings.own_provider
    if not name:
        return
    if engines.WHY_NOT_NATIVE or settings.engine == engines.PURE:
        reason = engines.WHY_NOT_NATIVE or 'tls.engine is "pure"'
        raise SignerUnusable(f'tls.provider: "{name}" needs the native TLS engine, which is not available: {reason}')
    try:
        engines.load_provider(name)
    except ValueError as error:
        raise SignerUnusable(f"tls.provider: {error}") from error
