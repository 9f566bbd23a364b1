"""What an operator can set of routes and clusters: what `routes_file` may hold."""

from __future__ import annotations

from typing import Literal

from msgspec import field

from accessgw.model.setting_types import Amount, Count, Seconds, Settings, Share


class RouteSettings(Settings, frozen=True, kw_only=True):
    """One rule: which calls go where."""

    operation: str = ""
    """Exact name or pattern: `payments.pay`, `payments.*`, `*`. Longest literal prefix wins."""
    path: str = ""
    """Instead of `operation`, for ordinary HTTP requests: a path prefix such as `/api/`."""
    methods: tuple[str, ...] = ()
    """HTTP methods of a path route; empty: all."""
    hosts: tuple[str, ...] = ()
    """Host names of a path route; empty: all."""
    when: dict[str, str] = field(default_factory=dict)
    """Further conditions, all must hold:
    `app`, `app_version` (`>=2.1`), `user` (`*` = any signed in), `header:NAME`, `attribute:NAME`."""
    cluster: str
    """Name of the cluster that serves it."""
    upstream_method: str = "POST"
    """HTTP method towards the upstream (operation routes)."""
    upstream_path: str = "/{operation}"
    """Path template: `{operation}`, `{device}`, `{user}`, `{app}`, `{header:NAME}`."""
    timeout: Seconds | None = None
    """Total time for the call, retries included."""
    idempotent: bool = False
    """May be executed more than once: allowed to be retried, and needs no durable claim."""
    once: Literal["durable", "memory"] = "durable"
    """Where the claim of a call that is not idempotent is kept before the upstream is called."""
    retries: Amount = 1
    """Attempts after the first, only where allowed and within the retry budget."""
    max_request_body: Amount = 1024 * 1024
    """Larger request bodies get status 2."""
    max_response_body: Count = 16 * 1024 * 1024
    """Larger response bodies are cut off with status 15."""
    require: Literal["none", "token", "certificate"] = "token"
    """Least strength of authentication. `certificate`: a client certificate, which a listener has to ask for
    (`client_certificates`)."""
    bodies: str = ""
    """Of a path route: the operation that its answers are like. With `dictionaries.http` they are compressed with the
    dictionaries of that operation's answers, and sampled for them."""
    bodies_app: str = ""
    """The app whose dictionaries these are, whoever asks."""
    secret: bool = False
    """Answers travel without compression, and neither they nor the requests become samples for dictionaries. See also
    `dictionaries.secret`."""


class HealthCheckSettings(Settings, frozen=True, kw_only=True):
    """Active probes of a cluster's endpoints."""

    path: str = ""
    """GET this path; empty: no active checks."""
    interval: Seconds = 5.0
    """Between probes of one endpoint."""
    timeout: Seconds = 2.0
    """Of one probe."""
    healthy_after: Count = 2
    """Consecutive successes that bring an endpoint back."""
    unhealthy_after: Count = 3
    """Consecutive failures that take it out."""


class UpstreamTlsSettings(Settings, frozen=True, kw_only=True):
    """TLS toward a service. Its certificate and its name are verified, always. The files are read again when they
    change."""

    ca: str = ""
    """PEM file of the CAs that the service's certificate must come from; empty: those of the system."""
    certificate: str = ""
    """PEM file of our client certificate, with the CAs between; empty: none is shown."""
    key: str = ""
    """PEM file of its private key, not encrypted."""
    server_name: str = ""
    """Name (or IP address) that the certificate has to be for; empty: the one that is connected to."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    """Lowest TLS version."""


class ClusterSettings(Settings, frozen=True, kw_only=True):
    """A set of like servers."""

    name: str
    """Name that routes refer to."""
    endpoints: tuple[str, ...] = ()
    """`http://ADDRESS:PORT` or `https://ADDRESS:PORT` with an IP address, or `unix:/path/to/socket`; a host name goes
    into `dns`."""
    dns: str = ""
    """`host:port` looked up for A and AAAA records, beside `endpoints`; `https://host:port` for TLS, and then the
    certificates must be for this name unless `tls.server_name` says another."""
    dns_interval: Seconds = 10.0
    """Between look-ups."""
    host: str = ""
    """Host header; the endpoint's authority when empty."""
    max_connections: Count = 256
    """Connections per endpoint."""
    max_pending: Amount = 1024
    """Calls waiting for a connection, per cluster; more get status 8."""
    connect_timeout: Seconds = 2.0
    """To establish a connection."""
    idle_timeout: Seconds = 30.0
    """An unused kept-alive connection is closed."""
    retry_budget: Share = 0.2
    """Retries at most this share of the recent requests (10 s window), with a floor of 3 per second."""
    eject_after: Count = 5
    """Consecutive failures (connect, reset, 5xx) that eject an endpoint for a while."""
    eject_time: Seconds = 10.0
    """First ejection; grows with each further one."""
    max_ejected: Share = 0.1
    """Largest share of endpoints ejected (at least one may be while others remain)."""
    health: HealthCheckSettings = field(default_factory=HealthCheckSettings)
    """Active checks."""
    tls: UpstreamTlsSettings = field(default_factory=UpstreamTlsSettings)
    """TLS, where `endpoints` or `dns` begin with https://."""
