"""What an operator can set, one frozen struct per room, a doc line per field.

The configuration file is these structs as TOML tables; `config` loads and validates them, service
hands each room its own. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from accessgw.model.dictionary_settings import DictionarySettings
from accessgw.model.listener_settings import ListenerSettings, TransportLimits
from accessgw.model.mmtp_settings import HeaderStateSettings, MmtpSettings
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.model.route_settings import ClusterSettings, RouteSettings, UpstreamTlsSettings
from accessgw.model.setting_types import (
    Amount,
    Count,
    Port,
    Rate,
    Seconds,
    SecondsOrZero,
    Secret,
    Settings,
)
from accessgw.model.tls_settings import TlsSettings


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
    """http: `http://HOST[:PORT]/PATH` (or https://) that gets a POST with {"device", "username", "password", "token", "app",
    "app_version", "certificate", "peer"}; 200 with {"result": "allow" | "deny" | "ignore", "user"?, "attributes"?,
    "expires_at"?} decides, anything else means unavailable. `user` is the user name when the answer has none."""
    timeout: Annotated[float, Meta(gt=0, le=4)] = 3.0
    """http: of one request."""
    tls: UpstreamTlsSettings = field(default_factory=UpstreamTlsSettings)
    """http: TLS, where `url` begins with https://."""
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
    """http:// or https:// URL that gets one POST per event; empty: none are sent."""
    tls: UpstreamTlsSettings = field(default_factory=UpstreamTlsSettings)
    """TLS, where `url` begins with https://."""
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
    """Who may do what; without tokens only what needs none answers, such as /health/live and /health/ready."""
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
