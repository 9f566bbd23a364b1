"""What an operator can set about MQTT: limits, topic rules, rules to services, bridges."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from accessgw.model.setting_types import Amount, Count, Seconds, SecondsOrZero, Secret, Settings

Qos = Annotated[int, Meta(ge=0, le=2)]


class TopicRuleSettings(Settings, frozen=True, kw_only=True):
    """One rule of the topic ACL; the first that matches decides."""

    permit: Literal["allow", "deny"] = "allow"
    """What it says."""
    action: Literal["publish", "subscribe", "all"] = "all"
    """Of which action. `subscribe` is checked with the filter that the device asks for."""
    topics: tuple[str, ...]
    """Topic filters with placeholders `{device}`, `{user}`, `{app}`. A filter asked for must lie within one
    of them as a whole; a `deny` also matches a filter that merely overlaps it."""
    device: str = ""
    """Only this device; a trailing `*` matches a prefix. Empty: any."""
    user: str = ""
    """Only this user; a trailing `*` matches a prefix. Empty: any."""
    app: str = ""
    """Only this application. Empty: any."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Only identities that have all of these attributes."""
    max_qos: Qos = 2
    """allow: highest QoS; a subscription gets at most this, a publish with more is refused."""
    retain: bool = True
    """allow: whether the message may be retained."""


class MessageRuleSettings(Settings, frozen=True, kw_only=True):
    """Messages of these topics go to a service."""

    name: str
    """Name in logs and metrics; must be unique."""
    topics: tuple[str, ...]
    """Topic filters."""
    cluster: str
    """Cluster of the service."""
    path: str = "/"
    """Path of the POST."""
    format: Literal["json", "raw"] = "json"
    """json: a list of messages, each with topic, payload or payload_b64, device, user, seq, at; raw: the payload of
    one message as the body, the rest in headers."""
    acknowledge: Literal["accept", "answer"] = "accept"
    """When the device gets its acknowledgement: when the message is in the queue, or when the service answered."""
    queue: Count = 10_000
    """Messages waiting; past it QoS 1 and 2 are refused with 0x97 (a connection of MQTT 3.1.1 is closed) and QoS 0
    dropped and counted."""
    queue_bytes: Count = 64 * 1024 * 1024
    """Bytes of their topics and payloads; the same past it."""
    batch: Count = 100
    """Messages in one POST (raw: always 1)."""
    linger: SecondsOrZero = 0.01
    """Wait for more so long before a batch that is not full leaves."""
    concurrency: Count = 4
    """POSTs at once; messages of one session go in order."""
    timeout: Seconds = 5.0
    """Of one POST."""
    retries: Amount = 5
    """Further attempts of a failed POST (with back-off) before its messages are dropped and counted, or refused."""
    local: bool = True
    """Subscribers get the messages as well."""


class BridgeTopicSettings(Settings, frozen=True, kw_only=True):
    """Topics that a bridge carries."""

    filter: str
    """Topic filter, without the prefixes."""
    direction: Literal["in", "out", "both"] = "out"
    """out: from us to the other broker."""
    qos: Qos = 1
    """Highest QoS of the carried messages."""
    local_prefix: str = ""
    """Put before the topic on our side."""
    remote_prefix: str = ""
    """Put before the topic on the other side."""


class BridgeSettings(Settings, frozen=True, kw_only=True):
    """A connection of ours to another broker."""

    name: str
    """Name in logs and metrics; must be unique."""
    address: str
    """host:port of the other broker."""
    tls: bool = False
    """Connect with TLS and verify the other side's certificate and name."""
    ca: str = ""
    """PEM file of the CAs to trust; empty: the system's."""
    server_name: str = ""
    """Name to verify; the host of `address` when empty."""
    certificate: str = ""
    """PEM file of our client certificate."""
    key: str = ""
    """PEM file of its key."""
    version: Literal[4, 5] = 5
    """4: MQTT 3.1.1; 5: MQTT 5."""
    client_id: str = ""
    """`accessgw-NODE-NAME` when empty."""
    username: str = ""
    """User name at the other broker."""
    password: Secret = ""
    """Password at the other broker."""
    keep_alive: Annotated[int, Meta(ge=5, le=65535)] = 60
    """Seconds."""
    clean_start: bool = False
    """Begin with a new session each time."""
    max_queued: Count = 100_000
    """Messages waiting for the other broker."""
    retry_initial: Seconds = 1.0
    """First back-off after a lost connection; doubles with jitter."""
    retry_max: Seconds = 60.0
    """Largest back-off."""
    topics: tuple[BridgeTopicSettings, ...]
    """What it carries."""


