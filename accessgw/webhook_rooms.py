"""The composition of presence: events into the outbox, and the webhook that gets them; part of the composition root."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from accessgw.core.interfaces.sessions import PresenceSink
from accessgw.core.interfaces.stores import OutboxStore
from accessgw.core.interfaces.tls import HandshakeThreads
from accessgw.core.presence import NoPresence, Presence
from accessgw.core.webhook import Webhook
from accessgw.model.counters import UpstreamCounters, WebhookCounters
from accessgw.model.settings import WebhookSettings
from accessgw.upstreams.client import HttpUpstreams
from accessgw.upstreams.post import Poster, cluster_of


class WebhookRooms:
    """Presence events and who gets them, built and wired, not started; nothing where no URL is configured."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        reactor: Any,
        outbox: OutboxStore,
        handshakes: HandshakeThreads,
        counters: WebhookCounters,
        upstreams: dict[str, UpstreamCounters],
    ) -> None:
        """`upstreams` gets the counters of the webhook's cluster."""
        self.presence: PresenceSink = NoPresence()
        self._webhook: Webhook | None = None
        self._upstream: HttpUpstreams | None = None
        if not settings.url:
            return
        cluster = cluster_of(settings.url, "webhook", settings.tls)
        self._upstream = HttpUpstreams(
            reactor,
            [cluster],
            random=random.random,
            counters=upstreams,
            handshakes=handshakes,
            called=lambda name: "webhook",
        )
        self._webhook = Webhook(
            settings,
            outbox,
            Poster(self._upstream, cluster.name, reactor),
            clock=reactor,
            random=random.random,
            counters=counters,
        )
        self.presence = Presence(
            outbox, wall=time.time, random_bytes=os.urandom, counters=counters, stored=self._webhook.wake
        )

    def snapshot(self) -> list[dict[str, Any]]:
        """HttpUpstreams.snapshot() of the webhook's cluster; empty where there is no webhook."""
        return self._upstream.snapshot() if self._upstream is not None else []

    def expires_at(self) -> dict[tuple[str, str], float]:
        """HttpUpstreams.expires_at() of the webhook's cluster."""
        return self._upstream.expires_at() if self._upstream is not None else {}

    def start(self) -> None:
        """After the store was started: send what waits."""
        if self._webhook is not None and self._upstream is not None:
            self._upstream.start()
            self._webhook.start()

    def stop(self) -> None:
        """What has not been sent waits in the store."""
        if self._webhook is not None and self._upstream is not None:
            self._webhook.stop()
            self._upstream.stop()
