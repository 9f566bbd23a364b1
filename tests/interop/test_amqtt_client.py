"""amqtt's client (MQTT 3.1.1, asyncio), in its own process: every QoS, TCP, TLS and WebSocket, wills, calls."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import uuid

import pytest

from tests.interop.mqtt_place import Place

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("amqtt") is None, reason="no amqtt here (pip install '.[test]')"
)

PRELUDE = """
import asyncio, json, sys
from amqtt.client import MQTTClient
uri, ca, name, words = sys.argv[1:5]
words = json.loads(words)
config = {"auto_reconnect": False, "plugins": {}}

def device(name=name, **more):
    return MQTTClient(client_id=name, config=config | more)

async def came(client):
    message = await client.deliver_message(timeout_duration=60)
    return [message.topic, message.qos, message.data.decode()]

async def main():
    client = device()
"""

EVERY_QOS = """
    await client.connect(uri, cleansession=True, cafile=ca or None)
    granted = await client.subscribe([(f"{name}/{qos}", qos) for qos in (0, 1, 2)])
    got = []
    for qos in (0, 1, 2):
        await client.publish(f"{name}/{qos}", "温度".encode(), qos=qos)
        got.append(await came(client))
    await client.ping()
    await client.unsubscribe([f"{name}/0"])
    await client.publish(f"{name}/0", b"nobody")
    await client.publish(f"{name}/2", b"x" * 100_000, qos=2)
    last = await came(client)
    await client.disconnect()
    print(json.dumps({"granted": granted, "got": got, "last": [last[0], len(last[2])]}))
"""

SESSION = """
    await client.connect(uri, cleansession=False)
    await client.subscribe([(f"{name}/#", 2)])
    await client.disconnect()
    other = device(name + "-other")
    await other.connect(uri, cleansession=True)
    for number in range(10):
        await other.publish(f"{name}/{number % 3}", str(number).encode(), qos=1 + number % 2)
    await other.disconnect()
    client = device()
    await client.connect(uri, cleansession=False)
    got = sorted([(await came(client))[2] for _ in range(10)])
    await client.disconnect()
    print(json.dumps(got))
"""

CALL_AND_PUSH = """
    await client.connect(uri, cleansession=True)
    await client.publish("$call/payments.pay/" + words[0], b"{}", qos=1)
    answer = await came(client)
    print(json.dumps(answer), flush=True)
    push = await came(client)
    await client.disconnect()
    print(json.dumps(push))
"""

REFUSED = """
    try:
        await client.connect(uri, cleansession=True)
    except Exception as error:
        print(json.dumps(getattr(error, "return_code", None)))
"""


def start(place: Place, script: str, uri: str, name: str, *words: str, ca: str = "") -> subprocess.Popen[str]:
    code = f"{PRELUDE}{script}\nasyncio.run(asyncio.wait_for(main(), 120))\n"
    command = [sys.executable, "-c", code, uri, ca, name, json.dumps(words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> object:
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def test_every_quality_of_service_over_every_transport(mqtt_place: Place) -> None:
    who = "anybody:alice-token@localhost"
    doors = {
        f"mqtt://{who}:{mqtt_place.mqtt}": "",
        f"mqtts://{who}:{mqtt_place.mqtts}": str(mqtt_place.ca),
        f"mqtts://{who}:{mqtt_place.shared}": str(mqtt_place.ca),
        f"ws://{who}:{mqtt_place.web}/mqtt": "",
        f"wss://{who}:{mqtt_place.shared}/mqtt": str(mqtt_place.ca),
    }
    running = [start(mqtt_place, EVERY_QOS, uri, f"am{n}", ca=ca) for n, (uri, ca) in enumerate(doors.items())]
    for n, process in enumerate(running):
        assert finish(process) == {
            "granted": [0, 1, 2],
            "got": [[f"am{n}/{qos}", qos, "温度"] for qos in (0, 1, 2)],
            "last": [f"am{n}/2", 100_000],
        }, list(doors)[n]


def test_a_session_that_was_away(mqtt_place: Place) -> None:
    uri = f"mqtt://anybody:alice-token@localhost:{mqtt_place.mqtt}"
    assert finish(start(mqtt_place, SESSION, uri, "am-away")) == [str(number) for number in range(10)]


def test_a_call_and_a_push(mqtt_place: Place) -> None:
    uri = f"mqtt://anybody:alice-token@localhost:{mqtt_place.mqtt}"
    number = uuid.uuid4().hex
    process = start(mqtt_place, CALL_AND_PUSH, uri, "am-caller", number)
    assert process.stdout is not None
    topic, qos, body = json.loads(process.stdout.readline())
    assert (topic, qos, json.loads(body)["path"]) == (f"$reply/{number}", 1, "/payments.pay")
    mqtt_place.gateway.push({"device": "am-caller"}, "shipped")
    assert finish(process) == ["$push/orders", 1, '"shipped"']


def test_wrong_credentials(mqtt_place: Place) -> None:
    uri = f"mqtt://anybody:wrong@localhost:{mqtt_place.mqtt}"
    assert finish(start(mqtt_place, REFUSED, uri, "am-wrong")) == 4
