"""The UpstreamClient: every cluster by its name, with checks, look-ups and clean-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from accessgw.core.interfaces.tls import HandshakeThreads
from accessgw.core.interfaces.upstreams import UpstreamExchange, UpstreamFailure, UpstreamRequest, UpstreamSink
from accessgw.model.counters import UpstreamCounters
from accessgw.model.route_settings import ClusterSettings
from accessgw.upstreams.checks import Checker, Result
from accessgw.upstreams.cluster import Cluster
from accessgw.upstreams.deadlines import Deadlines
from accessgw.upstreams.dns import NameWatcher, Resolve, reactor_resolver
from accessgw.upstreams.http_pool import Endpoint
from accessgw.upstreams.threads import AT_ONCE

HOUSEKEEPING = 1.0
"""Seconds between looks for idle connections."""


class HttpUpstreams:
    """HTTP/1.1 clusters over TCP, TLS and Unix sockets.

    `reactor` needs time, TCP and Unix clients (and `nameResolver` unless `resolve` is given);
    `random` gives numbers in [0, 1); `counters` gets an entry per cluster; `handshakes` is where those of TLS are
    made. `request` works from the beginning, health checks and look-ups run between `start` and `stop`.
    """

    def __init__(
        self,
        reactor: Any,
        clusters: Sequence[ClusterSettings],
        *,
        random: Callable[[], float],
        counters: dict[str, UpstreamCounters],
        resolve: Resolve | None = None,
        handshakes: HandshakeThreads = AT_ONCE,
        called: Callable[[str], str] = "cluster {}".format,
    ) -> None:
        """`called`: a cluster of this name, in words of the operator. Raises ValueError for an endpoint or name that is
        none."""
        self._reactor = reactor
        self._random = random
        self._handshakes = handshakes
        self._called = called
        self._counters = counters
        self._resolve = resolve if resolve is not None else reactor_resolver(reactor)
        self._deadlines = Deadlines(reactor)
        self._clusters: dict[str, Cluster] = {}
        self._removed: list[Cluster] = []
        self._checkers: dict[Endpoint, Checker] = {}
        self._watchers: dict[str, NameWatcher] = {}
        self._running = False
        self._housekeeping: Any = None
        self.reconfigure(clusters)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin with health checks and look-ups."""
        if not self._running:
            self._running = True
            self._housekeeping = self._reactor.callLater(HOUSEKEEPING, self._housekeep)
            for cluster in self._clusters.values():
                cluster.look()
                self._watch(cluster)
                self._check(cluster)

    def stop(self) -> None:
        """End everything: open exchanges fail with `cancelled`, connections are closed."""
        self._running = False
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            self._housekeeping = None
        for watcher in self._watchers.values():
            watcher.stop()
        self._watchers.clear()
        for checker in self._checkers.values():
            checker.stop()
        self._checkers.clear()
        for cluster in (*self._clusters.values(), *self._removed):
            cluster.stop()
        self._deadlines.stop()

    def reconfigure(self, clusters: Sequence[ClusterSettings]) -> None:
        """Take new settings: clusters that did not change are not touched, endpoints that remain keep their
        connections, exchanges in progress go on. ValueError, and nothing changed, for bad settings."""
        fresh = {
            settings.name: Cluster(
                settings,
                self._reactor,
                self._deadlines,
                self._counter(settings.name),
                self._random,
                handshakes=self._handshakes,
                called=partial(self._called, settings.name),
            )
            for settings in clusters
            if settings.name not in self._clusters or self._clusters[settings.name].settings != settings
        }
        names = {settings.name for settings in clusters}
        for name in [name for name in self._clusters if name not in names]:
            cluster = self._clusters.pop(name)
            self._unwatch(name)
            self._uncheck(cluster.endpoints)
            cluster.retire()
            self._removed.append(cluster)
        for name, made in fresh.items():
            present = self._clusters.get(name)
            if present is None:
                self._clusters[name] = present = made
            else:
                self._uncheck(present.endpoints)
                self._unwatch(name)
                present.reconfigure(made.settings)
            if self._running:
                present.look()
                self._watch(present)
                self._check(present)

    def snapshot(self) -> list[dict[str, Any]]:
        """One entry per endpoint: cluster, endpoint, healthy, ejected, outstanding, connections, idle, latency
        (seconds) and the last error; and one per name that has no addresses, as an endpoint that is not healthy."""
        return [entry for cluster in self._clusters.values() for entry in cluster.snapshot()]

    def expires_at(self) -> dict[tuple[str, str], float]:
        """Who shows a certificate (`called`), and its file -> wall-clock second at which it ends."""
        shown = [(one.called(), one.settings.tls.certificate, one.certificate_ends) for one in self._clusters.values()]
        return {(who, file): ends for who, file, ends in shown if ends < float("inf")}

    # ------------------------------------------------------------------ UpstreamClient

    def request(self, cluster: str, request: UpstreamRequest, sink: UpstreamSink) -> UpstreamExchange:
        found = self._clusters.get(cluster)
        if found is not None:
            return found.submit(request, sink)
        exchange = _Nowhere(sink, f"there is no cluster {cluster}")
        self._reactor.callLater(0, exchange.fail)
        return exchange

    # ------------------------------------------------------------------

    def _counter(self, name: str) -> UpstreamCounters:
        return self._counters.setdefault(name, UpstreamCounters())

    def _watch(self, cluster: Cluster) -> None:
        settings = cluster.settings
        if settings.dns and settings.name not in self._watchers:

            def changed(addresses: Any) -> None:
                before = set(cluster.endpoints)
                cluster.set_resolved(addresses)
                self._uncheck(before.difference(cluster.endpoints))
                self._check(cluster)

            self._watchers[settings.name] = NameWatcher(
                self._reactor, self._resolve, settings.dns, settings.dns_interval, changed
            )

    def _unwatch(self, name: str) -> None:
        watcher = self._watchers.pop(name, None)
        if watcher is not None:
            watcher.stop()

    def _check(self, cluster: Cluster) -> None:
        settings = cluster.settings.health
        if not settings.path:
            return
        for endpoint in cluster.endpoints:
            if endpoint not in self._checkers:
                self._checkers[endpoint] = Checker(
                    self._reactor,
                    endpoint.address,
                    cluster.host_of(endpoint),
                    settings,
                    new_connection=cluster.new_connection,
                    random=self._random,
                    result=self._result_of(cluster, endpoint),
                )

    def _result_of(self, cluster: Cluster, endpoint: Endpoint) -> Result:
        def result(ok: bool, error: str, connected: bool) -> None:
            if not connected:
                endpoint.tell(error)
            elif ok and endpoint.unproven:
                endpoint.proven()
            if endpoint.health.result(ok, error):
                cluster.health_changed()

        return result

    def _uncheck(self, endpoints: Any) -> None:
        for endpoint in endpoints:
            checker = self._checkers.pop(endpoint, None)
            if checker is not None:
                checker.stop()

    def _housekeep(self) -> None:
        self._housekeeping = self._reactor.callLater(HOUSEKEEPING, self._housekeep)
        now = self._reactor.seconds()
        for cluster in self._clusters.values():
            cluster.housekeeping(now)
        self._removed = [cluster for cluster in self._removed if cluster.busy]


class _Nowhere:
    """The exchange of a request to a cluster that does not exist."""

    __slots__ = ("_message", "_sink")

    def __init__(self, sink: UpstreamSink, message: str) -> None:
        self._sink: UpstreamSink | None = sink
        self._message = message

    def fail(self) -> None:
        """Tell the sink, unless it was cancelled."""
        if self._sink is not None:
            self._sink.failed(UpstreamFailure("no_endpoint", self._message))

    def data(self, data: bytes, more: bool) -> None:
        """There is nowhere to send it."""

    def cancel(self) -> None:
        self._sink = None

    def pause(self) -> None:
        """There is nothing to pause."""

    def resume(self) -> None:
        """There is nothing to resume."""
