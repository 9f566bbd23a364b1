"""MQTT.js, the client of npm, in both versions over TCP, TLS and WebSocket."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.interop.mqtt_place import Place
from tests.interop.programs import needs, run
from tests.system.gateway_process import PATIENCE

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = Path(os.environ.get("ACCESSGW_NODE_MODULES", ROOT / "build" / "npm" / "node_modules"))

pytestmark = [
    needs("node", "nodejs"),
    pytest.mark.skipif(
        not (MODULES / "mqtt").is_dir(), reason=f"no MQTT.js in {MODULES} (npm install --prefix build/npm mqtt@5)"
    ),
]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    ("scheme", "door", "path"),
    [
        ("mqtt", "mqtt", ""),
        ("mqtts", "mqtts", ""),
        ("mqtts", "shared", ""),
        ("ws", "web", "/mqtt"),
        ("wss", "shared", "/mqtt"),
    ],
)
def test_a_device_on_mqttjs(mqtt_place: Place, scheme: str, door: str, path: str, version: int) -> None:
    name = f"js-{scheme}-{door}-{version}"
    url = f"{scheme}://localhost:{getattr(mqtt_place, door)}{path}"
    ca = str(mqtt_place.ca) if scheme in ("mqtts", "wss") else ""
    script = Path(__file__).with_name("mqttjs_device.js")
    command = ["node", str(script), str(MODULES), url, ca, str(version), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=10)[1]
        seen = json.loads(line)
        assert seen["granted"] == [0, 1, 2]
        assert seen["every"] == [[f"{name}/{qos}", qos, "温度"] for qos in (0, 1, 2)]
        assert seen["large"] == 100_000
        assert seen["will"] == "别了"
        assert seen["present"] == [False, True]
        assert seen["away"] == ["1", "2"]
        assert seen["call"] == [True, "/payments.pay"]
        if version == 5:
            assert seen["properties"] == {
                "contentType": "text/plain", "unit": "℃", "responseTopic": "answers", "correlationData": "00ff",
            }  # fmt: skip
            assert seen["refused"] == 0x87
        mqtt_place.gateway.push({"device": name}, "shipped")
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert json.loads(out) == ["$push/orders", 1, '"shipped"']
    finally:
        process.kill()
        process.communicate()


def test_wrong_credentials(mqtt_place: Place) -> None:
    script = """
        const mqtt = require(process.argv[1] + "/mqtt");
        const client = mqtt.connect(process.argv[2], {protocolVersion: 5, username: "a", password: "wrong", reconnectPeriod: 0});
        client.on("error", error => { console.log(error.code); client.end(true); });
        client.on("connect", () => { console.log("connected"); client.end(true); });
    """
    done = run("node", "-e", script, MODULES, f"mqtt://localhost:{mqtt_place.mqtt}")
    assert done.stdout.decode().strip() == str(0x86), done.stderr
