from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from accessgw.core.interfaces.control import MetricFamily
from accessgw.model import counters as slots
from accessgw.model.settings import LogSettings
from accessgw.ops import counters_view
from accessgw.ops.access_log import AccessLog
from accessgw.ops.counters_view import GatewayCounters, bounded_labels, families, status_name, summary
from accessgw.ops.histogram import Histogram, samples
from accessgw.ops.metrics import render
from accessgw.ops.process import process_families
from accessgw.ops.reactor_ticks import ReactorTicks

ROOT = Path(__file__).resolve().parents[2]
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')


def parse(page: bytes) -> dict[str, tuple[str, str, list[tuple[str, dict[str, str], float]]]]:
    """A strict reader of the text format: name -> (kind, help, samples); anything irregular fails."""
    text = page.decode()
    assert text.endswith("\n")
    found: dict[str, tuple[str, str, list[tuple[str, dict[str, str], float]]]] = {}
    help_name = help_text = current = ""
    seen = set()
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            help_name, _, help_text = line.removeprefix("# HELP ").partition(" ")
            assert help_name not in found, f"{help_name} twice"
        elif line.startswith("# TYPE "):
            current, _, kind = line.removeprefix("# TYPE ").partition(" ")
            assert current == help_name
            assert kind in ("counter", "gauge", "histogram")
            found[current] = (kind, help_text, [])
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, inner, number = match.groups()
            labels: dict[str, str] = {}
            position = 0
            while inner and position < len(inner):
                label = LABEL.match(inner, position)
                assert label, line
                assert label[1] not in labels
                value = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])
                labels[label[1]] = value
                position = label.end()
            assert name.startswith(current)
            kind, _, list_ = found[current]
            suffix = name.removeprefix(current)
            assert suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
            key = (name, tuple(sorted(labels.items())))
            assert key not in seen, f"{line} twice"
            seen.add(key)
            list_.append((suffix, labels, float(number)))
    for name, (kind, _, list_) in found.items():
        if kind == "histogram":
            buckets = [value for suffix, _, value in list_ if suffix == "_bucket"]
            assert buckets == sorted(buckets), name
            last = [labels["le"] for suffix, labels, _ in list_ if suffix == "_bucket"][-1]
            assert last == "+Inf"
            assert buckets[-1] == next(value for suffix, _, value in list_ if suffix == "_count")
    return found


def everything() -> GatewayCounters:
    transport = slots.TransportCounters()
    transport.open, transport.accepted, transport.closed = 2, 5, {"idle": 2, "peer_closed": 1}
    sessions = slots.SessionCounters()
    sessions.auth_failures = {"none": 3}
    sessions.connected = 2
    calls = slots.CallCounters()
    calls.finished = {0: 10, 11: 2, 64: 1, 65: 1}
    calls.duration_buckets[0], calls.duration_buckets[-1], calls.duration_sum = 3, 1, 20.5
    ticks = ReactorTicks(Clock())
    ticks.lateness.observe(0.003)
    return GatewayCounters(
        {"tls": transport, 'pl"ain': slots.TransportCounters()}, sessions, calls, slots.PushCounters(),
        {"demo": slots.UpstreamCounters()}, slots.StoreCounters(), slots.WebhookCounters(), AccessLog(LogSettings()), ticks,
        slots.MqttCounters(), slots.HeaderCounters(), slots.CodingCounters(), slots.DictionaryCounters(),
        slots.TlsCounters(), lambda: {("tls", "/etc/accessgw/chain.pem"): 1.8e9},
        lambda: {("cluster payments", "/etc/accessgw/gateway.pem"): 1.9e9},
    )  # fmt: skip


def test_the_whole_page_is_well_formed() -> None:
    page = parse(render(families(everything())))
    assert page["accessgw_connections_open"][2] == [("", {"listener": "tls"}, 2), ("", {"listener": 'pl"ain'}, 0)]
    assert ("", {"listener": "tls", "reason": "idle"}, 2) in page["accessgw_connections_closed_total"][2]
    assert page["accessgw_calls_finished_total"][2] == [
        ("", {"status": "ok"}, 10), ("", {"status": "deadline"}, 2), ("", {"status": "application"}, 2),
    ]  # fmt: skip
    durations = page["accessgw_call_duration_seconds"]
    assert durations[0] == "histogram"
    assert durations[2][0] == ("_bucket", {"le": "0.001"}, 3)
    assert durations[2][-3:] == [("_bucket", {"le": "+Inf"}, 4), ("_sum", {}, 20.5), ("_count", {}, 4)]
    assert ("_bucket", {"le": "0.005"}, 1) in page["accessgw_reactor_lateness_seconds"][2]


