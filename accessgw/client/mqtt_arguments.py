"""The arguments of accessgw-client mqtt. What carries the commands out is imported for them only: mqtt_command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

DEFAULT_URL = "mqtts://127.0.0.1:8883"
URL_HELP = f"mqtts://, mqtt:// (plain), wss:// or ws:// (WebSocket, path /mqtt); {DEFAULT_URL}"
DEFAULT_APP = "accessgw-client"


def add_commands(commands: Any, common: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add `mqtt` with its commands; `common` adds the options that every command has."""
    mqtt = commands.add_parser("mqtt", help="over MQTT: publish, subscribe, call")
    common(mqtt)
    inner = mqtt.add_subparsers(dest="mqtt_command", required=True, metavar="COMMAND")
    publish = inner.add_parser("publish", help="publish a message")
    publish.add_argument("-t", "--topic", required=True)
    what = publish.add_mutually_exclusive_group(required=True)
    what.add_argument("-m", "--message", help="the payload; - reads it from standard input")
    what.add_argument("-n", "--null", action="store_true", help="an empty payload; with -r it removes the retained one")
    publish.add_argument("-r", "--retain", action="store_true")
    subscribe = inner.add_parser("subscribe", help="print messages until interrupted")
    subscribe.add_argument("filter", nargs="+", metavar="FILTER")
    subscribe.add_argument("-C", "--count", type=int, default=0, metavar="N", help="end after so many messages")
    for command in (publish, subscribe):
        command.add_argument("-q", "--qos", type=int, choices=(0, 1, 2), default=0)
    call = inner.add_parser("call", help="call an operation and print its answer")
    call.add_argument("operation", help="such as payments.query")
    call.add_argument("payload", nargs="?", help="JSON; - reads it from standard input")
    for command in (publish, subscribe, call):
        common(command)
        command.add_argument("-V", "--mqtt-version", type=int, choices=(4, 5), default=5, help="4: MQTT 3.1.1")
