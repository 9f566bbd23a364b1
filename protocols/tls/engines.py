"""Chooses, once at import, what makes the server side of TLS: the engine in C on the system's libssl, or pyOpenSSL.

`ACCESSGW_ACCEL` is `auto` (C where the extension was built and libssl.so.3 loads), `native` (C or an ImportError) or
`pure` (pyOpenSSL). Clients are always pyOpenSSL's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from protocols.tls.crew import MakeCrew
from protocols.tls.profiles import PROFILES
from protocols.tls.server_context import ServerCertificate, ServerContext, ServerOptions

if TYPE_CHECKING:
    from protocols.tls.native_context import NativeServerContext

PURE, NATIVE, AUTO = "pure", "native", "auto"
ENGINES = (AUTO, NATIVE, PURE)
_EXTENSION = "protocols._native.tls_engine"


def _load(wanted: str) -> tuple[type[NativeServerContext] | None, str]:
    if wanted == PURE:
        return None, "ACCESSGW_ACCEL is pure"
    if wanted not in ENGINES:
        raise ImportError(f"ACCESSGW_ACCEL: expected auto, native or pure, got {wanted!r}")
    try:
        if find_spec(_EXTENSION) is None:
            raise ImportError(f"{_EXTENSION} was not built: no C compiler at installation")
        from protocols.tls.native_context import NativeServerContext
    except ImportError as error:
        if wanted == NATIVE:
            raise
        return None, str(error)
    return NativeServerContext, ""


_native, WHY_NOT_NATIVE = _load(os.environ.get("ACCESSGW_ACCEL", AUTO))
"""Why there is no engine in C, empty when there is one: for the log at start."""


def native_version() -> str:
    """Of the system's OpenSSL, in its own words, where there is an engine in C."""
    from protocols.tls.native_engine import VERSION

    return VERSION


def load_provider(name: str) -> None:
    """Have a provider of OpenSSL loaded for the engines in C. Raises ValueError, also where there are none."""
    if _native is None:
        raise ValueError(f"there is no native TLS engine: {WHY_NOT_NATIVE}")
    from protocols.tls import native_context

    native_context.load_provider(name)


def check_key(certificate: ServerCertificate, provider: str) -> None:
    """ValueError where OpenSSL, with that provider loaded, cannot sign with the key for the chain."""
    load_provider(provider)
    from protocols.tls import native_context

    native_context.check_key(certificate, provider)


def make_crew() -> MakeCrew | None:
    """What makes a Crew for the engines in C; None where there are none."""
    if _native is None:
        return None
    from protocols.tls.native_engine import Crew

    return Crew


def leave_thread() -> None:
    """A thread that has made hand-shakes is about to end: free those which had stopped on it for a signature, and which
    others have dropped. Nobody else can."""
    if _native is not None:
        from protocols.tls.native_engine import reap

        reap()


def server_context(options: ServerOptions, engine: str = AUTO) -> ServerContext | NativeServerContext:
    """The contexts of a listener on the engine `auto`, `native` or `pure`.

    `auto` is pyOpenSSL also for a profile that libssl lacks. Raises ValueError when `native` is wanted and is not
    there, and when a certificate is signed for elsewhere or a provider is named, which need it; and what the context raises.
    """
    if engine not in ENGINES:
        raise ValueError(f"expected an engine of {', '.join(ENGINES)}, got {engine}")
    if engine != PURE and _native is not None and not (engine == AUTO and _needs_pure(options)):
        return _native(options)
    if engine == NATIVE:
        raise ValueError(f"there is no native TLS engine: {WHY_NOT_NATIVE}")
    if not all(one.key for certificates in _all(options) for one in certificates):
        raise ValueError(f"private keys elsewhere need the native TLS engine: {WHY_NOT_NATIVE or 'pure is wanted'}")
    if options.provider:
        raise ValueError(f"an OpenSSL provider needs the native TLS engine: {WHY_NOT_NATIVE or 'pure is wanted'}")
    return ServerContext(options)


def _needs_pure(options: ServerOptions) -> bool:
    return options.profile in PROFILES and options.profile != "default"


def _all(options: ServerOptions) -> list[Sequence[ServerCertificate]]:
    return [options.certificates, *options.by_name.values()]
