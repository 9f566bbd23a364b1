"""What an operator can set, one frozen struct per room, a doc line per field.

The configuration file is these structs as TOML tables; `config` loads and validates them, service
hands each room its own. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all settings: unknown keys are errors."""


class ListenerSettings(Settings, frozen=True, kw_only=True):
    """One address on which the gateway accepts."""

    name: str
    """Name in logs and metrics; must be unique."""
    transport: Literal["tls", "tcp", "unix"] = "tcp"
    """tls: TLS over TCP with ALPN; tcp: plain, for a balancer in front; unix: plain on a Unix socket."""
    address: str = "127.0.0.1"
    """IPv4 or IPv6 address to bind."""
    port: int = 0
    """TCP port, 0 to let the kernel choose (for tests). Unused for unix."""
    path: str = ""
    """Path of the Unix socket."""
    mode: int = 0o600
    """File mode of the Unix socket."""
    protocols: tuple[str, ...] = ("mmtp/1",)
    """What it speaks: `mmtp/1`, `http/1.1`. On tls they are the ALPN offers, best first; on tcp and
    unix with both, the first byte decides."""
    proxy_protocol_from: tuple[str, ...] = ()
    """Networks whose PROXY v1/v2 header is believed and required. From anyone else a PROXY header
    closes the connection. On a Unix socket, `unix` trusts its peers."""
    backlog: int = 4096
    """Length of the kernel's accept queue."""
    certificates: tuple[CertificateSettings, ...] = ()
    """Certificates of a tls listener, the first is the default, others are chosen by SNI. Empty: the
    development certificate of the state directory."""


class CertificateSettings(Settings, frozen=True, kw_only=True):
    """A certificate chain and its key."""

    chain: str
    """PEM file, leaf first."""
    key: str
    """PEM file of the private key."""
    names: tuple[str, ...] = ()
    """Server names (SNI) that it serves, `*.example.com` allowed; empty for the default."""


class TransportLimits(Settings, frozen=True, kw_only=True):
    """Bounds on connections, whatever they speak."""

    max_connections: int = 1_000_000
    """Connections of this worker; more are refused and counted."""
    max_connections_per_address: int = 10_000
    """Connections at once from one address (loopback and trusted proxies are counted by the address they name)."""
    accepts_per_address_per_second: float = 200.0
    """Token bucket of new connections per address."""
    accept_burst_per_address: int = 400
    """Size of that bucket."""
    handshake_timeout: float = 10.0
    """TLS hand-shake, from accept to completion."""
    hello_timeout: float = 5.0
    """First complete HELLO or HTTP request head, from accept or hand-shake."""
    idle_timeout: float = 360.0
    """A connection on which nothing arrives for so long is closed."""
    http_idle_timeout: float = 65.0
    """A kept-alive HTTP connection between requests."""
    max_age: float = 86400.0
    """Longest life of a connection; it is then told to go away. 0 for no limit."""
    max_age_spread: float = 0.1
    """Random share by which max_age is shortened, so that devices do not return together."""
    tcp_user_timeout: float = 30.0
    """Unacknowledged bytes older than this end the connection (TCP_USER_TIMEOUT)."""
    write_buffer: int = 512 * 1024
    """Bytes per connection waiting for the kernel; past it the peer is a slow reader."""
    close_timeout: float = 5.0
    """How long a closing connection may take to flush its last bytes."""


class MmtpSettings(Settings, frozen=True, kw_only=True):
    """Limits of the MMTP wire; the specification's section Limits has the meaning of each."""

    max_frame: int = 256 * 1024
    """Largest frame."""
    max_hello: int = 8 * 1024
    """Bytes before a complete HELLO."""
    max_headers: int = 64 * 1024
    """Expanded header bytes of one call."""
    max_header_fields: int = 64
    """Header fields of one call."""
    max_open_calls: int = 64
    """Calls open at once on a connection (at most 127)."""
    call_window: int = 64 * 1024
    """Body bytes that a peer may send ahead per call."""
    connection_window: int = 256 * 1024
    """Body bytes that a peer may send ahead per connection."""
    max_body: int = 16 * 1024 * 1024
    """Expanded bytes of one compressed body."""
    max_ratio: int = 200
    """Largest expansion of a compressed body (not enforced up to 64 KiB expanded)."""
    header_table: int = 4096
    """Dynamic table of HPACK (profile H), per direction."""
    push_window: int = 64
    """Unacknowledged pushes per connection."""
    push_window_bytes: int = 64 * 1024
    """Unacknowledged push bytes per connection."""
    control_frames_per_second: float = 20.0
    """PING with answer, RESET, SETTINGS and WINDOW frames per second that are no flood."""
    control_frame_burst: int = 200
    """Burst of such frames."""
    heartbeat_hint: float = 240.0
    """Heartbeat interval suggested in WELCOME."""


