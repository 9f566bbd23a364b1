"""From a listener's settings to the listener."""

from __future__ import annotations

from collections.abc import Mapping

from accessgw.core.interfaces.connections import BindingFactory, Listener
from accessgw.core.interfaces.tls import TlsContexts
from accessgw.model.listener_settings import ListenerSettings
from accessgw.transports.listener import SocketListener, TcpListener
from accessgw.transports.services import TransportServices
from accessgw.transports.tls_listener import TlsListener
from accessgw.transports.unix import UnixListener


def build_listener(
    settings: ListenerSettings,
    services: TransportServices,
    factories: Mapping[str, BindingFactory],
    contexts: TlsContexts | None = None,
) -> Listener:
    """The listener of `settings`, not started.

    `factories` maps protocol names (`mmtp/1`, `http/1.1`) to binding factories; `contexts` is
    needed for `tls`. Raises ValueError that names what is missing.
    """
    missing = [protocol for protocol in settings.protocols if protocol not in factories]
    if missing or not settings.protocols:
        raise ValueError(f"listener {settings.name}: nothing serves {', '.join(missing) or 'an empty list'}")
    listener: SocketListener
    if settings.transport == "tls":
        if contexts is None:
            raise ValueError(f"listener {settings.name}: tls needs contexts")
        listener = TlsListener(settings, services, factories, contexts)
    elif settings.transport == "unix":
        listener = UnixListener(settings, services, factories)
    else:
        listener = TcpListener(settings, services, factories)
    return listener
