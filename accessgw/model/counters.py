"""Plain slots that rooms count in; `ops` reads them when it is asked for metrics.

An attribute increment costs 16 ns where a metric object costs 231. Each room has one class; service
creates the objects, the room writes, ops reads. A dict slot is a counter with one bounded label.
"""

from __future__ import annotations


class TransportCounters:
    """Written by transports."""

    __slots__ = (
        "accepted", "bytes_in", "bytes_out", "closed", "handshake_failures", "handshakes", "open",
        "refused", "write_overflows",
    )  # fmt: skip

    def __init__(self) -> None:
        self.accepted = 0
        self.open = 0
        self.handshakes = 0
        self.handshake_failures = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.write_overflows = 0
        self.closed: dict[str, int] = {}
        """By CloseReason."""
        self.refused: dict[str, int] = {}
        """Connections not accepted, by reason: max_connections, per_address, accept_rate."""


class TlsCounters:
    """Written by transports and crypto: hand-shakes, tickets, early data, signers."""

    __slots__ = (
        "detached",
        "early_accepted",
        "early_refused",
        "full",
        "kept",
        "pool_refused",
        "pool_waiting",
        "psk_refused",
        "refused",
        "resumed",
        "revoked_closed",
        "signatures",
        "signer_failures",
        "signer_fallbacks",
        "signer_waiting",
        "tickets_minted",
        "unfinished",
        "upstream_waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.full = 0
        """Hand-shakes completed with a certificate."""
        self.resumed = 0
        """Hand-shakes completed by a ticket."""
        self.refused: dict[str, int] = {}
        """Hand-shakes that failed, by reason (the name of the TLS alert, or our own word)."""
        self.detached = 0
        """Connections whose records went over to our own layer."""
        self.kept = 0
        """Connections that stayed with OpenSSL after the hand-shake."""
        self.early_accepted = 0
        """First flights whose early data reached the protocol."""
        self.early_refused: dict[str, int] = {}
        """First flights whose early data did not, or to no effect, by reason: replay, not_ready (the register of replays),
        ticket (OpenSSL took none, or HELLO does not go with it), clock. Those of HELLO have been counted as accepted, too."""
        self.psk_refused: dict[str, int] = {}
        """Tickets not taken, by reason: unknown, expired, revoked, other_device, other_protocol."""
        self.tickets_minted = 0
        self.unfinished = 0
        """Hand-shakes under way now."""
        self.pool_waiting = 0
        """Steps of hand-shakes, those with services too, that wait for a thread, run, or wait to be told, now."""
        self.upstream_waiting = 0
        """Of those, the ones of services, the webhook, authenticators and other brokers; loading of their files is a
        step, too."""
        self.pool_refused = 0
        """Connections refused since too many waited."""
        self.signatures: dict[str, int] = {}
        """By back end."""
        self.signer_waiting = 0
        """Signatures asked for and not made yet, now."""
        self.signer_failures = 0
        self.signer_fallbacks = 0
        """Signatures made in software since the back end failed."""
        self.revoked_closed = 0
        """Connections closed since their device or certificate was revoked."""


class SessionCounters:
    """Written by core.sessions."""

    __slots__ = (
        "auth_failures",
        "auth_unavailable",
        "connected",
        "expired",
        "replaced",
        "sessions",
        "stale_generations",
        "welcomed",
    )

    def __init__(self) -> None:
        self.welcomed = 0
        self.connected = 0
        self.sessions = 0
        self.replaced = 0
        self.stale_generations = 0
        self.expired = 0
        self.auth_failures: dict[str, int] = {}
        """By authenticator name, or `none` when nobody knew the credentials."""
        self.auth_unavailable: dict[str, int] = {}
        """Those of them that were refused because the authenticator could not say, by its name."""


class HeaderCounters:
    """Written by core.header_states."""

    __slots__ = ("committed", "missed", "resumed")

    def __init__(self) -> None:
        self.committed = 0
        self.resumed = 0
        self.missed: dict[str, int] = {}
        """States that a device named and that were not there, by reason: unknown, digest."""


class CodingCounters:
    """Written by core.codings and core.link_codings."""

    __slots__ = (
        "bundles", "dictionaries_held", "dictionaries_offered", "rested", "tables_held", "tables_offered",
        "unknown_tables",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tables_offered = 0
        self.tables_held = 0
        self.unknown_tables = 0
        """HELLOs that named a table which is not listed (any more)."""
        self.dictionaries_offered = 0
        self.dictionaries_held = 0
        self.bundles: dict[str, int] = {}
        """Bundles that HELLOs named: known or unknown."""
        self.rested = 0
        """Connections whose header codecs were put away."""


class CallCounters:
    """Written by core.calls."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "duration_buckets",
        "duration_sum",
        "filter_errors",
        "finished",
        "open",
        "replayed",
        "started",
    )

    BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __init__(self) -> None:
        self.started = 0
        self.open = 0
        self.replayed = 0
        self.filter_errors = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.finished: dict[int, int] = {}
        """By MMTP status."""
        self.duration_sum = 0.0
        self.duration_buckets = [0] * (len(self.BUCKETS) + 1)


class PushCounters:
    """Written by core's streams, delivery and fan-out."""

    __slots__ = (
        "acked", "append_errors", "appended", "collapsed", "encoded", "expired", "fanout_slices",
        "filter_errors", "sent", "slow_readers", "truncated",
    )  # fmt: skip

    def __init__(self) -> None:
        self.appended = 0
        self.append_errors = 0
        self.sent = 0
        self.acked = 0
        self.encoded = 0
        self.expired = 0
        self.collapsed = 0
        self.truncated = 0
        self.slow_readers = 0
        self.fanout_slices = 0
        self.filter_errors = 0


class UpstreamCounters:
    """Written by upstreams, one per cluster."""

    __slots__ = (
        "connect_failures",
        "connections",
        "ejections",
        "failures",
        "pending",
        "requests",
        "retries",
        "retries_denied",
        "timeouts",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.retries = 0
        self.retries_denied = 0
        self.failures = 0
        self.connect_failures = 0
        self.timeouts = 0
        self.ejections = 0
        self.connections = 0
        self.pending = 0


class StoreCounters:
    """Written by stores."""

    __slots__ = ("commit_seconds", "commits", "errors", "pending", "writes")

    def __init__(self) -> None:
        self.writes = 0
        self.commits = 0
        self.commit_seconds = 0.0
        self.errors = 0
        self.pending = 0


class WebhookCounters:
    """Written by the presence webhook."""

    __slots__ = ("delivered", "dropped", "failures", "pending")

    def __init__(self) -> None:
        self.delivered = 0
        self.failures = 0
        self.dropped = 0
        self.pending = 0


class MqttCounters:
    """Written by core.mqtt. What happens for every message is one attribute; a reason or a name is a key of a dict."""

    __slots__ = (
        "acknowledged", "bridge_connected", "bridge_failures", "bridge_received", "bridge_sent", "calls", "connected", "connects", "connects_refused", "denied", "device_requests",
        "dropped_messages", "expired", "flapping_bans", "inflight", "packets_late", "packets_received", "packets_sent", "queued",
        "rate_pauses", "received_bytes", "received_qos0", "received_qos1", "received_qos2",
        "redelivered", "retained", "retained_bytes", "rule_delivered", "rule_dropped", "rule_failed", "rule_queued",
        "rule_taken", "sent_bytes", "sent_qos0", "sent_qos1", "sent_qos2", "sessions", "sessions_expired", "shared_subscriptions",
        "subscriptions", "takeovers", "wills",
        "wills_early", "wills_waiting", "wills_waiting_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.connects: dict[str, int] = {}
        """CONNECTs accepted, by version: 3.1, 3.1.1, 5."""
        self.connects_refused: dict[str, int] = {}
        """By reason code, its name in small letters."""
        self.connected = 0
        self.sessions = 0
        """Remembered, connected or not."""
        self.sessions_expired = 0
        self.takeovers = 0
        self.flapping_bans = 0
        self.rate_pauses = 0
        """Times a connection was not read for a while because of its rate."""
        self.packets_late = 0
        """Connections ended because a packet was not whole in time."""
        self.packets_received = 0
        self.packets_sent = 0
        """Control packets of every type."""
        self.received_qos0 = 0
        self.received_qos1 = 0
        self.received_qos2 = 0
        self.received_bytes = 0
        """Payloads of PUBLISH packets received."""
        self.sent_qos0 = 0
        self.sent_qos1 = 0
        self.sent_qos2 = 0
        self.sent_bytes = 0
        """Payloads of PUBLISH packets sent."""
        self.redelivered = 0
        self.acknowledged = 0
        """QoS 1 and 2 messages that their receivers have acknowledged."""
        self.inflight = 0
        self.queued = 0
        self.expired = 0
        """Messages not delivered because their expiry had passed."""
        self.dropped_messages: dict[str, int] = {}
        """Deliveries that did not happen, by reason: slow_reader, queue_full, too_large, disconnected, ..."""
        self.denied: dict[str, int] = {}
        """Refusals of the ACL, by action: publish, subscribe."""
        self.subscriptions = 0
        self.shared_subscriptions = 0
        self.retained = 0
        self.retained_bytes = 0
        self.wills = 0
        """Wills published."""
        self.wills_early = 0
        """Those of them that were published before their delay was over, for want of room."""
        self.wills_waiting = 0
        self.wills_waiting_bytes = 0
        self.rule_taken: dict[str, int] = {}
        self.rule_delivered: dict[str, int] = {}
        """Messages that the service has answered with 2xx."""
        self.rule_failed: dict[str, int] = {}
        """POSTs that failed, retries included."""
        self.rule_dropped: dict[str, int] = {}
        """Messages refused because the queue was full, or given up after the last attempt."""
        self.rule_queued: dict[str, int] = {}
        """Messages in the queue or on their way. All five by name of the rule."""
        self.calls = 0
        """Calls made over MQTT."""
        self.device_requests: dict[str, int] = {}
        """Requests to devices, by outcome: answered, offline, timeout."""
        self.bridge_connected: dict[str, int] = {}
        """1 or 0."""
        self.bridge_sent: dict[str, int] = {}
        self.bridge_received: dict[str, int] = {}
        """Messages, to and from the other broker."""
        self.bridge_failures: dict[str, int] = {}
        """Connections that were lost or did not come to be. All four by name of the bridge."""

    def drop(self, reason: str) -> None:
        """A delivery that did not happen."""
        self.dropped_messages[reason] = self.dropped_messages.get(reason, 0) + 1


class DictionaryCounters:
    """Written by core.dictionaries."""

    __slots__ = (
        "bodies", "classes", "dictionaries", "displaced", "errors", "http_bodies", "http_fetched", "http_packed",
        "http_raw", "http_refused", "no_room", "packed", "promotions", "raw", "rollbacks", "sample_bytes", "sampled",
        "trainings",
    )  # fmt: skip

    def __init__(self) -> None:
        self.dictionaries: dict[str, int] = {}
        """Now, by state."""
        self.trainings: dict[str, int] = {}
        """By outcome: trained, refused."""
        self.rollbacks = 0
        self.promotions = 0
        """Those that happened without an operator."""
        self.bodies = 0
        self.raw = 0
        self.packed = 0
        """Bodies of classes with a dictionary, their bytes before and on the wire."""
        self.errors = 0
        self.sampled = 0
        self.sample_bytes = 0
        self.classes = 0
        self.displaced = 0
        """Classes that gave way to another before enough users had used them."""
        self.no_room = 0
        self.http_bodies = 0
        self.http_raw = 0
        self.http_packed = 0
        """HTTP responses to clients with a dictionary, their bytes before and on the wire."""
        self.http_fetched = 0
        self.http_refused = 0
        """Request bodies in dcz that were not expanded."""

    def count_training(self, outcome: str) -> None:
        """One has ended."""
        self.trainings[outcome] = self.trainings.get(outcome, 0) + 1
