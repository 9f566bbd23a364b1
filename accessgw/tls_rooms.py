"""The composition of TLS: keys of tickets, the register of replays, contexts of listeners, the threads of hand-shakes;
part of the composition root."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from accessgw.core.interfaces.clock import Timers
from accessgw.core.interfaces.tls import TICKET_PROTOCOL
from accessgw.core.mmtp_tickets import TicketOffice
from accessgw.crypto.client_certificates import ClientCertificates, authorities_in, end_of
from accessgw.crypto.contexts import ENGINE, ContextOptions, ServerContexts
from accessgw.crypto.development import ensure_development_certificate
from accessgw.crypto.key_control import Keys
from accessgw.crypto.key_log import KeyLogFile
from accessgw.crypto.key_store import KeyStore
from accessgw.crypto.provider import load_provider
from accessgw.crypto.replay_register import ReplayRegister
from accessgw.crypto.revocation_lists import RevocationLists
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.services import Run
from accessgw.crypto.session_keys import SessionKeys
from accessgw.crypto.signers.build import Signing
from accessgw.crypto.ticket_keys import EpochTickets
from accessgw.model.counters import TlsCounters
from accessgw.model.listener_settings import CertificateSettings, ListenerSettings
from accessgw.model.settings import GatewaySettings
from accessgw.transports.doorbell import Doorbell
from accessgw.transports.handshake_crew import HandshakeCrew, crew_size
from accessgw.transports.handshakes import HandshakePool, LastSteps, PinnedHandshakes
from protocols.tls.engines import PURE, WHY_NOT_NATIVE, make_crew, native_version

log = Logger()

Coalesce = Callable[[float, Callable[[], bool]], None]
"""See transports.reactor."""
SEVERAL = 2
"""Steps of hand-shakes that wait or run, from which on events may come together."""
LOOK_INTERVAL = 1.0
"""Seconds between two looks whether files of certificates and revocation lists were replaced."""
REPLAYS = "replays"
"""Name of the register's file in the key store."""