class StaticTokenSettings(Settings, frozen=True, kw_only=True):
    """One token of the static authenticator."""

    token: str
    """The token itself."""
    user: str = ""
    """User that it signs in; empty: none."""
    device: str = ""
    """Only this device may use it; empty: any."""
    loopback_only: bool = False
    """Accepted from loopback addresses only (development credentials)."""


class AuthenticatorSettings(Settings, frozen=True, kw_only=True):
    """One link of the authenticator chain; the first that knows the credentials decides."""

    kind: Literal["jwt", "static"]
    """jwt: bearer JSON Web Tokens; static: tokens of this file."""
    name: str = ""
    """Name in logs; the kind when empty."""
    tokens: tuple[StaticTokenSettings, ...] = ()
    """static: the tokens."""
    algorithms: tuple[str, ...] = ("ES256", "RS256", "EdDSA")
    """jwt: accepted signature algorithms; HS* only with `secret`."""
    keys: dict[str, str] = field(default_factory=dict)
    """jwt: key id -> PEM file of the public key; the id `*` serves tokens without one."""
    jwks_file: str = ""
    """jwt: a JWK set instead of, or beside, `keys`."""
    secret: str = ""
    """jwt: shared secret for HS256."""
    issuer: str = ""
    """jwt: required `iss`."""
    audience: str = ""
    """jwt: required `aud`."""
    device_claim: str = "device"
    """jwt: claim that must equal the device id when the token has it."""
    require_device_claim: bool = True
    """jwt: a token without the device claim is refused."""
    user_claim: str = "sub"
    """jwt: claim that names the user."""
    attribute_claims: tuple[str, ...] = ()
    """jwt: claims copied to the identity's attributes."""
    leeway: float = 30.0
    """jwt: clock difference tolerated for exp, nbf and iat."""


class SessionSettings(Settings, frozen=True, kw_only=True):
    """How long the gateway remembers a device."""

    expiry: float = 86400.0
    """A session without a connection is forgotten after this."""
    max_sessions: int = 2_000_000
    """Bound of sessions in memory; the longest disconnected are forgotten first."""
    max_subscriptions: int = 100
    """Topics per session."""
    time_skew: float = 30.0
    """Clock difference tolerated in short connections."""


class WebhookSettings(Settings, frozen=True, kw_only=True):
    """Where connect and disconnect events go."""

    url: str = ""
    """http:// URL that gets one POST per event; empty: none are sent."""
    secret: str = ""
    """Key of X-Signature: sha256=HMAC(secret, body)."""
    timeout: float = 5.0
    """Per attempt."""
    retry_initial: float = 0.5
    """First back-off; doubles with full jitter."""
    retry_max: float = 60.0
    """Largest back-off."""
    max_pending: int = 100_000
    """Events waiting durably; past it the oldest of devices without a later one are dropped and counted."""
    concurrency: int = 16
    """Devices served at once; the events of one device go in order."""


class CallSettings(Settings, frozen=True, kw_only=True):
    """Defaults and bounds of calls."""

    default_timeout: float = 10.0
    """Of a call whose route and device name none."""
    answer_horizon: float = 60.0
    """How long a complete answer is kept for repetitions."""
    claim_horizon: float = 86400.0
    """How long a claim is kept; a repetition after it has status 25."""
    max_answers: int = 100_000
    """Answers kept at once."""
    max_answer_bytes: int = 64 * 1024 * 1024
    """Bytes of answers kept at once."""
    max_kept_answer: int = 256 * 1024
    """A larger answer is not kept; its repetition has status 25."""