def test_ends_of_certificates_are_shown_by_file() -> None:
    page = parse(render(families(everything())))
    ends = page["accessgw_certificate_expires_seconds"]
    assert ends[2] == [("", {"listener": "tls", "file": "/etc/accessgw/chain.pem"}, 1.8e9)]


def test_ends_of_certificates_shown_to_other_servers_are_told_with_who_shows_them() -> None:
    page = parse(render(families(everything())))
    kind, _, samples = page["accessgw_client_certificate_expires_seconds"]
    assert (kind, samples) == (
        "gauge", [("", {"used_by": "cluster payments", "file": "/etc/accessgw/gateway.pem"}, 1.9e9)],
    )  # fmt: skip
    assert "accessgw_client_certificate_expires_seconds" not in parse(render(families(counters_view.GatewayCounters())))


def test_every_name_keeps_the_promise() -> None:
    for name, (kind, help_, _) in parse(render(families(everything()))).items():
        assert name.startswith("accessgw_")
        assert help_.endswith(".")
        assert name.endswith("_total") == (kind == "counter"), name


@pytest.mark.parametrize(
    ("table", "counters"),
    [
        (counters_view.TRANSPORT, slots.TransportCounters),
        (counters_view.TLS, slots.TlsCounters),
        (counters_view.SESSION, slots.SessionCounters),
        (counters_view.HEADERS, slots.HeaderCounters),
        (counters_view.CALL, slots.CallCounters),
        (counters_view.PUSH, slots.PushCounters),
        (counters_view.UPSTREAM, slots.UpstreamCounters),
        (counters_view.STORE, slots.StoreCounters),
        (counters_view.WEBHOOK, slots.WebhookCounters),
        (counters_view.MQTT, slots.MqttCounters),
        (counters_view.DICTIONARY, slots.DictionaryCounters),
    ],
)
def test_every_slot_is_shown(table: dict[str, Any], counters: type) -> None:
    assert set(table) == set(counters.__slots__)  # type: ignore[attr-defined]
    for slot in table:
        assert isinstance(getattr(counters(), slot), dict) == (slot in counters_view.LABELS)


def test_messages_of_mqtt_are_one_metric_with_a_label_for_the_qos() -> None:
    counters = slots.MqttCounters()
    counters.received_qos0, counters.received_qos2, counters.rule_taken["orders"] = 5, 1, 3
    page = parse(render(families(GatewayCounters(mqtt=counters))))
    assert page["accessgw_mqtt_publishes_received_total"][2] == [
        ("", {"qos": "0"}, 5), ("", {"qos": "1"}, 0), ("", {"qos": "2"}, 1),
    ]  # fmt: skip
    assert page["accessgw_mqtt_rule_taken_total"][2] == [("", {"rule": "orders"}, 3)]


def test_every_counters_class_is_shown() -> None:
    named = {value for name, value in vars(slots).items() if name.endswith("Counters")}
    shown = {type(value) for value in (everything().sessions, everything().calls, everything().pushes)}
    shown |= {
        slots.TransportCounters,
        slots.UpstreamCounters,
        slots.StoreCounters,
        slots.WebhookCounters,
        slots.MqttCounters,
        slots.CodingCounters,
        slots.HeaderCounters,
        slots.DictionaryCounters,
        slots.TlsCounters,
    }
    assert named == shown


def test_docs_name_every_metric_and_no_other() -> None:
    text = (ROOT / "docs/ops/metrics.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(accessgw_\w+)", text, re.MULTILINE)
    assert sorted(documented) == sorted(parse(render(families(everything()))))