class MqttSettings(Settings, frozen=True, kw_only=True):
    """MQTT: limits of the wire, sessions, queues, and what messages may do."""

    max_packet: Annotated[int, Meta(ge=1024, le=268_435_455)] = 256 * 1024
    """Largest packet that a client may send (Maximum Packet Size); at most half of limits.write_buffer, so that those
    who get it are no slow readers for it."""
    max_connect: Annotated[int, Meta(ge=256)] = 64 * 1024
    """Largest CONNECT, before anybody is known."""
    max_qos: Qos = 2
    """Highest QoS that clients may publish with."""
    retain_available: bool = True
    """Retained messages."""
    wildcard_available: bool = True
    """Subscriptions with wildcards."""
    shared_available: bool = True
    """Shared subscriptions."""
    subscription_identifiers_available: bool = True
    """Subscription identifiers."""
    receive_maximum: Annotated[int, Meta(ge=1, le=65535)] = 1024
    """QoS 1 and 2 messages of a client that are not acknowledged at once (Receive Maximum). A client that is ahead of
    the store is not read; some libraries send all that waits at once when they come back, whatever this says."""
    max_unreleased: Annotated[int, Meta(ge=1, le=65535)] = 10_000
    """QoS 2 messages of a session that the gateway has and whose ids the client has not released yet, over all of its
    connections; past it a new one is refused with 0x97 (a connection of MQTT 3.1.1, which cannot be told a Receive
    Maximum, is closed: it releases those it has when it comes back). At least `receive_maximum`."""
    topic_alias_maximum: Annotated[int, Meta(ge=0, le=65535)] = 32
    """Topic aliases that a client may use; and that we use towards clients that allow it, at most."""
    max_inflight: Annotated[int, Meta(ge=1, le=65535)] = 64
    """Unacknowledged messages towards a client, whatever it allows."""
    max_queued: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Messages waiting for a session, connected or not, beyond those in flight."""
    max_queued_bytes: Count = 4 * 1024 * 1024
    """Bytes of them: topics, payloads and properties."""
    queue_overflow: Literal["drop_old", "drop_new", "disconnect"] = "drop_old"
    """What goes when a queue is full. disconnect: a connected client is told 0x97 (and `drop_new` while it is away)."""
    max_qos0_buffer: Count = 128 * 1024
    """Unsent bytes of a connection past which QoS 0 messages for it are dropped and counted."""
    max_subscriptions: Count = 1000
    """Per session."""
    max_topic_length: Annotated[int, Meta(ge=1, le=65535)] = 1024
    """Bytes of a topic name or filter."""
    max_topic_levels: Annotated[int, Meta(ge=1, le=1024)] = 32
    """Levels of a topic name or filter."""
    max_session_expiry: Seconds = 7 * 86400.0
    """Longest session expiry granted; also of sessions of MQTT 3.1.1 without Clean Session."""
    max_sessions: Count = 1_000_000
    """Sessions that outlive their connections; more are not granted (their expiry is 0)."""
    max_keep_alive: Amount = 0
    """Seconds; a client that asks for more, or none, is told this one (Server Keep Alive; a client of 3.1.1 is held
    to it silently). 0: as the client likes."""
    packet_timeout: SecondsOrZero = 60.0
    """From the first bytes of a packet to its last one, when it does not come in one piece; past it the connection is
    closed (0x97). The largest packet in this time should be no faster than your slowest network. 0: no bound but the
    keep alive, which every byte prolongs."""
    max_message_expiry: SecondsOrZero = 0.0
    """Longest life of a queued or retained message; 0: no limit of ours."""
    max_retained: Amount = 1_000_000
    """Retained messages."""
    max_retained_bytes: Amount = 512 * 1024 * 1024
    """Bytes of their topics, payloads and properties, and 250 for each level of a topic with others below it: of
    `a/b/c` and `a/b/d` those are `a` and `a/b`."""
    max_will_delay: SecondsOrZero = 86400.0
    """Longest will delay."""
    max_will_bytes: Count = 64 * 1024 * 1024
    """Bytes of all wills that wait for their delay: topics, payloads and properties, and 500 for each. Past it those
    that are due soonest are published early, and counted."""
    messages_per_second: Annotated[float, Meta(ge=0)] = 0.0
    """Messages that a connection may publish; past it and `message_burst` it is not read for a while. 0: no limit."""
    message_burst: Count = 1000
    """Size of that bucket."""
    bytes_per_second: Annotated[float, Meta(ge=0)] = 0.0
    """Bytes that a connection may send; past a second's worth it is not read for a while. 0: no limit."""
    flapping_connects: Amount = 0
    """A client id that connects more often than this within `flapping_window` is refused (0x8A) for `flapping_ban`.
    0: never."""
    flapping_window: Seconds = 60.0
    """Seconds."""
    flapping_ban: Seconds = 300.0
    """Seconds."""
    assigned_prefix: str = "auto-"
    """Beginning of client ids that we assign."""
    shared_strategy: Literal["round_robin", "sticky", "hash_client", "hash_topic", "random"] = "round_robin"
    """How a shared subscription chooses the member that gets a message."""
    push_topic: str = "$push/{biz}"
    """Topic on which pushes arrive; empty: none are sent over MQTT."""
    sys_interval: SecondsOrZero = 10.0
    """Seconds between updates of $SYS topics; 0: none."""
    server_reference: str = ""
    """Told to clients when the worker drains (Server Reference); empty: none."""
    acl: tuple[TopicRuleSettings, ...] = ()
    """Topic rules, in order."""
    acl_default: Literal["allow", "deny"] = "allow"
    """What holds where no rule matches."""
    acl_log: Literal["none", "denied", "all"] = "denied"
    """Decisions that are logged. Of refusals at most 50 a second have a line each; the others are counted."""
    rules: tuple[MessageRuleSettings, ...] = ()
    """Messages to services."""
    bridges: tuple[BridgeSettings, ...] = ()
    """Connections to other brokers."""
