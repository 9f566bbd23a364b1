"""The composition root: builds every room of a worker and wires them together.

Nothing here decides anything: it hands settings and each other's objects to those that do.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from accessgw.bus.local import LocalBus
from accessgw.control_rooms import ControlRooms
from accessgw.core.app_tables import AppTables
from accessgw.core.authentication import AuthenticatorChain
from accessgw.core.builtin_operations import BuiltinOperations
from accessgw.core.calls import Calls
from accessgw.core.claims import Claims
from accessgw.core.control import GatewayControl, OperatorActions
from accessgw.core.dictionaries.service import Dictionaries
from accessgw.core.dictionaries.trainer import Trainer
from accessgw.core.draining import Draining
from accessgw.core.filters import FilterChain
from accessgw.core.happenings import Happenings
from accessgw.core.interfaces.connections import BindingFactory, Listener
from accessgw.core.push_samples import PushSamples
from accessgw.core.pushes import Pushes
from accessgw.core.revoked_connections import RevokedConnections
from accessgw.core.sessions import SessionManager
from accessgw.core.stream_retention import Retention
from accessgw.core.timers import TimingWheel
from accessgw.core.top import TopTalkers
from accessgw.core.tracing import Tracing
from accessgw.core.turns import TurnFlusher
from accessgw.crypto.decoy_key import DecoyKey
from accessgw.crypto.services import AuthenticatorServices
from accessgw.crypto.workers import Workers
from accessgw.description import Description
from accessgw.http_rooms import HttpRooms
from accessgw.mmtp_rooms import MmtpRooms
from accessgw.model.calls import CallRecord
from accessgw.model.counters import (
    CallCounters,
    CodingCounters,
    DictionaryCounters,
    HeaderCounters,
    MqttCounters,
    PushCounters,
    SessionCounters,
    StoreCounters,
    TlsCounters,
    TransportCounters,
    UpstreamCounters,
    WebhookCounters,
)
from accessgw.model.route_settings import ClusterSettings
from accessgw.model.settings import GatewaySettings
from accessgw.mqtt_rooms import MqttRooms
from accessgw.ops.access_log import AccessLog
from accessgw.ops.collector import CollectorPauses
from accessgw.ops.counters_view import GatewayCounters, families, summary
from accessgw.ops.reactor_ticks import ReactorTicks
from accessgw.prepared import Prepared
from accessgw.store_rooms import StoreRooms
from accessgw.tls_rooms import TlsRooms
from accessgw.transports.build import build_listener
from accessgw.transports.services import TransportServices
from accessgw.upstreams.client import HttpUpstreams
from accessgw.upstreams.dialer import BridgeDialer
from accessgw.upstreams.questions import Questions, clusters_of_questions, user_of
from accessgw.upstreams.threads import CountedThreads
from accessgw.webhook_rooms import WebhookRooms


class Rooms:
    """Every room of one worker, built and wired, not started."""

    def __init__(
        self,
        settings: GatewaySettings,
        prepared: Prepared,
        reactor: Any,
        reload: Callable[[], Deferred[dict[str, Any]]],
    ) -> None:
        """`reload` is what the control API calls. Raises OSError, CertificateError, SharedFileError."""
        self.settings = settings
        """In force; replaced by `reconfigure`."""
        self.reactor = reactor
        self.reload = reload
        self.listeners: list[Listener] = []
        Path(settings.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._build_foundations()
        self._build_core(prepared)
        self._build_protocols(prepared.tables)
        self._build_doors()
        self._build_control()

    # ---------------------------------------------------------------- building, from the ground up

    def _build_foundations(self) -> None:
        settings = self.settings
        self.timers = TimingWheel(self.reactor, time.perf_counter)
        self.access_log = AccessLog(settings.log)
        self.ticks = ReactorTicks(self.reactor)
        self.collector = CollectorPauses(self.reactor)
        self.upstream_counters: dict[str, UpstreamCounters] = {}
        self.counters = GatewayCounters(
            transports={"": TransportCounters()},
            tls=TlsCounters(),
            sessions=SessionCounters(),
            headers=HeaderCounters(),
            codings=CodingCounters(),
            calls=CallCounters(),
            pushes=PushCounters(),
            upstreams=self.upstream_counters,
            store=StoreCounters(),
            webhook=WebhookCounters(),
            mqtt=MqttCounters(),
            dictionaries=DictionaryCounters(),
            access_log=self.access_log,
            ticks=self.ticks,
        )
        self.bus = LocalBus(self.reactor)
        assert self.counters.store is not None
        assert self.counters.webhook is not None
        assert self.counters.mqtt is not None
        self.stores = StoreRooms(
            settings,
            self.reactor,
            counters=self.counters.store,
            outbox=self.counters.webhook,
            mqtt=self.counters.mqtt,
        )

    def _build_core(self, prepared: Prepared) -> None:
        settings, counters, reactor = self.settings, self.counters, self.reactor
        assert counters.sessions is not None
        assert counters.calls is not None
        assert counters.pushes is not None
        assert counters.webhook is not None
        wall = time.time
        self.tracing = Tracing(wall)
        self.top = TopTalkers()
        self.filters = FilterChain(prepared.filters, reactor, counters.calls, counters.pushes)
        self.chain = AuthenticatorChain(prepared.authenticators, counters.sessions, reactor)
        self.password_workers = Workers(reactor.callFromThread)
        assert counters.tls is not None
        self.tls = TlsRooms(
            settings, reactor=reactor, timers=self.timers, run=self.password_workers.run, counters=counters.tls
        )
        self.description = Description(settings, self.listeners, self.tls.engine)
        self.dialling_threads = CountedThreads(self.tls.handshakes, counters.tls)
        self.upstreams = HttpUpstreams(
            reactor,
            _clusters(settings),
            random=random.random,
            counters=self.upstream_counters,
            handshakes=self.dialling_threads,
            called=lambda cluster: user_of(cluster, self.settings.authenticators),
        )
        self.authenticator_services = AuthenticatorServices(
            reactor.seconds,
            self.password_workers.run,
            Questions(self.upstreams, reactor),
            os.urandom,
            decoy_key=DecoyKey(settings.state_dir),
            failed=self.chain.count_failure,
        )
        prepared.services.bind(self.authenticator_services)
        self.enhanced = dict(prepared.enhanced)
        """By method; changed in place by a reload."""
        self.webhook = WebhookRooms(
            settings.webhook,
            reactor=reactor,
            outbox=self.stores.outbox,
            handshakes=self.dialling_threads,
            counters=counters.webhook,
            upstreams=self.upstream_counters,
        )
        self.happenings = Happenings(self.webhook.presence, self.timers, wall)
        self.sessions = SessionManager(
            settings.sessions,
            chain=self.chain,
            filters=self.filters,
            pushes=_Later(lambda: self.pushes),
            presence=self.happenings,
            timers=self.timers,
            clock=reactor,
            wall=wall,
            random_bytes=os.urandom,
            counters=counters.sessions,
        )
        assert counters.dictionaries is not None
        self.dictionaries = Dictionaries(
            settings.dictionaries,
            self.stores.dictionaries,
            Trainer(reactor, settings.dictionaries.train_timeout),
            clock=reactor,
            wall=wall,
            random=random.random,
            counters=counters.dictionaries,
            secret_operations=lambda: self.calls.routes.secret_operations,
        )
        self.flusher = TurnFlusher(reactor, turns=reactor if hasattr(reactor, "turn_is_over") else None)
        self.pushes = Pushes(
            reactor,
            wall,
            self.stores.streams,
            self.bus,
            self.sessions.registry,
            settings=settings.pushes,
            counters=counters.pushes,
            filters=self.filters,
            timers=self.timers,
            max_subscriptions=settings.sessions.max_subscriptions,
            head_check=0.0,
            flush=self.flusher.flush,
            observe=PushSamples(self.sessions.registry, self.dictionaries.observe),
        )
        self.claims = Claims(settings.calls, self.stores.answers, self.timers, reactor, wall)
        self.calls = Calls(
            settings.calls,
            routes=prepared.routes,
            filters=self.filters,
            claims=self.claims,
            upstreams=self.upstreams,
            operations=BuiltinOperations(
                settings.sessions,
                self.sessions.registry,
                self.pushes,
                clock=reactor,
                wall=wall,
                logout=self.sessions.logout,
            ),
            timers=self.timers,
            clock=reactor,
            random_bytes=os.urandom,
            zone=settings.zone,
            counters=counters.calls,
            tracing=self.tracing,
            log=self._log_call,
            observe=self.dictionaries.observe if settings.dictionaries.enabled else None,
        )
        self.retention = Retention(self.stores.streams, self.timers, wall)
        self.tracing.changed = self._retrace

    def _build_protocols(self, tables: AppTables) -> None:
        """What is spoken on connections."""
        settings, reactor = self.settings, self.reactor
        assert self.counters.headers is not None
        assert self.counters.codings is not None
        self.mmtp = MmtpRooms(
            settings,
            tables,
            reactor=reactor,
            store=self.stores.header_states,
            sessions=self.sessions,
            calls=self.calls,
            pushes=self.pushes,
            dictionaries=self.dictionaries,
            timers=self.timers,
            flusher=self.flusher,
            tracing=self.tracing,
            headers=self.counters.headers,
            counters=self.counters.codings,
            tickets=self.tls.tickets,
            log_untimely=self.access_log.untimely,
        )
        assert self.counters.mqtt is not None
        self.dialer = BridgeDialer(reactor, self.dialling_threads)
        self.mqtt = MqttRooms(
            settings,
            reactor=reactor,
            store=self.stores.mqtt,
            sessions=self.sessions,
            calls=self.calls,
            pushes=self.pushes,
            upstreams=self.upstreams,
            timers=self.timers,
            flusher=self.flusher,
            tracing=self.tracing,
            enhanced=self.enhanced,
            counters=self.counters.mqtt,
            bytes_moved=self.counters.transports[""],
            version=f"accessgw {self.description.version}",
            node=self.description.node,
            secret=self.authenticator_services.decoy_key,
            dialer=self.dialer,
        )
        assert self.counters.dictionaries is not None
        self.http = HttpRooms(
            settings,
            reactor=reactor,
            mmtp=self.mmtp.services,
            mqtt=self.mqtt.services,
            calls=self.calls,
            chain=self.chain,
            dictionaries=self.dictionaries,
            counters=self.counters.dictionaries,
            describe=self.description.to_devices,
        )

    def _build_doors(self) -> None:
        """Everything that accepts connections of devices."""
        settings, reactor = self.settings, self.reactor
        assert self.counters.tls is not None
        self.transports = TransportServices(
            reactor,
            self.timers,
            settings.limits,
            self.counters.transports[""],
            random.random,
            on_open=self.access_log.opened,
            on_close=self.access_log.closed,
            tls=self.counters.tls,
            handshakes=self.tls.handshakes,
            replays=self.tls.replays,
            answers=self.flusher,
        )
        factories: dict[str, BindingFactory] = {
            "mmtp/1": self.mmtp.services,
            "mqtt": self.mqtt.services,
            "http/1.1": self.http.services,
        }
        for listener in settings.listeners:
            self.listeners.append(
                build_listener(listener, self.transports, factories, self.tls.contexts.get(listener.name))
            )
        self.draining = Draining(reactor, self.transports.table, self._announce_leaving)
        if self.tls.revocations is not None:
            RevokedConnections(reactor, self.transports.table, self.tls.revocations, self.counters.tls)
            self.sessions.revocations = self.tls.revocations
        self.counters.expires_at = self.tls.expires_at
        self.counters.shown_until = self._shown_until

    def _build_control(self) -> None:
        """What operators may do, and their door."""
        settings, reactor = self.settings, self.reactor
        assert self.counters.store is not None
        self.control = GatewayControl(
            sessions=self.sessions,
            pushes=self.pushes,
            store=self.stores.streams,
            connections=self.transports.table,
            draining=self.draining,
            tracing=self.tracing,
            top=self.top,
            happenings=self.happenings,
            store_counters=self.counters.store,
            actions=OperatorActions(
                reload=self.reload,
                config=self.description.configuration,
                metrics=lambda: families(self.counters),
                summary=lambda: {**summary(self.counters), **self.tls.status()},
                listeners=self.description.listeners,
                upstreams=lambda: [*self.upstreams.snapshot(), *self.webhook.snapshot()],
                drain_rate=lambda: self.settings.drain.rate,
            ),
            wall=time.time,
            identity={
                "version": self.description.version,
                "node": self.description.node,
                "zone": settings.zone,
                "pid": os.getpid(),
            },
            end_mqtt=lambda client: self.mqtt.control.kick(client, discard=True),
        )
        self.control_rooms = ControlRooms(
            settings,
            self.control,
            reactor=reactor,
            timers=self.timers,
            mqtt=self.mqtt.control,
            dictionaries=self.dictionaries,
            keys=self.tls.keys,
            describe=self.description.to_devices,
        )

    # ---------------------------------------------------------------- reloading

    def reconfigure(self, settings: GatewaySettings, prepared: Prepared) -> None:
        """Bring settings into force that differ from the present ones only in what a reload may change."""
        self.settings = self.description.settings = settings
        self.transports.limits = settings.limits
        self.http.reconfigure(settings)
        self.mmtp.reconfigure(settings, prepared.tables)
        for listener in self.listeners:
            listener.apply_limits()
        self.filters.replace(prepared.filters)
        prepared.services.bind(self.authenticator_services)
        self.chain.replace(prepared.authenticators)
        self.enhanced.clear()
        self.enhanced.update(prepared.enhanced)
        self.calls.settings = settings.calls
        self.calls.routes = prepared.routes
        self.upstreams.reconfigure(_clusters(settings))
        self.mqtt.reconfigure(settings)
        self.dictionaries.reconfigure(settings.dictionaries)
        self.access_log.reconfigure(settings.log)
        self.pushes.replace_bounds(settings.pushes)
        self.control_rooms.reconfigure(settings)

    # ---------------------------------------------------------------- what rooms ask for

    def _log_call(self, record: CallRecord) -> None:
        self.access_log.call(record)
        self.top.call(record)

    def _shown_until(self) -> dict[tuple[str, str], float]:
        bridges = self.dialer.expires_at(self.settings.mqtt.bridges)
        return self.upstreams.expires_at() | self.webhook.expires_at() | bridges

    def _retrace(self, device: str) -> None:
        session = self.sessions.registry.by_device(device)
        retrace: Callable[[], None] | None = getattr(session.link if session else None, "retrace", None)
        if retrace is not None:
            retrace()

    def _announce_leaving(self, spread: float) -> None:
        self.mmtp.announce_leaving(self.settings.drain.alternate, spread)
        self.mqtt.services.draining = True
        self.mqtt.services.leave_for = self.settings.drain.alternate


class _Later:
    """Stands for a room that is built after the one that needs it."""

    def __init__(self, room: Callable[[], object]) -> None:
        self._room = room

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._room(), name)
        if callable(found):
            setattr(self, name, found)  # methods stay as they are, and some are called for each connection
        return found


def _clusters(settings: GatewaySettings) -> list[ClusterSettings]:
    """Those of calls, and those that authenticators ask."""
    return [*settings.clusters, *clusters_of_questions(settings.authenticators)]
