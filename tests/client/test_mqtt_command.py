from __future__ import annotations

import argparse
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessgw.client import cli, mqtt_arguments
from accessgw.client.mqtt_command import connect_packet, message_line, packet_line, parse_url, payload_of
from protocols.mqtt.packets import Connect, Property, Puback, Publish


def parsed(*arguments: str) -> argparse.Namespace:
    return cli.make_parser().parse_args(["mqtt", *arguments])


def test_addresses() -> None:
    assert (parse_url("mqtt://h").port, parse_url("mqtts://h").port, parse_url("mqtts://[::1]:99").port) == (
        1883,
        8883,
        99,
    )
    assert parse_url("mqtts://h").secure and not parse_url("mqtt://h").secure
    for wrong in ("http://h", "mqtt://", "mqtt://h/x", "mqtt://h:0x", "mqtt://u@h", "mqtt://h?x"):
        with pytest.raises(ValueError, match="expected"):
            parse_url(wrong)


def test_options_may_stand_anywhere() -> None:
    args = cli.make_parser().parse_args(["--device", "d1", "mqtt", "--token", "t", "publish", "-t", "a", "-m", "x"])
    assert (args.device, args.token, args.user, args.url) == ("d1", "t", "", cli.DEFAULT_URL)


def test_who_connects() -> None:
    connect = connect_packet(parsed("subscribe", "a", "--device", "d1", "--token", "t", "-V", "4"))
    assert connect == Connect("d1", 4, keep_alive=60, username="d1", password=b"t")
    named = connect_packet(parsed("subscribe", "a", "--device", "d1", "--user", "alice", "--token", ""))
    assert (named.username, named.password, named.version) == ("alice", None, 5)
    nobody = connect_packet(parsed("subscribe", "a", "--token", ""))
    assert (nobody.username, nobody.password) == (None, None)


def test_payloads() -> None:
    assert payload_of(parsed("publish", "-t", "a", "-m", "您")) == "您".encode()
    assert payload_of(parsed("publish", "-t", "a", "-n")) == b""
    assert payload_of(parsed("call", "x.y", '{"n": 1.10}')) == b'{"n": 1.10}'
    assert payload_of(parsed("call", "x.y")) == b""
    with pytest.raises(ValueError, match="payload: expected JSON"):
        payload_of(parsed("call", "x.y", "{"))


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (Publish("t", b"{}"), {"topic": "t", "qos": 0, "payload": {}}),
        (Publish("t", b"on", 1, retain=True), {"topic": "t", "qos": 1, "retain": True, "text": "on"}),
        (Publish("t", b"\xff"), {"topic": "t", "qos": 0, "payload_hex": "ff"}),
        (
            Publish("t", b"1", properties={Property.CORRELATION_DATA: b"\1", Property.USER_PROPERTY: [("a", "b")]}),
            {
                "topic": "t",
                "qos": 0,
                "payload": 1,
                "properties": {"correlation_data": "01", "user_property": [["a", "b"]]},
            },
        ),
    ],
)
def test_messages_as_lines(message: Publish, shown: dict[str, Any]) -> None:
    assert json.loads(message_line(message)) == shown


@given(st.text(st.characters(codec="utf-8")), st.binary())
def test_any_message_is_one_line(topic: str, payload: bytes) -> None:
    assert "\n" not in message_line(Publish(topic, payload))


def test_packets_as_lines() -> None:
    assert packet_line("receive", Puback(7)) == "<- PUBACK  packet_id=7"
    line = packet_line("send", Connect("d1", username="u", password=b"secret"))
    assert "secret" not in line
    assert line.startswith("-> CONNECT  client_id='d1' version=5")
    assert len(packet_line("send", Publish("t", b"x" * 1000))) < 150
    assert mqtt_arguments.DEFAULT_URL in mqtt_arguments.URL_HELP


def test_addresses_in_websocket() -> None:
    wss = parse_url("wss://h")
    assert (wss.port, wss.path, wss.secure, wss.websocket) == (443, "/mqtt", True, True)
    ws = parse_url("ws://h:8080/other/path")
    assert (ws.port, ws.path, ws.secure, ws.websocket) == (8080, "/other/path", False, True)
    for wrong in ("wss://", "wss://h/a b", "wss://h/x?y", "wss://u@h/mqtt", "https://h/mqtt"):
        with pytest.raises(ValueError, match="expected"):
            parse_url(wrong)


@pytest.mark.parametrize(
    "option", [("--short",), ("--state-dir", "d"), ("--app", "x"), ("--profile", "h"), ("--no-dictionaries",)]
)
def test_options_that_mean_nothing_over_mqtt(option: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([*option, "mqtt", "publish"], ["mqtt", *option, "publish"], ["mqtt", "publish", *option]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, "-t", "a", "-m", "x"])
        assert ended.value.code == 2
        assert f"error: {option[0]}: means nothing over MQTT" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["mqtt", "publish", "--help"])
    assert option[0] not in capsys.readouterr().out
