"""The life of a gateway: starts, reloads and stops the rooms of one worker."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.config.diff import applicable, diff
from accessgw.config.errors import ConfigError
from accessgw.config.load import load
from accessgw.core.interfaces.control import ControlError
from accessgw.crypto.pem import CertificateError
from accessgw.model.listener_settings import ListenerSettings
from accessgw.model.settings import GatewaySettings
from accessgw.model.words import counted
from accessgw.prepared import Prepared
from accessgw.rooms import Rooms
from accessgw.stores.sqlite_schema import StoreError
from protocols.http import backend as http_backend
from protocols.mmtp.hpack_backends import backend as hpack_backend
from protocols.tls.record_backends import backend as records_backend

log = Logger()

SWITCH_INTERVAL = 0.0005
"""Seconds that a thread of the store may keep the interpreter while the reactor waits for it (Python's own: 0.005)."""

RELOAD_INTERVAL = 1.0
"""Seconds between two reloads by SIGHUP."""


class Gateway(Service):
    """One worker as a Twisted service."""

    def __init__(self, settings: GatewaySettings, prepared: Prepared, config_path: str, reactor: Any) -> None:
        """`prepared` is made of `settings`."""
        self.settings = settings
        self.config_path = config_path
        self.reactor = reactor
        self.rooms = Rooms(settings, prepared, reactor, self.reload)
        self._reloading: Any = None
        """The delayed call of a SIGHUP."""
        self._reloaded_at = float("-inf")

    # ---------------------------------------------------------------- starting

    def startService(self) -> None:
        """Open the store, then the doors. A start that cannot be is one line and exit code 1."""
        rooms = self.rooms
        try:
            if rooms.stores.database is not None:
                rooms.stores.database.start()
            rooms.access_log.start()
            for listener in [*rooms.listeners, rooms.control_rooms.listener]:
                listener.start()
            if self.settings.demo_upstream:
                self._start_demo()
        except (StoreError, CannotListenError, OSError) as error:
            print(f"accessgw: {error}", file=sys.__stderr__)
            raise SystemExit(1) from None
        Service.startService(self)
        rooms.ticks.start()
        rooms.collector.start()
        sys.setswitchinterval(SWITCH_INTERVAL)
        rooms.tls.start()
        rooms.upstreams.start()
        rooms.webhook.start()
        rooms.claims.start()
        rooms.mmtp.start()
        rooms.retention.start()
        rooms.dictionaries.start()
        rooms.mqtt.start()
        rooms.control.running = True
        self.reactor.callWhenRunning(self._running)

    def _start_demo(self) -> None:
        from accessgw.demo.service import make_site

        host, _, port = self.settings.demo_upstream.removeprefix("http://").rpartition(":")
        self.reactor.listenTCP(int(port), make_site(self.reactor), interface=host)

    def _running(self) -> None:
        signal.signal(signal.SIGHUP, lambda *_: self.reactor.callFromThread(self._hangup))
        signal.signal(signal.SIGUSR2, lambda *_: self.reactor.callFromThread(self._on_upgrade))
        for line in self._greeting():
            print(line, file=sys.__stdout__, flush=True)
        control = sum(t.loopback_only for t in self.settings.control.tokens)
        devices = sum(t.loopback_only for a in self.settings.authenticators for t in a.tokens)
        if control or devices:
            log.warn(
                "development credentials are in force, from loopback only: {control} of the control API,"
                " {devices} of devices",
                control=control,
                devices=devices,
            )

    def _greeting(self) -> list[str]:
        rooms = self.rooms
        codecs = (
            f"HTTP parser {http_backend}, HPACK {hpack_backend}, TLS {rooms.tls.engine}, TLS records {records_backend}"
        )
        lines = [f"accessgw {rooms.description.version}, {codecs}, pid {os.getpid()}"]
        if rooms.tls.why_pure:
            lines.append(f"  no native TLS engine, so private keys are in this process: {rooms.tls.why_pure}")
        for row in rooms.description.listeners():
            lines.append(f"  {row['name']}: {row['address']} ({row['transport']}: {', '.join(row['protocols'])})")
        door = rooms.control_rooms.listener
        control = f"http://{door.host}:{door.port}"
        lines.append(f"  control API and dashboard: {control}/")
        return lines + self._lines_to_try(control)

    def _lines_to_try(self, control: str) -> list[str]:
        """Commands that this configuration answers; none but for development, with its service and its credentials."""
        settings = self.settings
        push = next((t.token for t in settings.control.tokens if t.loopback_only and "push" in t.roles), "")
        token = next((t.token for a in settings.authenticators for t in a.tokens if t.loopback_only), "")
        found = self._door_to_try()
        if not settings.demo_upstream or not push or found is None:
            return []
        address, listener = found
        closed = listener.client_certificates == "require"
        if not token and not (closed and any(one.kind == "certificate" for one in settings.authenticators)):
            return []
        own = listener.certificates[0].chain if listener.certificates else ""
        ca = "CA.pem" if own else Path(settings.state_dir) / "ca.pem"
        client = f".venv/bin/accessgw-client --url mmtps://{address} --ca {ca}"
        files = [f"CA.pem: the CA of {own}"] if own else []
        if closed:
            client += " --cert device.pem --key device-key.pem"
            rule = listener.certificate_identity
            files.append(f"device.pem: a certificate from {listener.client_ca} whose {rule} is phone1, with its key")
        if token:
            client += f" --token {token}"
        return [
            f"try, in another shell ({'; '.join(files)}):" if files else "try, in another shell:",
            f"""  {client} --device phone1 call payments.pay '{{"amount": 100, "currency": "CNY"}}'""",
            f"  {client} --device phone1 listen",
            f"  curl -H 'Authorization: Bearer {push}' {control}/v1/push"
            """ -d '{"to": {"device": "phone1"}, "biz": "orders", "payload": {"text": "shipped 已发货"}}'""",
            *(self._mqtt_greeting(token) if token else ()),
        ]

    def _door_to_try(self) -> tuple[str, ListenerSettings] | None:
        """The address of a listener that speaks MMTP over TLS; of those that let a device in by its token alone, if
        there is one."""
        doors = {one.name: one for one in self.settings.listeners if one.transport == "tls" and one.profile != "sm"}
        found = [
            (row["address"], doors[row["name"]])
            for row in self.rooms.description.listeners()
            if row["name"] in doors and "mmtp/1" in row["protocols"]
        ]
        return min(found, key=lambda one: one[1].client_certificates == "require", default=None)

    def _mqtt_greeting(self, token: str) -> list[str]:
        for row in self.rooms.description.listeners():
            if row["transport"] == "tcp" and "mqtt" in row["protocols"]:
                host, _, port = row["address"].rpartition(":")
                door = f"-h {host.strip('[]')} -p {port} -u any -P {token}"
                return [
                    "and with any MQTT client:",
                    f"  mosquitto_pub {door} -i meter1 -t sensors/meter1/temperature -m 21.5 -q 1 -r",
                    f"  mosquitto_sub {door} -t 'sensors/#' -v",
                ]
        return []

    # ---------------------------------------------------------------- reloading

    def _hangup(self) -> None:
        """A reload takes the reactor for a while: signals that come close together are one."""
        if self._reloading is None:
            wait = max(0.0, self._reloaded_at + RELOAD_INTERVAL - self.reactor.seconds())
            self._reloading = self.reactor.callLater(wait, self._on_hangup)

    def _on_hangup(self) -> None:
        self._reloading = None
        self._reloaded_at = self.reactor.seconds()
        self.rooms.access_log.reopen()
        # the refusal was logged
        self.reload().addErrback(lambda failure: None)

    def _on_upgrade(self) -> None:
        log.error("SIGUSR2: this version cannot be upgraded in place, nothing was done; drain and restart instead")

    def reload(self) -> Deferred[dict[str, Any]]:
        """Bring the file into force, or fail with ControlError and change nothing."""
        return Deferred.fromCoroutine(self._reload()).addCallbacks(self._reloaded, self._reload_refused)

    def _reloaded(self, result: dict[str, Any]) -> dict[str, Any]:
        log.info(
            "reloaded {path}: applied {applied}; needs a restart: {restart}",
            path=self.config_path,
            applied=", ".join(result["applied"]) or "nothing",
            restart=", ".join(result["needs_restart"]) or "nothing",
        )
        return result

    def _reload_refused(self, failure: Failure) -> Failure:
        log.error("reload refused, the old configuration stays: {why}", why=failure.getErrorMessage())
        return failure

    async def _reload(self) -> dict[str, Any]:
        try:
            wanted = load(self.config_path)
            prepared = Prepared.of(wanted)
            swaps = [contexts.prepare() for contexts in self.rooms.tls.contexts.values()]
        except ConfigError as error:
            raise ControlError(422, "invalid_config", str(error), error.path) from None
        except CertificateError as error:
            raise ControlError(422, "invalid_config", str(error), error.path) from None
        for swap in swaps:
            swap()
        self.rooms.tls.reload_lists()
        self.rooms.tls.reload_signer()
        changes = diff(self.settings, wanted)
        settings = self.settings = applicable(self.settings, wanted)
        self.rooms.reconfigure(settings, prepared)
        loaded, waiting = self.rooms.tls.chain_files()
        return {
            "applied": changes.applied,
            "needs_restart": changes.needs_restart,
            "certificates_loaded": loaded,
            "certificates_waiting": waiting,
        }

    # ---------------------------------------------------------------- stopping

    def stopService(self) -> Deferred[None]:
        """Drain within the bound, then put everything away in the order of use."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        rooms = self.rooms
        Service.stopService(self)
        drain = self.settings.drain
        for listener in rooms.listeners:
            await listener.stop()
        leaving = rooms.draining.begin_at(drain.rate)
        log.info("stopping, asked to leave: {what}", what=counted(leaving, "connection"))
        await rooms.draining.emptied(drain.timeout)
        rooms.pushes.stop()
        rooms.webhook.stop()
        await rooms.mqtt.close()
        rooms.upstreams.stop()
        await rooms.control_rooms.close()
        rooms.password_workers.stop()
        rooms.tls.stop()
        rooms.mmtp.stop()
        await rooms.dictionaries.stop()
        rooms.control_rooms.retire()
        if rooms.stores.database is not None:
            await rooms.stores.database.stop()
        rooms.collector.stop()
        rooms.ticks.stop()
        rooms.access_log.stop()