class PushSettings(Settings, frozen=True, kw_only=True):
    """Streams, their retention, and how pushes leave."""

    retention: float = 7 * 86400.0
    """Seconds that a push is kept at most."""
    max_stream_messages: int = 1000
    """Pushes kept per device and user stream; older ones fall below the floor."""
    max_topic_messages: int = 10_000
    """The same for topics and broadcasts."""
    max_payload: int = 128 * 1024
    """Largest body of a push."""
    max_batch: int = 1000
    """Pushes in one request of the control API."""
    new_device_tail: int = 20
    """How many pushes of a user's stream a new device of theirs gets."""
    new_device_broadcast_tail: int = 0
    """The same for broadcasts."""
    new_subscription_tail: int = 0
    """The same for topics."""
    fanout_slice: float = 0.002
    """Seconds of the reactor that a fan-out takes at a time."""
    compress_from: int = 256
    """Bodies from this size on are compressed (zstd) once per group."""
    slow_reader_bytes: int = 256 * 1024
    """Unsent bytes of a connection past which only priority 0 leaves."""
    slow_reader_timeout: float = 60.0
    """A connection with a full push window and no acknowledgement for so long is told GOAWAY(slow)."""
    next_activity_max_wait: float = 300.0
    """A priority 1 push leaves after this even without activity."""
    cursor_flush: float = 0.5
    """Acknowledged cursors are written behind at this interval."""


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
    """Further conditions, all must hold: `app`, `app_version` (`>=2.1`), `user` (`*` = any signed in), `header:NAME`, `attribute:NAME`."""
    cluster: str
    """Name of the cluster that serves it."""
    upstream_method: str = "POST"
    """HTTP method towards the upstream (operation routes)."""
    upstream_path: str = "/{operation}"
    """Path template: `{operation}`, `{device}`, `{user}`, `{app}`, `{header:NAME}`."""
    timeout: float | None = None
    """Total time for the call, retries included."""
    idempotent: bool = False
    """May be executed more than once: allowed to be retried, and needs no durable claim."""
    once: Literal["durable", "memory"] = "durable"
    """Where the claim of a call that is not idempotent is kept before the upstream is called."""
    retries: int = 1
    """Attempts after the first, only where allowed and within the retry budget."""
    max_request_body: int = 1024 * 1024
    """Larger request bodies get status 2."""
    max_response_body: int = 16 * 1024 * 1024
    """Larger response bodies are cut off with status 15."""
    require: Literal["none", "token", "certificate"] = "token"
    """Least strength of authentication."""


class HealthCheckSettings(Settings, frozen=True, kw_only=True):
    """Active probes of a cluster's endpoints."""

    path: str = ""
    """GET this path; empty: no active checks."""
    interval: float = 5.0
    """Between probes of one endpoint."""
    timeout: float = 2.0
    """Of one probe."""
    healthy_after: int = 2
    """Consecutive successes that bring an endpoint back."""
    unhealthy_after: int = 3
    """Consecutive failures that take it out."""


class ClusterSettings(Settings, frozen=True, kw_only=True):
    """A set of like servers."""

    name: str
    """Name that routes refer to."""
    endpoints: tuple[str, ...] = ()
    """`http://host:port` or `unix:/path/to/socket`; addresses, not names, unless `dns`."""
    dns: str = ""
    """`host:port` looked up for A and AAAA records, beside `endpoints`."""
    dns_interval: float = 10.0
    """Between look-ups."""
    host: str = ""
    """Host header; the endpoint's authority when empty."""
    max_connections: int = 256
    """Connections per endpoint."""
    max_pending: int = 1024
    """Calls waiting for a connection, per cluster; more get status 8."""
    connect_timeout: float = 2.0
    """To establish a connection."""
    idle_timeout: float = 30.0
    """An unused kept-alive connection is closed."""
    retry_budget: float = 0.2
    """Retries at most this share of the recent requests (10 s window), with a floor of 3 per second."""
    eject_after: int = 5
    """Consecutive failures (connect, reset, 5xx) that eject an endpoint for a while."""
    eject_time: float = 10.0
    """First ejection; grows with each further one."""
    max_ejected: float = 0.1
    """Largest share of endpoints ejected (at least one may be while others remain)."""
    health: HealthCheckSettings = field(default_factory=HealthCheckSettings)
    """Active checks."""


