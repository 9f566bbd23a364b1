"""What an operator can set, one frozen struct per room, a doc line per field.

The configuration file is these structs as TOML tables; `config` loads and validates them, service
hands each room its own. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.model.setting_types import (
    Amount,
    Count,
    Port,
    Rate,
    Seconds,
    SecondsOrZero,
    Secret,
    Settings,
    Share,
)
from accessgw.model.tls_settings import TlsSettings


class ListenerSettings(Settings, frozen=True, kw_only=True):
    """One address on which the gateway accepts."""

    name: str
    """Name in logs and metrics; must be unique."""
    transport: Literal["tls", "tcp", "unix"] = "tcp"
    """tls: TLS over TCP with ALPN; tcp: plain, for a balancer in front; unix: plain on a Unix socket."""
    address: str = "127.0.0.1"
    """IPv4 or IPv6 address to bind."""
    port: Port = 0
    """TCP port in 1..65535; 0: the kernel chooses, for tests. Unused for unix."""
    path: str = ""
    """Path of the Unix socket."""
    mode: Annotated[int, Meta(ge=0, le=0o777, extra={"expected": "a file mode in 0o000..0o777"})] = 0o600
    """File mode of the Unix socket."""
    protocols: tuple[str, ...] = ("mmtp/1",)
    """What it speaks: `mmtp/1`, `mqtt`, `http/1.1` (with WebSocket on /mmtp and /mqtt). On tls they are the ALPN
    offers, best first; a client without ALPN, and everyone on tcp and unix with several, is told by its first byte."""
    proxy_protocol_from: tuple[str, ...] = ()
    """Networks whose PROXY v1/v2 header is believed and required. From anyone else a PROXY header
    closes the connection. On a Unix socket, `unix` trusts its peers."""
    backlog: Count = 4096
    """Length of the kernel's accept queue."""
    certificates: tuple[CertificateSettings, ...] = ()
    """Certificates of a tls listener, the first is the default, others are chosen by SNI. Empty: the
    development certificate of the state directory."""
    tls_minimum: Literal["1.2", "1.3"] = "1.2"
    """Lowest TLS version of a tls listener. Over 1.2 only `mqtt` and `http/1.1` are spoken: MMTP needs 1.3, and a
    listener that serves nothing else takes no less."""
    client_certificates: Literal["off", "request", "require"] = "off"
    """Whether a tls listener asks for client certificates. request: a client may come without one; require: it must
    not. One that does not verify (chain to `client_ca`, validity, purpose) ends the hand-shake in both."""
    client_ca: str = ""
    """PEM file of the CAs that client certificates must come from; a reload reads it again."""
    certificate_identity: Literal["cn", "san_dns", "san_uri", "san_email"] = "cn"
    """What in a client certificate names the device: the common name of its subject, or its first alternative name of
    a kind. With `require` a certificate without it is refused; with `request` it counts as none."""
    client_crl: str = ""
    """PEM file of revocation lists of those CAs; read again when it changes. A certificate on it is refused, its
    connections are closed."""
    early_data: Annotated[int, Meta(ge=0, le=65536)] = 0
    """Bytes that a returning device may send in its first flight (0-RTT), on `mmtp/1` and `http/1.1`; 0: none."""
    tickets: Annotated[int, Meta(ge=0, le=8)] = 3
    """Tickets that a device gets with each WELCOME over TLS; each is used once."""
    groups: tuple[str, ...] = ()
    """Key exchange groups, best first, by OpenSSL's names; empty: X25519, P-256, P-384."""
    signature_algorithms: tuple[str, ...] = ()
    """Signature algorithms, best first, by OpenSSL's names; empty: the library's."""
    profile: Literal["default", "sm"] = "default"
    """sm: TLS 1.3 with SM2, SM3 and SM4 (RFC 8998) and nothing else; needs an SM2 certificate."""
    websocket_origins: tuple[str, ...] = ()
    """Origins of web pages that may open a WebSocket here, such as `https://app.example.com`; others get 403. A client
    that sends no Origin is no browser and is not asked. Empty: any."""


class CertificateSettings(Settings, frozen=True, kw_only=True):
    """A certificate chain and its key."""

    chain: str
    """PEM file, leaf first."""
    key: str
    """PEM file of the private key."""
    ocsp: str = ""
    """DER file of an OCSP response to staple; read again when it changes."""
    names: tuple[str, ...] = ()
    """Server names (SNI) that it serves, `*.example.com` allowed; empty for the default."""


