"""What Prometheus reads: the metrics of a gateway after some traffic, through parsers that are not ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from protocols.mmtp import Status
from tests.interop.programs import needs, run
from tests.system.device import Device
from tests.system.gateway_process import ROOT, Gateway
from tests.system.upstream import Upstream

parser = pytest.importorskip("prometheus_client.parser", reason="no prometheus-client here (pip install '.[test]')")

NASTY = '[[authenticators]]\nkind = "static"\nname = "the \\"other\\" \\\\ 支付"\ntokens = [{{ token = "x", user = "x" }}]\n'

Sample = tuple[str, tuple[tuple[str, str], ...]]


class Page:
    """One scrape."""

    def __init__(self, gateway: Gateway) -> None:
        status, self.text = gateway.http("GET", "/metrics", token="t-read")
        assert status == 200
        self.families = {family.name: family for family in parser.text_string_to_metric_families(self.text)}
        samples = [sample for family in self.families.values() for sample in family.samples]
        self.samples: dict[Sample, float] = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}
        assert len(self.samples) == len(samples), "no series twice"

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of what has this name and these labels."""
        wanted = labels.items()
        return sum(
            value for (found, has), value in self.samples.items() if found == name and wanted <= dict(has).items()
        )


@pytest.fixture
def busy(make_gateway: Callable[..., Gateway], upstream: Upstream) -> Gateway:
    """A gateway that has seen some of everything."""
    hook = f'\n[webhook]\nurl = "{upstream.url}/hook"\n'
    gateway = make_gateway(upstream=upstream.url, top=NASTY, extra=hook).start()
    secure = Device(gateway.tls, "secure", ca=gateway.ca).welcomed()
    plain = Device(gateway.plain, "plain", token="alice-token").welcomed()
    for device in (secure, plain):
        assert device.call("payments.pay", b"{}").status == Status.OK
    gateway.push({"device": "plain"}, "hello")
    gateway.push({"broadcast": True}, "hello")
    for device, pushes in ((plain, 2), (secure, 1)):
        for _ in range(pushes):
            device.next_push()
        device.ack(pushes)
    Device(gateway.plain, "stranger", token="wrong").goodbye()
    plain.cut()
    gateway.wait_until(lambda: gateway.http("GET", "/v1/status", token="t-read")[1]["devices_connected"] == 1)
    gateway.held = secure  # type: ignore[attr-defined]
    return gateway


def test_figures_after_some_traffic(busy: Gateway) -> None:
    page = Page(busy)
    assert page("accessgw_connections_accepted_total") == 3
    assert page("accessgw_connections_open") == 1
    assert page("accessgw_connections_closed_total", reason="auth_failed") == 1
    assert page("accessgw_tls_handshakes_total") == 1
    assert page("accessgw_calls_finished_total", status="ok") == 2
    assert page("accessgw_webhook_dropped_total") == 0
    busy.wait_until(lambda: Page(busy)("accessgw_webhook_delivered_total") == 3)


def test_counters_grow_and_histograms_add_up(busy: Gateway) -> None:
    before = Page(busy)
    busy.held.call("payments.pay", b"{}", call_id=1 << 50)  # type: ignore[attr-defined]
    after = Page(busy)
    assert set(before.samples) <= set(after.samples)
    for name, family in after.families.items():
        if family.type == "counter":
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert sample.value >= before.samples.get(key, 0.0), key
        elif family.type == "histogram":
            assert_adds_up(name, family)
    finished = "accessgw_calls_finished_total"
    assert after(finished) == before(finished) + 1


def assert_adds_up(name: str, family: Any) -> None:
    """Buckets are cumulative, end with +Inf, and that is the count."""
    rows: dict[Any, dict[str, Any]] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", None)
        row = rows.setdefault(tuple(sorted(labels.items())), {"buckets": []})
        if bound is None:
            row[sample.name] = sample.value
        else:
            row["buckets"].append((float(bound), sample.value))
    assert rows
    for row in rows.values():
        assert row["buckets"] == sorted(row["buckets"])
        counts = [count for _, count in row["buckets"]]
        assert counts == sorted(counts)
        assert row["buckets"][-1] == (float("inf"), row[f"{name}_count"])
        assert (row[f"{name}_sum"] > 0) == (row[f"{name}_count"] > 0)


def test_what_is_documented_is_there_and_the_other_way_round(busy: Gateway) -> None:
    text = (ROOT / "docs/ops/metrics.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE))
    found = dict(re.findall(r"^# TYPE (\w+) (\w+)$", Page(busy).text, re.MULTILINE))
    assert {name: kind for name, kind in found.items() if documented.get(name) != kind} == {}
    # by a gateway that shows certificates to servers
    only_where_shown = {"accessgw_client_certificate_expires_seconds"}
    assert documented.keys() - found.keys() == only_where_shown


def test_the_dashboard_for_grafana_asks_for_what_is_there(busy: Gateway) -> None:
    dashboard = json.loads((ROOT / "etc/grafana-dashboard.json").read_text())
    asked = set(re.findall(r"accessgw_\w+", json.dumps(dashboard)))
    page = Page(busy)
    there = {s.name for family in page.families.values() for s in family.samples}
    there |= set(re.findall(r"^# TYPE (\w+)", page.text, re.MULTILINE))  # some have no sample yet
    assert asked
    assert asked - there == set()


@needs("promtool", "prometheus")
def test_promtool_finds_no_fault(busy: Gateway) -> None:
    done = run("promtool", "check", "metrics", data=Page(busy).text.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