class FilterSettings(Settings, frozen=True, kw_only=True):
    """One filter of the chain, in order."""

    name: str
    """Entry point in the group accessgw.filters."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Handed to the filter's factory."""


class ControlTokenSettings(Settings, frozen=True, kw_only=True):
    """One bearer token of the control API."""

    token: str
    """The token itself."""
    roles: tuple[Literal["push", "read", "operate"], ...]
    """What it may do."""
    loopback_only: bool = False
    """Accepted from loopback addresses only."""


class ControlSettings(Settings, frozen=True, kw_only=True):
    """The control API's listener."""

    address: str = "127.0.0.1"
    """Address to bind."""
    port: int = 7900
    """Port; 0 lets the kernel choose."""
    tokens: tuple[ControlTokenSettings, ...] = ()
    """Who may do what; without tokens only /health answers."""
    max_body: int = 16 * 1024 * 1024
    """Largest request."""
    idempotency_ttl: float = 86400.0
    """How long an Idempotency-Key is remembered."""


class LogSettings(Settings, frozen=True, kw_only=True):
    """The access log."""

    access: str = ""
    """File of the access log (JSON lines); empty: none. `-` is standard output."""
    queue: int = 10_000
    """Lines waiting for the writer thread; more are dropped and counted."""
    calls: bool = True
    """Log calls."""
    connections: bool = True
    """Log connects and closes."""


class DrainSettings(Settings, frozen=True, kw_only=True):
    """What SIGTERM does."""

    rate: float = 1000.0
    """Connections told GOAWAY per second."""
    timeout: float = 30.0
    """Longest wait for calls in flight and for devices to leave."""
    alternate: str = ""
    """Address named in GOAWAY, host:port; empty: the same one."""


class StoreSettings(Settings, frozen=True, kw_only=True):
    """The durable store."""

    kind: Literal["sqlite", "memory"] = "sqlite"
    """sqlite: one file in the state directory, group commit; memory: for tests, loses all at exit."""
    path: str = ""
    """File of the store; `store.sqlite` in the state directory when empty."""
    max_pending: int = 100_000
    """Writes waiting for the writer thread; more are refused with an error."""


class GatewaySettings(Settings, frozen=True, kw_only=True):
    """The whole configuration file."""

    state_dir: str = "var"
    """Directory of everything that outlives the process, relative to the working directory."""
    zone: str = "local"
    """Name of this zone, told to devices and upstreams."""
    node: str = ""
    """Name of this node; the host name when empty."""
    public_address: str = ""
    """host:port under which devices reach the gateway, answered by /.well-known/accessgw; the first tls listener when empty."""
    alternate_addresses: tuple[str, ...] = ()
    """Further host:port told to devices in WELCOME."""
    routes_file: str = ""
    """A second TOML file with `routes` and `clusters`, relative to this one."""
    listeners: tuple[ListenerSettings, ...] = ()
    """Where devices connect."""
    limits: TransportLimits = field(default_factory=TransportLimits)
    """Bounds on connections."""
    mmtp: MmtpSettings = field(default_factory=MmtpSettings)
    """Limits of the wire."""
    authenticators: tuple[AuthenticatorSettings, ...] = ()
    """The chain that accepts devices; empty: nobody is accepted."""
    sessions: SessionSettings = field(default_factory=SessionSettings)
    """Memory of devices."""
    calls: CallSettings = field(default_factory=CallSettings)
    """Calls."""
    pushes: PushSettings = field(default_factory=PushSettings)
    """Pushes."""
    routes: tuple[RouteSettings, ...] = ()
    """Rules."""
    clusters: tuple[ClusterSettings, ...] = ()
    """Servers."""
    filters: tuple[FilterSettings, ...] = ()
    """The filter chain."""
    webhook: WebhookSettings = field(default_factory=WebhookSettings)
    """Presence events."""
    control: ControlSettings = field(default_factory=ControlSettings)
    """Control API."""
    log: LogSettings = field(default_factory=LogSettings)
    """Access log."""
    drain: DrainSettings = field(default_factory=DrainSettings)
    """Stopping."""
    store: StoreSettings = field(default_factory=StoreSettings)
    """Durability."""
    demo_upstream: str = ""
    """Start the built-in demo service on this endpoint (`http://127.0.0.1:7800`); empty: do not."""