class TlsRooms:
    """Everything of TLS towards devices in one worker, built and wired, not started."""

    def __init__(
        self, settings: GatewaySettings, *, reactor: Any, timers: Timers, run: Run, counters: TlsCounters
    ) -> None:
        """`run` does what waits for the disk. Raises OSError, CertificateError, SharedFileError, SignerUnusable."""
        self._settings = settings
        self._counters = counters
        self._timers = timers
        self.engine = ENGINE if settings.tls.engine == PURE or WHY_NOT_NATIVE else f"native ({native_version()})"
        """What makes hand-shakes, for the operator."""
        self.why_pure = "" if settings.tls.engine == PURE else WHY_NOT_NATIVE
        """Why it is not the native engine, where that was not chosen."""
        listeners = [listener for listener in settings.listeners if listener.transport == "tls"]
        if listeners:
            load_provider(settings.tls)
        self.signing: Signing | None = None
        """Where the private keys are elsewhere."""
        if settings.tls.signs_elsewhere and listeners:
            self.signing = Signing(
                settings.tls,
                [one for listener in listeners for one in self._certificates(listener)],
                state_dir=settings.state_dir,
                reactor=reactor,
                counters=counters,
            )
        self._doorbell = Doorbell(reactor)
        self._crew: HandshakeCrew | None = None
        self.handshakes = self._pool(reactor)
        self._coalesce: Coalesce | None = getattr(reactor, "coalesce", None) if listeners else None
        self.tickets: dict[str, TicketOffice] = {}
        """By name of the listener, for those that give tickets."""
        self.contexts: dict[str, ServerContexts] = {}
        """By name of the listener."""
        self.replays: ReplayRegister | None = None
        self.revocations: RevocationStore | None = None
        self.keys: Keys | None = None
        self._store: KeyStore | None = None
        self._key_log = KeyLogFile(settings.tls.key_log) if settings.tls.key_log else None
        if listeners:
            self._build_keys(listeners, timers, run)
        for listener in listeners:
            self.contexts[listener.name] = self._contexts(listener)
        self.lists = self._revocation_lists(listeners, run)

    def start(self) -> None:
        """Begin what repeats, and listen to the threads."""
        self._doorbell.start()
        if self._coalesce is not None:
            self._coalesce(self._settings.tls.handshake_coalescing, self._several_wait)
        if self._crew is not None:
            self._crew.start()
        if self.signing is not None:
            self.signing.start()
        if self.keys is not None:
            self.keys.start()
            self._look_at_files()
        if self._key_log is not None:
            log.warn(
                "THE SECRETS OF ALL TLS CONNECTIONS ARE WRITTEN TO {path} (tls.key_log): for development only",
                path=self._settings.tls.key_log,
            )

    def stop(self) -> None:
        """No connection is left."""
        if self._coalesce is not None:
            self._coalesce(0.0, self._several_wait)
        self.handshakes.stop()
        self._doorbell.stop()
        if self.signing is not None:
            self.signing.stop()
        if self.replays is not None:
            self.replays.close()
        if self._key_log is not None:
            self._key_log.close()

    def _several_wait(self) -> bool:
        return self._counters.pool_waiting >= SEVERAL

    def _pool(self, reactor: Any) -> HandshakePool | PinnedHandshakes:
        tls, call_from_thread = self._settings.tls, self._doorbell.call
        at_turn_end = getattr(reactor, "at_turn_end", partial(reactor.callLater, 0))
        turn_is_over = getattr(reactor, "turn_is_over", lambda: False)
        last_steps = LastSteps(self._counters, at_turn_end, turn_is_over=turn_is_over)
        threads, waiting = tls.handshake_threads or 1, tls.handshake_queue
        if self.signing is None:
            make = make_crew()
            if make is not None:
                self._crew = HandshakeCrew(
                    make,
                    self._counters,
                    reactor,
                    threads=tls.handshake_threads or crew_size(len(os.sched_getaffinity(0))),
                    at_turn_end=at_turn_end,
                )
            return HandshakePool(
                self._counters,
                threads=threads,
                waiting=waiting,
                unfinished=tls.max_handshakes,
                call_from_thread=call_from_thread,
                last_steps=last_steps,
                at_turn_end=at_turn_end,
                crew=self._crew,
            )
        return PinnedHandshakes(
            self._counters,
            self.signing.signer,
            threads=threads,
            waiting=waiting,
            unfinished=tls.max_handshakes,
            call_from_thread=call_from_thread,
            last_steps=last_steps,
            at_turn_end=at_turn_end,
        )

    def _build_keys(self, listeners: list[ListenerSettings], timers: Timers, run: Run) -> None:
        settings, tls, now = self._settings, self._settings.tls, time.time()
        directory = Path(settings.state_dir) / tls.key_store
        store = self._store = KeyStore(directory, now, rotation=tls.ticket_rotation, random_bytes=os.urandom)
        self.revocations = RevocationStore(directory)
        self.keys = Keys(store, self.revocations, run=run, timers=timers, wall=time.time)
        for listener in listeners:
            # a pre-shared key is for SHA-256, which the suites of the profile sm do not use
            if listener.tickets and TICKET_PROTOCOL in listener.protocols and listener.profile != "sm":
                self.tickets[listener.name] = self._office(listener, store, self.revocations)
        if any(listener.early_data for listener in listeners):
            self.replays = ReplayRegister(
                directory / REPLAYS,
                now,
                window=tls.replay_window,
                delay=settings.limits.handshake_timeout,
                entries=tls.replay_entries,
                random_bytes=os.urandom,
            )

    def _office(self, listener: ListenerSettings, store: KeyStore, revocations: RevocationStore) -> TicketOffice:
        tls = self._settings.tls
        keys = EpochTickets(
            store,
            zone=self._settings.zone,
            listener=listener.name,
            transport=listener.transport,
            lifetime=tls.ticket_lifetime,
            full_authentication_days=tls.full_authentication_days,
            random_bytes=os.urandom,
        )
        return TicketOffice(
            keys,
            listener.tickets,
            listener.early_data,
            tls.replay_window,
            time.time,
            self._counters,
            end_of,
            revocations,
        )

    def _session_keys(self, listener: ListenerSettings) -> SessionKeys | None:
        if self._store is None:
            return None
        zone = self._settings.zone
        return SessionKeys(self._store, zone=zone, listener=listener.name, transport=listener.transport)

    def _contexts(self, listener: ListenerSettings) -> ServerContexts:
        office = self.tickets.get(listener.name)
        return ServerContexts(
            self._certificates(listener),
            listener.protocols,
            clients=ClientCertificates(listener.client_certificates, listener.client_ca, listener.certificate_identity),
            options=ContextOptions.of(
                listener,
                engine=self._settings.tls.engine,
                keys_elsewhere=self.signing,
                provider=self._settings.tls.own_provider,
                key_log=self._key_log,
                tickets=office.keys if office is not None else None,
                revocations=self.revocations,
                session_keys=self._session_keys(listener),
            ),
            counters=self._counters,
        )

    def expires_at(self) -> dict[tuple[str, str], float]:
        """Listener and file -> wall-clock second at which the first certificate, OCSP response or list in it ends."""
        ends = {(name, path): end for name, one in self.contexts.items() for path, end in one.expires_at().items()}
        for listener in self._settings.listeners:
            for one in self.lists:
                if listener.client_crl == one.path and one.expires_at < float("inf"):
                    ends[listener.name, one.path] = one.expires_at
        return ends

    def chain_files(self) -> tuple[list[str], list[str]]:
        """Those whose certificates are in force, and those that wait for the signer to have their keys."""
        both = [contexts.certificates() for contexts in self.contexts.values()]
        waiting = {one.settings.chain for _, awaited in both for one in awaited}
        return sorted({one.settings.chain for loaded, _ in both for one in loaded} - waiting), sorted(waiting)

    def status(self) -> dict[str, Any]:
        """Of who signs elsewhere, for Control.status(); nothing where keys are here."""
        return {} if self.signing is None else {"signer": self.signing.status()}

    def reload_signer(self) -> None:
        """Certificates were loaded again, or wait for their keys: these may be other ones."""
        if self.signing is not None:
            both = [contexts.certificates() for contexts in self.contexts.values()]
            self.signing.reload([one for loaded, _ in both for one in loaded], [one for _, new in both for one in new])

    def reload_lists(self) -> None:
        """The CAs may have changed: read the revocation lists again."""
        for one in self.lists:
            one.reload(time.time())

    def _revocation_lists(self, listeners: list[ListenerSettings], run: Run) -> list[RevocationLists]:
        store = self.revocations
        found: dict[str, set[str]] = {}
        for listener in listeners:
            if listener.client_crl and store is not None:
                found.setdefault(listener.client_crl, set()).add(listener.client_ca)
        return [
            RevocationLists(path, partial(authorities_in, sorted(cas)), store, run=run, now=time.time())
            for path, cas in found.items()
            if store is not None
        ]

    def _look_at_files(self) -> None:
        # before anything can fail: whatever is wrong with one file, the others are followed, revocation lists above all
        self._timers.schedule(LOOK_INTERVAL, self._look_at_files)
        now = time.time()
        for one in self.lists:
            one.poll(now)
        changed = [contexts.poll(now) for contexts in self.contexts.values()]
        if any(changed):
            self.reload_signer()
        if self.signing is not None:
            self.signing.poll()

    def _certificates(self, listener: ListenerSettings) -> tuple[CertificateSettings, ...]:
        if listener.certificates:
            return listener.certificates
        files = ensure_development_certificate(self._settings.state_dir, time.time())
        return (CertificateSettings(chain=files.chain, key=files.key),)
