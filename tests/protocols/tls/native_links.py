"""Native engines for the tests of TLS engines: contexts of the usual options, keys elsewhere, steps on a crew."""

from __future__ import annotations

import dataclasses
import os
import select
import threading

from tests.protocols.tls.tls_links import PSK, keys, localhost

try:
    from protocols.tls.native_context import NativeServerContext
    from protocols.tls.native_engine import Crew, NativeEngine
except ImportError:
    HAS_NATIVE = False
else:
    HAS_NATIVE = True


def native_server(*, ticket_keys=(), ticket_count=2, revocation_lists=b"", **options):
    return _server(NativeServerContext, ticket_keys, ticket_count, revocation_lists, options)


def server_on_crew(*, ticket_keys=(), ticket_count=2, revocation_lists=b"", **options):
    """As native_server; its engines make their hand-shakes on a thread of a crew."""
    return _server(_ContextOnCrew, ticket_keys, ticket_count, revocation_lists, options)


def _server(kind, ticket_keys, ticket_count, revocation_lists, options):
    from protocols.tls.server_context import ServerOptions

    options.setdefault("certificates", [localhost()])
    options.setdefault("alpn", ["mmtp/1"])
    options.setdefault("find_psk", keys(PSK))
    options.setdefault("max_early_data", 16384)
    return kind(
        ServerOptions(ticket_count=ticket_count, **options), ticket_keys=ticket_keys, revocation_lists=revocation_lists
    )


class ServedCrew:
    """A crew with its threads, and the one who is told."""

    def __init__(self, threads=1):
        self.bell = os.eventfd(0, os.EFD_CLOEXEC)
        self.crew = Crew(self.bell)
        self.threads = [threading.Thread(target=self.crew.serve, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def told(self, most=1000):
        """Wait until the bell rings; what is finished then."""
        assert select.select([self.bell], [], [], 30)[0], "the bell does not ring"
        os.eventfd_read(self.bell)
        return self.crew.finished(most)

    @property
    def rings(self):
        return bool(select.select([self.bell], [], [], 0)[0])

    def stop(self):
        """How many were dropped."""
        dropped = self.crew.stop()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        os.close(self.bell)
        return dropped


if HAS_NATIVE:
    _own = threading.local()

    def _crew_of_this_thread():
        if not hasattr(_own, "served"):
            _own.served = ServedCrew()
        return _own.served

    class _ContextOnCrew(NativeServerContext):
        def engine(self, *, detachable=False):
            return EngineOnCrew(self.context, self._options, detachable=detachable)

    class EngineOnCrew(NativeEngine):
        """Feeds itself by a thread, as long as there is a hand-shake."""

        __slots__ = ("begun",)

        def feed(self, data):
            if self.handshaken or self._failure is not None or not data or self._peer_closed:
                super().feed(data)
                return
            served = _crew_of_this_thread()
            self.offload(served.crew, data, self, hasattr(self, "begun"))
            self.begun = True
            served.crew.wake()
            ((step, state),) = served.told()
            assert step is self
            self.resume(state)


def without_key(certificate):
    """The same certificate, to be signed for elsewhere."""
    return dataclasses.replace(certificate, key=b"")
