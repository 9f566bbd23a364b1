"""The files that are shipped beside the configuration."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

from accessgw.config import load

ETC = Path(__file__).resolve().parents[2] / "etc"


def test_the_unit_runs_the_promised_command_and_outlives_the_drain() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ETC / "accessgw.service")
    service = unit["Service"]
    assert service["ExecStart"].endswith("twistd --nodaemon --pidfile= accessgw --config /etc/accessgw/accessgw.toml")
    # the dash: the start goes on, and refuses by itself what it cannot serve with
    assert service["ExecStartPre"] == f"-{service['ExecStart']} --check"
    assert "-HUP" in service["ExecReload"]
    settings = load(ETC / "accessgw.toml", {})
    drain = settings.drain.timeout + settings.limits.close_timeout
    assert int(service["TimeoutStopSec"]) > drain


def test_sysctl_lines_are_assignments() -> None:
    for line in (ETC / "sysctl-accessgw.conf").read_text().splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"[a-z0-9_.-]+ = \S.*", line)


def test_the_grafana_dashboard_is_whole() -> None:
    dashboard = json.loads((ETC / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["title"] and panel["targets"]
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")"), target["expr"]
            assert target["expr"].count("{") == target["expr"].count("}"), target["expr"]