class TransportLimits(Settings, frozen=True, kw_only=True):
    """Bounds on connections, whatever they speak."""

    max_connections: Count = 1_000_000
    """Connections of this worker; more are refused and counted."""
    max_connections_per_address: Count = 10_000
    """Connections at once from one address (loopback and trusted proxies are counted by the address they name)."""
    accepts_per_address_per_second: Rate = 200.0
    """Token bucket of new connections per address."""
    accept_burst_per_address: Count = 400
    """Size of that bucket."""
    handshake_timeout: Seconds = 10.0
    """TLS hand-shake, from accept to completion."""
    hello_timeout: Seconds = 5.0
    """First complete HELLO or HTTP request head, from accept or hand-shake."""
    idle_timeout: Seconds = 360.0
    """A connection on which nothing arrives for so long is closed."""
    http_idle_timeout: Seconds = 65.0
    """A kept-alive HTTP connection between requests."""
    max_age: SecondsOrZero = 86400.0
    """Longest life of a connection; it is then told to go away. 0 for no limit."""
    max_age_spread: Share = 0.1
    """Random share by which max_age is shortened, so that devices do not return together."""
    tcp_user_timeout: Seconds = 30.0
    """Unacknowledged bytes older than this end the connection (TCP_USER_TIMEOUT)."""
    write_buffer: Count = 512 * 1024
    """Bytes per connection waiting for the kernel; past it the peer is a slow reader."""
    close_timeout: SecondsOrZero = 5.0
    """How long a closing connection may take to flush its last bytes."""


class MmtpSettings(Settings, frozen=True, kw_only=True):
    """Limits of the MMTP wire; the specification's section Limits has the meaning of each."""

    max_frame: Annotated[int, Meta(ge=16 * 1024, le=16 * 1024 * 1024)] = 256 * 1024
    """Largest frame."""
    max_hello: Annotated[int, Meta(ge=64)] = 8 * 1024
    """Bytes before a complete HELLO."""
    max_headers: Annotated[int, Meta(ge=4096, le=1024 * 1024)] = 64 * 1024
    """Expanded header bytes of one call."""
    max_header_fields: Annotated[int, Meta(ge=16, le=1024)] = 64
    """Header fields of one call."""
    max_open_calls: Annotated[int, Meta(ge=1, le=127)] = 64
    """Calls open at once on a connection (at most 127)."""
    call_window: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 64 * 1024
    """Body bytes that a peer may send ahead per call."""
    connection_window: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 256 * 1024
    """Body bytes that a peer may send ahead per connection."""
    max_body: Count = 16 * 1024 * 1024
    """Expanded bytes of one compressed body."""
    max_ratio: Count = 200
    """Largest expansion of a compressed body (not enforced up to 64 KiB expanded)."""
    header_table: Annotated[int, Meta(ge=0, le=64 * 1024)] = 4096
    """Dynamic table of HPACK (profile H), per direction."""
    push_window: Annotated[int, Meta(ge=1, le=65535)] = 64
    """Unacknowledged pushes per connection."""
    push_window_bytes: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 64 * 1024
    """Unacknowledged push bytes per connection."""
    control_frames_per_second: Rate = 20.0
    """PING with answer, RESET, SETTINGS and WINDOW frames per second that are no flood."""
    control_frame_burst: Count = 200
    """Burst of such frames."""
    heartbeat_hint: Seconds = 240.0
    """Heartbeat interval suggested in WELCOME."""
    templates: bool = True
    """Header blocks by templates (profile D) with devices that can. Dictionaries have a switch of their own:
    `dictionaries.enabled`."""
    history: Annotated[int, Meta(ge=0, le=4096)] = 4096
    """Bytes of a private stream's earlier bodies that its pushes may refer to (coding 3), for each of these streams on
    a connection; 0: none."""
    history_biz: tuple[str, ...] = ()
    """Bizs whose pushes to one user or device may do so: a name, or a prefix such as `chat.*`. Not for bodies of which
    a stranger can choose a part while another part is secret. Topics and broadcasts never do."""
    rest_after: SecondsOrZero = 30.0
    """Header codecs of a connection without calls for so long are put away in a few hundred bytes; 0: never."""


class HeaderStateSettings(Settings, frozen=True, kw_only=True):
    """States of header codecs (profile D), with which a device's next connection goes on."""

    kept: Seconds = 7 * 86400.0
    """How long a state is kept after it was written."""
    max_states: Count = 600_000
    """Checkpoints kept at once, up to six a device, 0.1 to 4 KiB each; past that the oldest go first."""
    cache_bytes: Amount = 16 * 1024 * 1024
    """Memory for the states of devices that were here last; others are read from the store."""


class StaticTokenSettings(Settings, frozen=True, kw_only=True):
    """One token of the static authenticator."""

    token: Secret
    """The token itself."""
    user: str = ""
    """User that it signs in; empty: none."""
    device: str = ""
    """Only this device may use it; empty: any."""
    loopback_only: bool = False
    """Accepted from loopback addresses only (development credentials). Behind a proxy on the same machine that names
    no peer by PROXY header, everybody is loopback."""


