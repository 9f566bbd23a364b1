"""An MQTT device on amqtt's client, which shares nothing with the gateway; lines of JSON tell it what to do.

    python -m accessgw.demo.mqtt_device --address 127.0.0.1:1883 --token dev-device --device thermometer

It reads `{"subscribe": FILTER, "qos": 1}` and `{"publish": TOPIC, "payload": TEXT, "qos": 1}`, and writes
`{"connected": DEVICE}`, `{"granted": QOS}`, `{"published": TOPIC}` once that is acknowledged, and for whatever arrives
`{"message": TOPIC, "qos": QOS, "payload": TEXT}`. It leaves in order when its input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from typing import Any
from urllib.parse import quote

from amqtt.client import MQTTClient
from amqtt.errors import ConnectError

MAX_LINE = 1024 * 1024


def say(**fields: Any) -> None:
    """One line to whoever drives the device."""
    print(json.dumps(fields, ensure_ascii=False), flush=True)


async def obey(client: Any, lines: asyncio.StreamReader) -> None:
    """One command after the other, until there are no more."""
    while line := await lines.readline():
        command = json.loads(line)
        qos = int(command.get("qos", 1))
        if "subscribe" in command:
            (granted,) = await client.subscribe([(command["subscribe"], qos)])
            say(granted=granted)
        else:
            await client.publish(command["publish"], str(command["payload"]).encode(), qos=qos)
            say(published=command["publish"])


async def receive(client: Any) -> None:
    """Tell of every message; ends with the connection."""
    with contextlib.suppress(asyncio.CancelledError):
        while message := await client.deliver_message():
            say(message=message.topic, qos=message.qos, payload=message.data.decode("utf-8", "replace"))


async def live(address: str, token: str, device: str) -> int:
    """The device's life; its exit code."""
    lines = asyncio.StreamReader(limit=MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    client = MQTTClient(client_id=device, config={"auto_reconnect": False, "plugins": {}})
    await client.connect(f"mqtt://{quote(device)}:{quote(token)}@{address}", cleansession=True)
    say(connected=device)
    obeying, receiving = asyncio.ensure_future(obey(client, lines)), asyncio.ensure_future(receive(client))
    done, _ = await asyncio.wait((obeying, receiving), return_when=asyncio.FIRST_COMPLETED)
    if obeying not in done:
        obeying.cancel()
        print(f"{device}: the connection is lost", file=sys.stderr)
        return 1
    receiving.cancel()
    obeying.result()
    await client.disconnect()
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m accessgw.demo.mqtt_device",
        description="An MQTT device that is told by lines of JSON what to do.",
    )
    parser.add_argument("--address", default="127.0.0.1:1883", help="host:port of the gateway; %(default)s")
    parser.add_argument("--token", default="dev-device", help="%(default)s")
    parser.add_argument("--device", default="thermometer", help="%(default)s")
    args = parser.parse_args(argv)
    try:
        return asyncio.run(live(args.address, args.token, args.device))
    except (ConnectError, ValueError, KeyError) as error:
        print(f"{args.device}: {error!r}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
