"""What a HELLO says of the device, on whatever connection it leaves."""

from __future__ import annotations

from collections.abc import Callable

from accessgw.client.settings import ClientSettings
from protocols.mmtp.handshake import Hello, StreamCursor
from protocols.mmtp.tickets import ShownCertificate


class Greeting:
    """Makes HELLOs, each of a newer generation (specification, section 4.4)."""

    __slots__ = ("_boot", "_counter", "_cursors", "_settings", "clock_offset", "token")

    def __init__(
        self, settings: ClientSettings, *, boot: int, clock_offset: float, cursors: Callable[[], list[StreamCursor]]
    ) -> None:
        """`cursors`: where the streams stand now."""
        self.token = settings.token
        self.clock_offset = clock_offset
        """Seconds from our clock to the gateway's."""
        self._settings = settings
        self._boot = boot
        self._counter = 0
        self._cursors = cursors

    def hello(
        self,
        now: float,
        capabilities: frozenset[str],
        *,
        call_base: int = 0,
        last_close: int = 0,
        tickets: int = 0,
        certificate: ShownCertificate | None = None,
    ) -> Hello:
        """The next one."""
        settings = self._settings
        attributes = dict(settings.attributes)
        if settings.user:
            attributes.setdefault("user", settings.user)
        self._counter += 1
        return Hello(
            device=settings.device,
            token=self.token,
            app=settings.app,
            app_version=settings.app_version,
            capabilities=capabilities,
            boot=self._boot,
            counter=self._counter,
            time=now + self.clock_offset,
            call_base=call_base,
            cursors=self._cursors(),
            network=settings.network,
            last_close=last_close,
            attributes=attributes,
            tickets=tickets,
            certificate=certificate,
        )