class AuthenticatorSettings(Settings, frozen=True, kw_only=True):
    """One link of the authenticator chain; the first that knows the credentials decides."""

    kind: Literal["jwt", "static", "file", "http", "certificate", "scram", "anonymous"]
    """jwt: bearer JSON Web Tokens; static: tokens of this file; file: user names and passwords of a password file;
    http: a service is asked; certificate: a verified client certificate alone; scram: SCRAM-SHA-256 by MQTT 5's
    enhanced authentication; anonymous: who shows neither user name nor password."""
    name: str = ""
    """Name in logs; the kind when empty."""
    tokens: tuple[StaticTokenSettings, ...] = ()
    """static: the tokens. Taking one out (reload) ends no session that began with it:
    `accessgwctl close DEVICE --revoke`."""
    algorithms: tuple[str, ...] = ("ES256", "RS256", "EdDSA")
    """jwt: accepted signature algorithms; HS* only with `secret`."""
    keys: dict[str, str] = field(default_factory=dict)
    """jwt: key id -> PEM file of the public key; the id `*` serves tokens without one."""
    jwks_file: str = ""
    """jwt: a JWK set instead of, or beside, `keys`."""
    secret: Secret = ""
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
    username_must_match: bool = False
    """jwt: an MQTT user name, when there is one, must equal the user that the token names. Off: it does not matter."""
    leeway: SecondsOrZero = 30.0
    """jwt: clock difference tolerated for exp, nbf and iat."""
    file: str = ""
    """file: lines `user:hash` with argon2 (PHC strings) or mosquitto's PBKDF2 ($7$) and SHA-512 ($6$) hashes; scram:
    lines `user:SCRAM-SHA-256$...`. Read again when it changes or at reload."""
    url: str = ""
    """http: `http://HOST[:PORT]/PATH` that gets a POST with {"device", "username", "password", "token", "app",
    "app_version", "certificate", "peer"}; 200 with {"result": "allow" | "deny" | "ignore", "user"?, "attributes"?,
    "expires_at"?} decides, anything else means unavailable. `user` is the user name when the answer has none."""
    timeout: Annotated[float, Meta(gt=0, le=4)] = 3.0
    """http: of one request."""
    cache: SecondsOrZero = 0.0
    """http, file: seconds that a success of the same credentials is remembered; 0: not at all."""
    loopback_only: bool = False
    """anonymous: accepted from loopback addresses only."""


class SessionSettings(Settings, frozen=True, kw_only=True):
    """How long the gateway remembers a device."""

    expiry: Seconds = 86400.0
    """A session without a connection is forgotten after this."""
    max_sessions: Count = 2_000_000
    """Bound of sessions in memory; the longest disconnected are forgotten first."""
    max_subscriptions: Amount = 100
    """Topics per session."""
    time_skew: SecondsOrZero = 30.0
    """Clock difference tolerated in short connections."""


class WebhookSettings(Settings, frozen=True, kw_only=True):
    """Where connect and disconnect events go."""

    url: str = ""
    """http:// URL that gets one POST per event; empty: none are sent."""
    secret: Secret = ""
    """Key of X-Signature: sha256=HMAC(secret, body)."""
    timeout: Seconds = 5.0
    """Per attempt."""
    retry_initial: Seconds = 0.5
    """First back-off; doubles with full jitter."""
    retry_max: Seconds = 60.0
    """Largest back-off."""
    max_pending: Count = 100_000
    """Events waiting durably; past it the oldest of devices without a later one are dropped and counted."""
    concurrency: Count = 16
    """Devices served at once; the events of one device go in order."""


class CallSettings(Settings, frozen=True, kw_only=True):
    """Defaults and bounds of calls."""

    default_timeout: Seconds = 10.0
    """Of a call whose route and device name none."""
    answer_horizon: SecondsOrZero = 60.0
    """How long a complete answer is kept for repetitions."""
    claim_horizon: SecondsOrZero = 86400.0
    """How long a claim is kept; a repetition after it has status 25."""
    max_claims: Count = 10_000_000
    """Durable claims kept at once; past that the oldest go first, and a repetition from their time has status 25."""
    max_answers: Amount = 100_000
    """Answers kept at once."""
    max_answer_bytes: Amount = 64 * 1024 * 1024
    """Bytes of answers kept at once."""
    max_kept_answer: Amount = 256 * 1024
    """A larger answer is not kept; its repetition has status 25, or is executed again on an idempotent route."""


