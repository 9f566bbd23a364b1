"""What the benchmarks' reports say: ratios, limits met and missed, and rows without a figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.bench.bench_mqtt import CASES, Bench
from loadtest.bench.mqtt_servers import Amqtt, Mosquitto, MqttGateway
from loadtest.bench.report import Report


@pytest.fixture
def report() -> Report:
    made = Report("a title")
    made.add("fan-out", "mosquitto", 5.0, "us")
    made.add("fan-out", "accessgw", 4.0, "us")
    made.add("pairs", "mosquitto", 10.0, "us")
    made.add("pairs", "accessgw", 16.1, "us")
    made.add("connect", "mosquitto", 10.0, "us")
    made.add("connect", "accessgw", None, "us", "skipped: no compiler")
    made.add("idle", "accessgw", 3000.0, "B")
    made.relate("mosquitto")
    return made


def test_a_limit_is_met_up_to_and_with_its_value(report: Report) -> None:
    report.judge("fan-out", "accessgw", 0.8)
    report.judge("pairs", "accessgw", 1.6)
    report.judge("idle", "accessgw", 3000.0, "value")
    assert [row.met for row in report.rows if row.limit is not None] == [True, False, True]


def test_what_was_not_measured_is_neither_met_nor_missed(report: Report) -> None:
    report.judge("connect", "accessgw", 2.0)
    assert [row.met for row in report.rows if row.limit is not None] == [None]


def test_the_table_names_the_missed_with_their_figures(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report.judge("fan-out", "accessgw", 1.0)
    report.judge("pairs", "accessgw", 1.6)
    report.judge("connect", "accessgw", 2.0)
    report.print()
    lines = capsys.readouterr().out.splitlines()
    (missed,) = [line for line in lines if "MISSED" in line]
    assert "pairs" in missed
    assert "1.61 x mosquitto" in missed
    assert "<= 1.60" in missed
    assert lines[-1] == "limits: 1 met, 1 missed, 1 not measured"


def test_a_report_without_limits_has_no_column_for_them(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report.print()
    assert "limit" not in capsys.readouterr().out


def test_limits_are_in_the_json(report: Report, tmp_path: Path) -> None:
    report.judge("pairs", "accessgw", 1.6)
    report.write(str(tmp_path / "rows.json"))
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    (judged,) = [row for row in rows if row["limit"] is not None]
    assert (judged["case"], judged["limit_of"], judged["met"]) == ("pairs", "ratio", False)


def answered(**fields: float) -> dict[str, object]:
    return {
        "command": "pairs",
        "cycles": 0,
        "deliveries": 1000,
        "seconds": 1.0,
        "own_cpu": 0.3,
        "withheld": 0,
        **fields,
    }


def test_rows_of_a_case_are_medians_with_their_range() -> None:
    case = next(case for case in CASES if case.name == "pairs-q1")
    bench = Bench(case, [Mosquitto, MqttGateway], ["load"], language="C", quick=False, descriptors=20_000)
    bench.answers["mosquitto"] = [answered(broker_cpu=cpu) for cpu in (0.010, 0.030, 0.012)]
    bench.wrong["accessgw"] = "FAILED: wrong deliveries: 2 expected, 1 deliveries"
    report = Report("")
    bench.tell(report)
    cpu = [row for row in report.rows if row.case == Bench.main_row(case)]
    assert [(row.who, row.value) for row in cpu] == [("mosquitto", pytest.approx(12.0)), ("accessgw", None)]
    assert "10.00 to 30.00" in cpu[0].note
    assert cpu[1].note == "FAILED: wrong deliveries: 2 expected, 1 deliveries"


def test_a_load_generator_that_was_busy_is_told() -> None:
    case = next(case for case in CASES if case.name == "rate-q1")
    bench = Bench(case, [Mosquitto, Amqtt], ["load"], language="Python, no gcc", quick=False, descriptors=20_000)
    bench.answers["mosquitto"] = [answered(broker_cpu=0.5, own_cpu=0.95, p50=1.0, p99=2.0, withheld=7)]
    bench.answers["amqtt"] = [answered(broker_cpu=0.9, p50=1.0, p99=2.0)]
    bench.others = 0.7
    report = Report("")
    bench.tell(report)
    row = report.rows[-1]
    assert (row.who, row.value) == ("load (Python, no gcc)", pytest.approx(95.0))
    assert "the load may be the limit of mosquitto" in row.note
    assert "the load may be the limit of amqtt" not in row.note
    assert "mosquitto lagged: 7 messages withheld" in row.note
    assert "other processes took up to 70% of a core" in row.note


def test_fewer_idle_connections_are_told_with_the_reason() -> None:
    case = next(case for case in CASES if case.name == "idle")
    bench = Bench(case, [Mosquitto], ["load"], language="C", quick=False, descriptors=4096)
    bench.answers["mosquitto"] = [{"memory_before": 0, "memory_after": 3596 * 500, "count": 3596}]
    report = Report("")
    bench.tell(report)
    (row,) = report.rows
    assert bench.options["count"] == 4096 - 500
    assert (row.value, row.note) == (500.0, "ulimit -n is 4096")


def test_limits_are_those_of_the_figures_asked_for() -> None:
    limits = {case.name: case.limit for case in CASES if case.limit is not None}
    assert {limit for name, limit in limits.items() if name.startswith("fanout")} == {1.0}
    assert {limit for name, limit in limits.items() if name.startswith("pairs-q1")} == {1.6}
    assert {limit for name, limit in limits.items() if name.startswith("connect")} == {2.0}
    assert limits["idle"] == 3000
    assert not any(name.startswith("durable") for name in limits)
