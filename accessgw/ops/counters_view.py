"""Turns the plain slots that rooms count in into metric families, when somebody asks.

Every slot of model/counters.py has its row here: name, help. Counters end in `_total`; slots whose
value can fall are gauges. Names are `accessgw_*`, in base units, and stay: dashboards rely on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from accessgw.core.interfaces.control import MetricFamily
from accessgw.model.counters import (
    CallCounters,
    CodingCounters,
    DictionaryCounters,
    HeaderCounters,
    MqttCounters,
    PushCounters,
    SessionCounters,
    StoreCounters,
    TlsCounters,
    TransportCounters,
    UpstreamCounters,
    WebhookCounters,
)
from accessgw.ops.access_log import AccessLog
from accessgw.ops.histogram import samples
from accessgw.ops.process import process_families
from accessgw.ops.reactor_ticks import ReactorTicks
from protocols.mmtp.statuses import APPLICATION_STATUS, Status

MAX_LABEL_VALUES = 50
"""Values of one label that are told apart; the rest are `other`."""

Table = dict[str, tuple[str, str]]

TRANSPORT: Table = {
    "open": ("connections_open", "Connections open now."),
    "accepted": ("connections_accepted_total", "Connections accepted."),
    "refused": ("connections_refused_total", "Connections not accepted, by reason."),
    "closed": ("connections_closed_total", "Connections closed, by reason."),
    "handshakes": ("tls_handshakes_total", "TLS hand-shakes completed."),
    "handshake_failures": ("tls_handshake_failures_total", "TLS hand-shakes that failed or timed out."),
    "bytes_in": ("received_bytes_total", "Bytes received from devices, as they were on the wire (TLS included)."),
    "bytes_out": ("sent_bytes_total", "Bytes sent to devices, as they were on the wire (TLS included)."),
    "write_overflows": ("write_overflows_total", "Connections aborted because their write buffer was full."),
}
TLS: Table = {
    "full": ("tls_handshakes_full_total", "TLS hand-shakes completed with a certificate."),
    "resumed": ("tls_handshakes_resumed_total", "TLS hand-shakes completed by a ticket."),
    "refused": ("tls_handshakes_refused_total", "TLS hand-shakes that failed, by the alert or our own word."),
    "detached": ("tls_detached_total", "Connections whose records went over from OpenSSL to the gateway."),
    "kept": ("tls_kept_total", "Connections that stayed with OpenSSL after the hand-shake (TLS 1.2, profile sm)."),
    "early_accepted": ("tls_early_data_accepted_total", "First flights whose early data reached the protocol."),
    "early_refused": ("tls_early_data_refused_total", "First flights whose early data took no effect, by reason."),
    "psk_refused": ("tls_tickets_refused_total", "Tickets of the gateway's own that were not taken, by reason."),
    "tickets_minted": ("tls_tickets_minted_total", "Tickets given to devices."),
    "unfinished": ("tls_handshakes_unfinished", "TLS hand-shakes under way."),
    "pool_waiting": (
        "tls_handshake_steps_waiting",
        "Steps of hand-shakes, those with services too, that wait for a thread or run.",
    ),
    "upstream_waiting": (
        "tls_upstream_steps_waiting",
        "Of those, the ones with services, webhook, authenticators and other brokers, loading of their files included.",
    ),
    "pool_refused": ("tls_handshakes_overloaded_total", "Connections refused since too many hand-shakes waited."),
    "signatures": ("tls_signatures_total", "Signatures made for hand-shakes, by who made them."),
    "signer_waiting": ("tls_signatures_waiting", "Signatures asked for and not made yet."),
    "signer_failures": ("tls_signer_failures_total", "Signatures that a signer failed to make."),
    "signer_fallbacks": ("tls_signer_fallbacks_total", "Signatures made in software since the signer failed."),
    "revoked_closed": ("tls_revoked_closed_total", "Connections closed since what they stood on was revoked."),
}
SESSION: Table = {
    "sessions": ("sessions", "Sessions remembered, connected or not."),
    "connected": ("sessions_connected", "Sessions with a connection."),
    "welcomed": ("sessions_welcomed_total", "HELLOs accepted."),
    "replaced": ("sessions_replaced_total", "Connections replaced by a newer generation of their device."),
    "stale_generations": ("sessions_stale_generations_total", "HELLOs refused for an old generation."),
    "expired": ("sessions_expired_total", "Sessions forgotten."),
    "auth_failures": ("auth_failures_total", "Credentials refused, by authenticator."),
    "auth_unavailable": ("auth_unavailable_total", "Of those, the ones whose authenticator could not say."),
}
HEADERS: Table = {
    "committed": ("header_states_committed_total", "Checkpoints of header codecs kept for a device's next connection."),
    "resumed": ("header_states_resumed_total", "States that a device named and that were found."),
    "missed": ("header_states_missed_total", "States that a device named and that were not there, by reason."),
}
CODINGS: Table = {
    "tables_offered": ("tables_offered_total", "Application tables offered to devices."),
    "tables_held": ("tables_held_total", "Application tables that devices have taken."),
    "unknown_tables": ("tables_unknown_total", "HELLOs that named a table which is not listed."),
    "dictionaries_offered": ("dictionaries_offered_total", "Dictionaries offered to devices."),
    "dictionaries_held": ("dictionaries_held_total", "Dictionaries that devices have taken."),
    "bundles": ("dictionary_bundles_total", "Sets of dictionaries that HELLOs named, by outcome."),
    "rested": ("header_codecs_rested_total", "Idle connections whose header codecs were put away."),
}
CALL: Table = {
    "open": ("calls_open", "Calls in progress."),
    "started": ("calls_started_total", "Calls begun."),
    "finished": ("calls_finished_total", "Calls ended, by status."),
    "replayed": ("calls_replayed_total", "Repeated calls answered from a kept answer."),
    "filter_errors": ("call_filter_errors_total", "Calls and connections that ended because a filter raised."),
    "bytes_in": ("call_received_bytes_total", "Body bytes of requests."),
    "bytes_out": ("call_sent_bytes_total", "Body bytes of answers."),
    "duration_buckets": ("call_duration_seconds", "Time from a call's first byte to the last frame of its answer."),
    "duration_sum": ("call_duration_seconds", ""),
}
PUSH: Table = {
    "appended": ("pushes_appended_total", "Pushes appended to streams."),
    "append_errors": ("push_append_errors_total", "Pushes that could not be appended."),
    "sent": ("pushes_sent_total", "Pushes sent to devices."),
    "acked": ("pushes_acknowledged_total", "Pushes acknowledged by devices."),
    "encoded": ("pushes_encoded_total", "Encodings of a push, one per group of like receivers."),
    "expired": ("pushes_expired_total", "Pushes left out because their ttl had passed."),
    "collapsed": ("pushes_collapsed_total", "Pushes left out because a later one of their key came."),
    "truncated": ("pushes_truncated_total", "Times a device was told that its cursor was below the floor."),
    "slow_readers": ("push_slow_readers_total", "Connections told to leave because they did not acknowledge."),
    "fanout_slices": ("push_fanout_slices_total", "Slices of the reactor that fan-outs took."),
    "filter_errors": ("push_filter_errors_total", "Pushes refused because a filter raised."),
}
UPSTREAM: Table = {
    "requests": ("upstream_requests_total", "Requests sent, retries included."),
    "retries": ("upstream_retries_total", "Further attempts."),
    "retries_denied": ("upstream_retries_denied_total", "Further attempts that the retry budget did not allow."),
    "failures": ("upstream_failures_total", "Attempts that failed."),
    "connect_failures": ("upstream_connect_failures_total", "Connections that could not be made."),
    "timeouts": ("upstream_timeouts_total", "Requests that ran out of time."),
    "ejections": ("upstream_ejections_total", "Endpoints taken out for a while."),
    "connections": ("upstream_connections", "Connections open."),
    "pending": ("upstream_pending", "Requests waiting for a connection."),
}
STORE: Table = {
    "pending": ("store_pending", "Writes waiting for the writer."),
    "writes": ("store_writes_total", "Writes done."),
    "commits": ("store_commits_total", "Transactions committed; one holds many writes."),
    "commit_seconds": ("store_commit_seconds_total", "Time spent in commits."),
    "errors": ("store_errors_total", "Writes that failed."),
}
WEBHOOK: Table = {
    "pending": ("webhook_pending", "Presence events waiting for delivery."),
    "delivered": ("webhook_delivered_total", "Presence events delivered."),
    "failures": ("webhook_failures_total", "Deliveries that failed and will be tried again."),
    "dropped": ("webhook_dropped_total", "Presence events given up because too many were waiting."),
}
ACCESS_LOG: Table = {
    "pending": ("access_log_pending", "Lines waiting for the writer thread."),
    "written": ("access_log_written_total", "Lines written."),
    "dropped": ("access_log_dropped_total", "Lines lost because the queue was full."),
    "errors": ("access_log_errors_total", "Lines lost because they could not be written."),
}
MQTT: Table = {
    "connected": ("mqtt_clients_connected", "MQTT clients connected."),
    "sessions": ("mqtt_sessions", "MQTT sessions remembered, connected or not."),
    "sessions_expired": (
        "mqtt_sessions_expired_total",
        "MQTT sessions that ended because their clients did not return.",
    ),
    "connects": ("mqtt_connects_total", "CONNECTs accepted, by version."),
    "connects_refused": ("mqtt_connects_refused_total", "CONNECTs refused, by reason."),
    "takeovers": ("mqtt_takeovers_total", "Connections replaced by another one of the same client id."),
    "flapping_bans": ("mqtt_flapping_bans_total", "Client ids banned for a while because they connected too often."),
    "rate_pauses": ("mqtt_rate_pauses_total", "Times a connection was not read for a while because of its rate."),
    "packets_late": ("mqtt_packets_late_total", "Connections ended because a packet was not whole in time."),
    "packets_received": ("mqtt_packets_received_total", "Control packets received."),
    "packets_sent": ("mqtt_packets_sent_total", "Control packets sent."),
    "received_qos0": ("mqtt_publishes_received_total", "Messages received, by QoS."),
    "received_qos1": ("mqtt_publishes_received_total", "Messages received, by QoS."),
    "received_qos2": ("mqtt_publishes_received_total", "Messages received, by QoS."),
    "received_bytes": ("mqtt_publishes_received_bytes_total", "Payload bytes of messages received."),
    "sent_qos0": ("mqtt_publishes_sent_total", "Messages sent, by QoS."),
    "sent_qos1": ("mqtt_publishes_sent_total", "Messages sent, by QoS."),
    "sent_qos2": ("mqtt_publishes_sent_total", "Messages sent, by QoS."),
    "sent_bytes": ("mqtt_publishes_sent_bytes_total", "Payload bytes of messages sent."),
    "redelivered": ("mqtt_publishes_redelivered_total", "Messages sent again after a reconnect."),
    "acknowledged": ("mqtt_publishes_acknowledged_total", "QoS 1 and 2 messages acknowledged by their receivers."),
    "inflight": ("mqtt_inflight", "Messages sent and not yet acknowledged."),
    "queued": ("mqtt_queued", "Messages that wait for their receivers."),
    "expired": ("mqtt_publishes_expired_total", "Messages not delivered because their expiry had passed."),
    "dropped_messages": ("mqtt_publishes_dropped_total", "Deliveries that did not happen, by reason."),
    "denied": ("mqtt_acl_denied_total", "Refusals of the topic rules, by action."),
    "subscriptions": ("mqtt_subscriptions", "Subscriptions, shared ones included."),
    "shared_subscriptions": ("mqtt_shared_subscriptions", "Groups of shared subscribers."),
    "retained": ("mqtt_retained", "Retained messages."),
    "retained_bytes": (
        "mqtt_retained_bytes",
        "Bytes of retained messages: topics and their levels, payloads and properties.",
    ),
    "wills": ("mqtt_wills_total", "Wills published."),
    "wills_early": ("mqtt_wills_early_total", "Wills published before their delay was over: too many waited."),
    "wills_waiting": ("mqtt_wills_waiting", "Wills that wait for their delay."),
    "wills_waiting_bytes": ("mqtt_wills_waiting_bytes", "Bytes that they count for."),
    "rule_taken": ("mqtt_rule_taken_total", "Messages taken for a service, by rule."),
    "rule_delivered": ("mqtt_rule_delivered_total", "Messages that a service has accepted, by rule."),
    "rule_failed": ("mqtt_rule_failed_total", "POSTs to a service that failed, retries included, by rule."),
    "rule_dropped": ("mqtt_rule_dropped_total", "Messages refused (queue full) or given up, by rule."),
    "rule_queued": ("mqtt_rule_queued", "Messages that wait for a service or are on their way to it, by rule."),
    "calls": ("mqtt_calls_total", "Calls made over MQTT."),
    "device_requests": ("mqtt_requests_total", "Requests to devices, by outcome."),
    "bridge_connected": ("mqtt_bridge_connected", "1 while a bridge is connected to the other broker, by bridge."),
    "bridge_sent": ("mqtt_bridge_sent_total", "Messages sent to the other broker, by bridge."),
    "bridge_received": ("mqtt_bridge_received_total", "Messages taken from the other broker, by bridge."),
    "bridge_failures": ("mqtt_bridge_failures_total", "Connections of a bridge that failed or were lost, by bridge."),
}
DICTIONARY: Table = {
    "dictionaries": ("dictionaries", "Dictionaries of bodies, by state."),
    "trainings": ("dictionary_trainings_total", "Trainings that have ended, by outcome."),
    "rollbacks": ("dictionary_rollbacks_total", "Canaries rolled back because they did worse."),
    "promotions": ("dictionary_promotions_total", "Canaries that became active by themselves."),
    "bodies": ("dictionary_bodies_total", "Bodies of classes with a dictionary."),
    "raw": ("dictionary_raw_bytes_total", "Their bytes before compression."),
    "packed": ("dictionary_packed_bytes_total", "Their bytes on the wire."),
    "errors": ("dictionary_errors_total", "Bodies that could not be expanded with their dictionary."),
    "http_bodies": ("dictionary_http_bodies_total", "HTTP responses to clients that have a dictionary."),
    "http_raw": ("dictionary_http_raw_bytes_total", "Their bytes before compression."),
    "http_packed": ("dictionary_http_packed_bytes_total", "Their bytes on the wire."),
    "http_fetched": ("dictionary_http_fetched_total", "Dictionaries that HTTP clients have fetched."),
    "http_refused": ("dictionary_http_refused_total", "HTTP request bodies in dcz that could not be expanded."),
    "sampled": ("dictionary_samples_total", "Bodies taken as samples."),
    "sample_bytes": ("dictionary_sample_bytes", "Memory that samples take."),
    "classes": ("dictionary_classes", "Classes of bodies that are sampled."),
    "displaced": ("dictionary_classes_displaced_total", "Classes given up for another before they had enough users."),
    "no_room": ("dictionary_classes_refused_total", "Bodies not looked at because there was no place for their class."),
}
LABELS = {
    "dictionaries": "state", "trainings": "outcome", "bundles": "outcome",
    "refused": "reason", "closed": "reason", "auth_failures": "authenticator", "finished": "status",
    "auth_unavailable": "authenticator", "missed": "reason",
    "connects": "version", "connects_refused": "reason", "dropped_messages": "reason", "denied": "action",
    "rule_taken": "rule", "rule_delivered": "rule", "rule_failed": "rule", "rule_dropped": "rule",
    "rule_queued": "rule", "device_requests": "outcome",
    "early_refused": "reason", "psk_refused": "reason", "signatures": "signer",
    "bridge_connected": "bridge", "bridge_sent": "bridge", "bridge_received": "bridge", "bridge_failures": "bridge",
}  # fmt: skip
"""Slots that are dicts, and the label that their keys become."""
FIXED_LABELS = {
    **{f"received_qos{qos}": {"qos": str(qos)} for qos in range(3)},
    **{f"sent_qos{qos}": {"qos": str(qos)} for qos in range(3)},
}
"""Slots that are one value of a label each, because a slot is counted faster than a key."""


@dataclass(slots=True)
class GatewayCounters:
    """Where the rooms of one worker count. Rooms that do not exist stay None."""

    transports: Mapping[str, TransportCounters] = field(default_factory=dict)
    """By listener; one entry with an empty name when the listeners share their counters."""
    sessions: SessionCounters | None = None
    calls: CallCounters | None = None
    pushes: PushCounters | None = None
    upstreams: Mapping[str, UpstreamCounters] = field(default_factory=dict)
    """By cluster."""
    store: StoreCounters | None = None
    webhook: WebhookCounters | None = None
    access_log: AccessLog | None = None
    ticks: ReactorTicks | None = None
    mqtt: MqttCounters | None = None
    headers: HeaderCounters | None = None
    codings: CodingCounters | None = None
    dictionaries: DictionaryCounters | None = None
    tls: TlsCounters | None = None
    expires_at: Callable[[], Mapping[tuple[str, str], float]] = dict
    """Listener and file -> wall-clock second at which a certificate, OCSP response or revocation list in it ends."""
    shown_until: Callable[[], Mapping[tuple[str, str], float]] = dict
    """Who shows a certificate to another server, and its file -> wall-clock second at which it ends."""


def families(counters: GatewayCounters) -> list[MetricFamily]:
    """Everything that was counted, and what the kernel says of the process."""
    found: list[MetricFamily] = []
    for name, transport in counters.transports.items():
        found += _rows(TRANSPORT, transport, {"listener": name} if name else {})
    for table, slots in (
        (TLS, counters.tls),
        (SESSION, counters.sessions),
        (HEADERS, counters.headers),
        (CODINGS, counters.codings),
        (CALL, counters.calls),
        (PUSH, counters.pushes),
        (STORE, counters.store),
        (WEBHOOK, counters.webhook),
        (ACCESS_LOG, counters.access_log),
        (MQTT, counters.mqtt),
        (DICTIONARY, counters.dictionaries),
    ):
        if slots is not None:
            found += _rows(table, slots, {})
    for name, upstream in bounded_labels(counters.upstreams).items():
        found += _rows(UPSTREAM, upstream, {"cluster": name})
    ends = counters.expires_at()
    if ends:
        found.append(_ends(ends))
    shown = counters.shown_until()
    if shown:
        found.append(_shown(shown))
    if counters.calls is not None:
        found.append(_durations(counters.calls))
    if counters.ticks is not None:
        found += _ticks(counters.ticks)
    return [*found, *process_families()]


def summary(counters: GatewayCounters) -> dict[str, int]:
    """The few figures that the dashboard, `accessgwctl status` and Control.status() show."""
    sessions, calls, pushes = counters.sessions, counters.calls, counters.pushes
    return {
        "connections": sum(transport.open for transport in counters.transports.values()),
        "sessions": sessions.sessions if sessions else 0,
        "devices_connected": sessions.connected if sessions else 0,
        "calls_open": calls.open if calls else 0,
        "calls_finished": sum(calls.finished.values()) if calls else 0,
        "calls_failed": sum(count for status, count in calls.finished.items() if status) if calls else 0,
        "pushes_appended": pushes.appended if pushes else 0,
        "pushes_sent": pushes.sent if pushes else 0,
        "pushes_acknowledged": pushes.acked if pushes else 0,
    }


def bounded_labels(values: Mapping[Any, Any], limit: int = MAX_LABEL_VALUES) -> dict[str, Any]:
    """At most `limit` label values and `other`. Those seen first stay, so that no counter ever falls.

    Numbers of what is left over are added up; anything else left over is left out.
    """
    kept: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key)
        if name in kept or len(kept) < limit:
            kept[name] = kept[name] + value if name in kept else value
        elif isinstance(value, int | float):
            kept["other"] = kept.get("other", 0) + value
    return kept


def status_name(status: int) -> str:
    """A status as a label: `ok`, `deadline`; everything of applications is `application`."""
    if status >= APPLICATION_STATUS:
        return "application"
    try:
        return Status(status).name.lower()
    except ValueError:
        return "other"


def _rows(table: Table, slots: object, labels: dict[str, str]) -> Iterator[MetricFamily]:
    for slot, (name, help_) in table.items():
        if slot in ("duration_buckets", "duration_sum"):
            continue
        value = getattr(slots, slot)
        kind = "counter" if name.endswith("_total") else "gauge"
        yield MetricFamily(
            f"accessgw_{name}", kind, help_, list(_samples(slot, value, {**labels, **FIXED_LABELS.get(slot, {})}))
        )


def _samples(slot: str, value: Any, labels: dict[str, str]) -> Iterable[tuple[str, dict[str, str], float]]:
    if not isinstance(value, dict):
        return [("", labels, value)]
    if slot == "finished":
        by_name: dict[str, int] = {}
        for status, count in value.items():
            by_name[status_name(status)] = by_name.get(status_name(status), 0) + count
        value = by_name
    return [("", {**labels, LABELS[slot]: key}, count) for key, count in bounded_labels(value).items()]


def _ends(ends: Mapping[tuple[str, str], float]) -> MetricFamily:
    help_ = "Unix time at which the first certificate, stapled OCSP response or revocation list of a file ends."
    found = [("", {"listener": listener, "file": file}, end) for (listener, file), end in ends.items()]
    return MetricFamily("accessgw_certificate_expires_seconds", "gauge", help_, found)


def _shown(ends: Mapping[tuple[str, str], float]) -> MetricFamily:
    help_ = "Unix time at which the first certificate of a file ends that the gateway shows to another server."
    found = [("", {"used_by": user, "file": file}, end) for (user, file), end in ends.items()]
    return MetricFamily("accessgw_client_certificate_expires_seconds", "gauge", help_, found)


def _durations(calls: CallCounters) -> MetricFamily:
    name, help_ = CALL["duration_buckets"]
    found = samples(CallCounters.BUCKETS, calls.duration_buckets, calls.duration_sum, {})
    return MetricFamily(f"accessgw_{name}", "histogram", help_, found)


def _ticks(ticks: ReactorTicks) -> Iterator[MetricFamily]:
    for name, help_, histogram in (
        ("reactor_lateness_seconds", "How late a call of the reactor due every 0.1 s came.", ticks.lateness),
        ("reactor_turn_seconds", "How long one turn of the reactor took, its wait not included.", ticks.turns),
    ):
        found = samples(histogram.bounds, histogram.counts, histogram.sum, {})
        yield MetricFamily(f"accessgw_{name}", "histogram", help_, found)