class PushSettings(Settings, frozen=True, kw_only=True):
    """Streams, their retention, and how pushes leave."""

    retention: Seconds = 7 * 86400.0
    """Seconds that a push is kept at most."""
    max_stream_messages: Count = 1000
    """Pushes kept per device and user stream; older ones fall below the floor."""
    max_topic_messages: Count = 10_000
    """The same for topics and broadcasts."""
    max_payload: Count = 128 * 1024
    """Largest body of a push."""
    max_batch: Count = 1000
    """Pushes in one request of the control API."""
    new_device_tail: Amount = 20
    """How many pushes of a user's stream a new device of theirs gets."""
    new_device_broadcast_tail: Amount = 0
    """The same for broadcasts."""
    new_subscription_tail: Amount = 0
    """The same for topics."""
    fanout_slice: Seconds = 0.002
    """Seconds of the reactor that a fan-out takes at a time."""
    compress_from: Amount = 256
    """Bodies from this size on are compressed (zstd) once per group."""
    slow_reader_bytes: Count = 256 * 1024
    """Unsent bytes of a connection past which only priority 0 leaves; at most half of limits.write_buffer."""
    slow_reader_timeout: Seconds = 60.0
    """A connection with a full push window and no acknowledgement for so long is told GOAWAY(slow)."""
    next_activity_max_wait: SecondsOrZero = 300.0
    """A priority 1 push leaves after this even without activity."""
    cursor_flush: SecondsOrZero = 0.5
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


class ClusterSettings(Settings, frozen=True, kw_only=True):
    """A set of like servers."""

    name: str
    """Name that routes refer to."""
    endpoints: tuple[str, ...] = ()
    """`http://ADDRESS:PORT` with an IP address, or `unix:/path/to/socket`; a host name goes into `dns`."""
    dns: str = ""
    """`host:port` looked up for A and AAAA records, beside `endpoints`."""
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


class FilterSettings(Settings, frozen=True, kw_only=True):
    """One filter of the chain, in order."""

    name: str
    """Entry point in the group accessgw.filters."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Handed to the filter's factory."""


class ControlTokenSettings(Settings, frozen=True, kw_only=True):
    """One bearer token of the control API."""

    token: Secret
    """The token itself."""
    roles: tuple[Literal["push", "read", "operate"], ...]
    """What it may do."""
    loopback_only: bool = False
    """Accepted from loopback addresses only. Behind a proxy on the same machine everybody is: this listener takes no
    PROXY header."""


class ControlSettings(Settings, frozen=True, kw_only=True):
    """The control API's listener."""

    address: str = "127.0.0.1"
    """Address to bind."""
    port: Port = 7900
    """Port; 0 lets the kernel choose."""
    tokens: tuple[ControlTokenSettings, ...] = ()
    """Who may do what; without tokens only /health answers."""
    max_body: Count = 16 * 1024 * 1024
    """Largest request."""
    idempotency_ttl: Seconds = 86400.0
    """How long an Idempotency-Key is remembered, but for pushes: theirs are stored for 24 hours."""


class LogSettings(Settings, frozen=True, kw_only=True):
    """The access log."""

    access: str = ""
    """File of the access log (JSON lines), relative to the working directory; empty: none. `-` is standard output."""
    queue: Count = 10_000
    """Lines waiting for the writer thread; more are dropped and counted."""
    calls: bool = True
    """Log calls."""
    connections: bool = True
    """Log connects and closes."""


class DrainSettings(Settings, frozen=True, kw_only=True):
    """What SIGTERM does."""

    rate: Rate = 1000.0
    """Connections told GOAWAY per second."""
    timeout: SecondsOrZero = 30.0
    """Longest wait for calls in flight and for devices to leave, from when the last one was told GOAWAY."""
    alternate: str = ""
    """Address named in GOAWAY, host:port; empty: the same one."""


class StoreSettings(Settings, frozen=True, kw_only=True):
    """The durable store."""

    kind: Literal["sqlite", "memory"] = "sqlite"
    """sqlite: one file in the state directory, group commit; memory: for tests, loses all at exit."""
    path: str = ""
    """File of the store; `store.sqlite` in the state directory when empty."""
    max_pending: Count = 100_000
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
    """host:port under which devices reach the gateway, answered by /.well-known/accessgw;
    the first tls listener when empty."""
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
    app_tables: tuple[str, ...] = ()
    """Files with application tables (header names and values that devices know beforehand), relative to this one. Keep
    an older version of a table listed while devices have it."""
    header_states: HeaderStateSettings = field(default_factory=HeaderStateSettings)
    """What header codecs knew, kept for a device's next connection."""
    dictionaries: DictionarySettings = field(default_factory=DictionarySettings)
    """Dictionaries of bodies."""
    tls: TlsSettings = field(default_factory=TlsSettings)
    """TLS."""
    mqtt: MqttSettings = field(default_factory=MqttSettings)
    """MQTT."""
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
    """Start the built-in demo service on `http://ADDRESS:PORT`, such as `http://127.0.0.1:7800`; empty: do not."""
