"""A set of like servers: which of them takes an exchange, and who has to wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from accessgw.core.interfaces.tls import HandshakeThreads
from accessgw.core.interfaces.upstreams import UpstreamRequest, UpstreamSink
from accessgw.model.counters import UpstreamCounters
from accessgw.model.route_settings import ClusterSettings
from accessgw.policy.balancing import pick
from accessgw.policy.ejection import Ejector
from accessgw.policy.retry_budget import RetryBudget
from accessgw.upstreams.address import DEFAULT_PORTS, Address, parse_endpoint, parse_name
from accessgw.upstreams.connection import ConnectionOwner, UpstreamConnection
from accessgw.upstreams.deadlines import Deadlines
from accessgw.upstreams.exchange import Exchange
from accessgw.upstreams.http_pool import Endpoint
from accessgw.upstreams.tls import ClusterTls
from accessgw.upstreams.tls_connection import TlsUpstreamConnection

log = Logger()

_REFRESH = 1.0
"""Seconds for which the list of endpoints in use is taken as it is, so that none is asked for every request."""
MAX_ENDPOINTS = 1024
"""Endpoints of one cluster; a name with more addresses is cut."""


class Cluster:
    """Endpoints, queue and budget of one cluster; all of it survives a change of its settings."""

    def __init__(
        self,
        settings: ClusterSettings,
        reactor: Any,
        deadlines: Deadlines,
        counters: UpstreamCounters,
        random: Callable[[], float],
        *,
        handshakes: HandshakeThreads,
        called: Callable[[], str],
    ) -> None:
        """`called`: the cluster, in words of the operator. Raises ValueError for an endpoint that is none."""
        self.settings = settings
        self.counters = counters
        self.random = random
        self.now: Callable[[], float] = reactor.seconds
        self._reactor = reactor
        self._deadlines = deadlines
        self.endpoints: list[Endpoint] = []
        self.resolving = bool(settings.dns)
        """The first look-up of `dns` has not ended: exchanges wait for it."""
        self._resolved: tuple[Address, ...] = ()
        self._lost = False
        """The last look-up of `dns` found nothing, which was logged."""
        self._retired: list[Endpoint] = []
        """Left the configuration, with exchanges still in progress."""
        self._pending: dict[Exchange, None] = {}
        """In order; bounded by max_pending."""
        self._open: set[Exchange] = set()
        self._usable: list[Endpoint] = []
        self._usable_until = -1.0
        self._pumping = False
        self._budget = RetryBudget(settings.retry_budget)
        self._ejector = Ejector(settings.eject_after, settings.eject_time, settings.max_ejected)
        self._host = ""
        self._handshakes = handshakes
        self.called = called
        self._tls = self._new_tls()
        self._arrange()

    # ------------------------------------------------------------------ configuration

    def reconfigure(self, settings: ClusterSettings) -> None:
        """Endpoints that remain keep their connections."""
        old, self.settings = self.settings, settings
        if settings.retry_budget != old.retry_budget:
            self._budget = RetryBudget(settings.retry_budget)
        if (settings.eject_after, settings.eject_time, settings.max_ejected) != (
            old.eject_after,
            old.eject_time,
            old.max_ejected,
        ):
            self._ejector = Ejector(settings.eject_after, settings.eject_time, settings.max_ejected)
        if settings.dns != old.dns:
            self.resolving = bool(settings.dns)
            self._resolved = ()
            self._lost = False
        if settings.tls != old.tls or settings.dns != old.dns:
            # what is open was verified by other files, or for another name
            self._tls.replaced = True
            self._tls = self._new_tls()
            for endpoint in self.endpoints:
                endpoint.close_idle(float("inf"))
        self._arrange()
        if settings.health != old.health:
            for endpoint in self.endpoints:
                endpoint.unchecked()
        self.has_room()

    def set_resolved(self, addresses: Sequence[Address] | None) -> None:
        """What the cluster's name stands for now; None when the look-up failed and the last good answer holds."""
        self.resolving = False
        self._tell_found(addresses is not None)
        if addresses is not None and tuple(addresses) != self._resolved:
            self._resolved = tuple(addresses)
            self._arrange()
        self.has_room()

    def _tell_found(self, found: bool) -> None:
        if found is not self._lost:
            return
        self._lost = not found
        cluster, name = self.settings.name, self.settings.dns
        if found:
            log.info("cluster {cluster}: {name} has addresses again", cluster=cluster, name=name)
        else:
            rest = "those found before" if self._resolved else "endpoints" if self.settings.endpoints else ""
            then = f"{rest} go on" if rest else "calls fail until it has some"
            log.warn("cluster {cluster}: no addresses of {name} found; {then}", cluster=cluster, name=name, then=then)

    def retire(self) -> None:
        """The cluster has left the configuration: what waits fails, what is in progress goes on."""
        for exchange in tuple(self._pending):
            exchange.fail("no_endpoint", f"the cluster {self.settings.name} was removed")
        for endpoint in self.endpoints:
            endpoint.retire()

    def stop(self) -> None:
        """End everything now."""
        for exchange in tuple(self._open):
            exchange.fail("cancelled", "the gateway is stopping")
        for endpoint in (*self.endpoints, *self._retired):
            endpoint.abort()

    def look(self) -> None:
        """Load files of TLS that have changed, where they are used."""
        if self._speaks_tls:
            self._tls.look()

    @property
    def certificate_ends(self) -> float:
        """Wall-clock second at which the certificate ends that is shown; infinity without one, or before it is loaded."""
        return self._tls.ends

    def housekeeping(self, now: float) -> None:
        """From time to time: close what has been idle for too long, and look for renewed files."""
        self.look()
        for endpoint in self.endpoints:
            endpoint.close_idle(now - self.settings.idle_timeout)
        self._retired = [endpoint for endpoint in self._retired if endpoint.connections]

    def health_changed(self) -> None:
        """An active check changed its mind about an endpoint."""
        self._usable_until = -1.0

    @property
    def busy(self) -> bool:
        """Exchanges are in progress."""
        return bool(self._open)

    def snapshot(self) -> list[dict[str, Any]]:
        """State of every endpoint, for the status page, and of the name where it has brought none."""
        now = self.now()
        name = [self._row_of_name()] if self.settings.dns and not self._resolved else []
        return name + [
            {
                "cluster": self.settings.name,
                "endpoint": endpoint.name,
                "healthy": endpoint.health.healthy,
                "ejected": self._ejector.ejected(endpoint, now),
                "outstanding": endpoint.load.outstanding,
                "connections": endpoint.connections,
                "idle": endpoint.idle,
                "latency": round(endpoint.load.latency(now), 6),
                "error": endpoint.health.last_error or endpoint.last_error,
            }
            for endpoint in self.endpoints
        ]

    def _new_tls(self) -> ClusterTls:
        return ClusterTls(
            self.settings.tls, self.now, used_by=self.called, threads=self._handshakes, loaded=self._files_loaded
        )

    def _files_loaded(self) -> None:
        for endpoint in self.endpoints:
            if endpoint.address.tls:
                endpoint.files_renewed()

    def _row_of_name(self) -> dict[str, Any]:
        what = "its addresses are being looked up" if self.resolving else "no addresses of this name found"
        return {
            "cluster": self.settings.name,
            "endpoint": self.settings.dns,
            "healthy": False,
            "ejected": False,
            "outstanding": 0,
            "connections": 0,
            "idle": 0,
            "latency": 0.0,
            "error": what,
        }

    def _arrange(self) -> None:
        """Bring the endpoints in line with settings and name."""
        wanted = dict.fromkeys([*map(parse_endpoint, self.settings.endpoints), *self._resolved])
        known = {endpoint.address: endpoint for endpoint in self.endpoints}
        self.endpoints = [
            known.pop(address) if address in known else Endpoint(self, address, self._reactor)
            for address in list(wanted)[:MAX_ENDPOINTS]
        ]
        self._speaks_tls = any(address.tls for address in wanted) or self.settings.dns.startswith("https://")
        self._ejector.members(self.endpoints)
        self._usable_until = -1.0
        self._host = self.settings.host
        if self.settings.dns:
            name = parse_name(self.settings.dns)
            usual = DEFAULT_PORTS["https" if name.tls else "http"]
            self._host = self._host or (name.host if name.port == usual else name.name)
        for endpoint in known.values():
            endpoint.retire()
            self._retired.append(endpoint)

    # ------------------------------------------------------------------ exchanges

    def submit(self, request: UpstreamRequest, sink: UpstreamSink) -> Exchange:
        """Start an exchange; its sink is called from the next turn on."""
        exchange = Exchange(self, request, sink)
        now = self.now()
        self.counters.requests += 1
        self._budget.request(now)
        self._open.add(exchange)
        if request.deadline <= now:
            exchange.expired()
        else:
            self._deadlines.add(exchange, request.deadline)
            self.dispatch(exchange)
        exchange.returned()
        return exchange

    def dispatch(self, exchange: Exchange) -> None:
        """Give an exchange to an endpoint, or let it wait for one."""
        endpoint = self._choose(exchange)
        if endpoint is not None:
            self._assign(exchange, endpoint)
        elif not self.endpoints and not self.resolving:
            exchange.fail("no_endpoint", f"the cluster {self.settings.name} has no endpoints")
        elif len(self._pending) >= self.settings.max_pending:
            exchange.fail("overload", f"{self.settings.max_pending} requests wait for {self.settings.name} already")
        else:
            self._pending[exchange] = None
            self.counters.pending += 1

    def left(self, exchange: Exchange) -> None:
        """The exchange has ended."""
        self._open.discard(exchange)
        self._deadlines.remove(exchange)
        if exchange in self._pending:
            del self._pending[exchange]
            self.counters.pending -= 1

    def later(self, delay: float, function: Callable[[], None]) -> None:
        """Call back after `delay` seconds."""
        self._reactor.callLater(delay, function)

    def host_of(self, endpoint: Endpoint) -> str:
        """Host for a request to `endpoint`."""
        return self._host or (endpoint.name if endpoint.address.host else "localhost")

    def new_connection(self, owner: ConnectionOwner, address: Address) -> UpstreamConnection:
        """A connection for `address` that does not connect yet."""
        if not address.tls:
            return UpstreamConnection(owner)
        settings = self.settings
        name = settings.tls.server_name or (parse_name(settings.dns).host if settings.dns else address.host)
        return TlsUpstreamConnection(owner, self._tls, name, self._handshakes)

    def try_retry(self) -> bool:
        """Ask the retry budget; counted either way."""
        if self._budget.try_retry(self.now()):
            self.counters.retries += 1
            return True
        self.counters.retries_denied += 1
        return False

    def has_other(self, tried: Sequence[Endpoint], endpoint: Endpoint) -> bool:
        """There is an endpoint in use that was not tried yet, beside `endpoint`."""
        return any(other is not endpoint and other not in tried for other in self._in_use(self.now()))

    # ------------------------------------------------------------------ what became of attempts

    def answered(self, endpoint: Endpoint, status: int, latency: float) -> None:
        """An endpoint answered with `status`, its head came after `latency` seconds."""
        if status >= 500:
            self.attempt_failed(endpoint, latency)
        else:
            endpoint.load.observe(latency, self.now())
            self._ejector.succeeded(endpoint)

    def attempt_failed(self, endpoint: Endpoint, latency: float) -> None:
        """An endpoint did not answer, or answered with a server error."""
        now = self.now()
        endpoint.load.failed(latency, now)
        if self._ejector.failed(endpoint, now):
            self.counters.ejections += 1
            self._usable_until = -1.0

    def connect_failed(self, endpoint: Endpoint, message: str) -> None:
        if not endpoint.retired:
            self.counters.connect_failures += 1
            self.attempt_failed(endpoint, 0.0)

    def has_room(self, endpoint: Endpoint | None = None) -> None:
        """Let exchanges that wait in the queue go on as far as there is room."""
        if self._pumping or not self._pending:
            return
        self._pumping = True
        try:
            while self._pending:
                exchange = next(iter(self._pending))
                chosen = self._choose(exchange)
                if chosen is None and (self.endpoints or self.resolving):
                    return
                del self._pending[exchange]
                self.counters.pending -= 1
                if chosen is None:
                    exchange.fail("no_endpoint", f"the name {self.settings.dns} has no addresses")
                else:
                    self._assign(exchange, chosen)
        finally:
            self._pumping = False

    # ------------------------------------------------------------------ choosing

    def _assign(self, exchange: Exchange, endpoint: Endpoint) -> None:
        exchange.endpoint = endpoint
        exchange.attempts += 1
        endpoint.load.outstanding += 1
        endpoint.serve(exchange)

    def _choose(self, exchange: Exchange) -> Endpoint | None:
        now = self.now()
        candidates = self._in_use(now)
        if exchange.tried:
            candidates = [each for each in candidates if each not in exchange.tried] or candidates
        if not candidates:
            return None
        endpoint = pick(candidates, now, self.random)
        if endpoint.available:
            return endpoint
        free = [each for each in candidates if each.available]
        return pick(free, now, self.random) if free else None

    def _in_use(self, now: float) -> list[Endpoint]:
        """Endpoints that are healthy and not ejected; all of them when there are none, since being wrong about
        every server is likelier than that trying makes it worse."""
        if now >= self._usable_until:
            self._usable = [
                endpoint
                for endpoint in self.endpoints
                if endpoint.health.healthy and not self._ejector.ejected(endpoint, now)
            ] or self.endpoints
            self._usable_until = now + _REFRESH
        return self._usable