def test_the_dashboard_of_grafana_uses_real_names() -> None:
    text = (ROOT / "etc/grafana-dashboard.json").read_text(encoding="utf-8")
    used = set(re.findall(r"accessgw_\w+", text))
    known = set(parse(render(families(everything()))))
    known |= {f"{name}{suffix}" for name in known for suffix in ("_bucket", "_sum", "_count")}
    assert used
    assert used <= known


def test_only_what_exists_is_shown() -> None:
    names = set(parse(render(families(GatewayCounters()))))
    assert names == {family.name for family in process_families()}


def test_the_summary() -> None:
    found = summary(everything())
    assert (found["connections"], found["devices_connected"]) == (2, 2)
    assert (found["calls_finished"], found["calls_failed"]) == (14, 4)
    assert set(summary(GatewayCounters()).values()) == {0}


def test_labels_are_bounded_and_no_counter_falls() -> None:
    values = {f"v{n}": 1 for n in range(10)}
    assert bounded_labels(values, 3) == {"v0": 1, "v1": 1, "v2": 1, "other": 7}
    values["v9"] = 100
    assert bounded_labels(values, 3) == {"v0": 1, "v1": 1, "v2": 1, "other": 106}
    values["other"] = 5
    assert bounded_labels(values, 20)["other"] == 5


def test_statuses_have_names() -> None:
    assert [status_name(status) for status in (0, 11, 63, 64, 9999)] == [
        "ok", "deadline", "other", "application", "application",
    ]  # fmt: skip


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), st.text(max_size=20), max_size=4))
def test_any_label_value_survives(labels: dict[str, str]) -> None:
    page = parse(render([MetricFamily("accessgw_x", "gauge", "Help.", [("", labels, 1)])]))
    assert page["accessgw_x"][2] == [("", labels, 1)]


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (3.0, "3"), (0.1, "0.1"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e30, "1e+30")]
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert render([MetricFamily("a", "gauge", "b\nc\\", [("", {}, value)])]) == (
        f"# HELP a b\\nc\\\\\n# TYPE a gauge\na {text}\n".encode()
    )


def test_families_of_one_name_are_merged() -> None:
    page = render([MetricFamily("a", "gauge", "A.", [("", {"l": str(n)}, n)]) for n in range(2)])
    assert page.count(b"# TYPE a gauge") == 1
    assert len(parse(page)["a"][2]) == 2


def test_histogram_bounds_are_upper_and_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert samples(histogram.bounds, histogram.counts, histogram.sum, {"x": "y"}) == [
        ("_bucket", {"x": "y", "le": "1"}, 2), ("_bucket", {"x": "y", "le": "2"}, 4),
        ("_bucket", {"x": "y", "le": "+Inf"}, 5), ("_sum", {"x": "y"}, 14.0), ("_count", {"x": "y"}, 5),
    ]  # fmt: skip


def test_the_process_is_measured() -> None:
    values = {family.name: family.samples[0][2] for family in process_families()}
    assert values["accessgw_process_resident_memory_bytes"] > 1e6
    assert values["accessgw_process_open_fds"] >= 3
    assert values["accessgw_process_start_time_seconds"] > 1e9
    assert values["accessgw_process_threads"] >= 1


def test_without_proc_nothing_is_measured(tmp_path: Path) -> None:
    assert process_families(tmp_path) == []


# ------------------------------------------------------------------ the reactor


def test_lateness_of_the_reactor() -> None:
    clock = Clock()
    ticks = ReactorTicks(clock)
    ticks.start()
    clock.advance(0.1)
    clock.advance(0.1 + 0.015)
    assert sum(ticks.lateness.counts) == 2
    assert ticks.lateness.sum == pytest.approx(0.015)
    assert ticks.lateness.counts[0] == 1
    ticks.stop()
    ticks.stop()
    assert not clock.getDelayedCalls()


class FakeReactor(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.observe: Any = None

    def watch_turns(self, observe: Any) -> None:
        self.observe = observe


def test_turns_of_the_reactor() -> None:
    reactor = FakeReactor()
    ticks = ReactorTicks(reactor)
    ticks.start()
    reactor.observe(0.03)
    reactor.observe(0.0001)
    assert sum(ticks.turns.counts) == 2
    assert ticks.turns.sum == pytest.approx(0.0301)
    ticks.stop()
    assert reactor.observe is None
