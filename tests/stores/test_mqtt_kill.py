"""kill -9 in a storm of MQTT messages: what was acknowledged is there, and nothing is there by half."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from accessgw.model.mqtt_settings import MqttSettings
from tests.stores.mqtt_stores import MqttStores

ROUNDS = 3


def storm(path: Path, run: str, lines: int) -> list[list[str]]:
    """What a child was told before it was killed, somewhere after so many lines of it."""
    script = Path(__file__).with_name("mqtt_storm.py")
    child = subprocess.Popen([sys.executable, script, path, run], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = []
    try:
        for line in child.stdout:
            told.append(line)
            if len(told) == lines:
                child.kill()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert len(told) >= lines, "the child ended by itself"
    return [line.split() for line in told if line.endswith("\n")]


def test_what_was_acknowledged_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    chance = random.Random(11)
    told: list[list[str]] = []
    for number in range(ROUNDS):
        told += storm(path, f"r{number}", chance.randrange(50, 1500))

    made = MqttStores(path, MqttSettings(max_queued=1_000_000, max_queued_bytes=1 << 30))
    try:
        check(made, told)
        check_wholeness(path)
    finally:
        made.stop()
    assert {words[0] for words in told} == {"message", "dropped", "assigned", "ended"}


def check(made: MqttStores, told: list[list[str]]) -> None:
    state = made.store.loaded
    sessions = {session.client_id: session for session in state.sessions}
    retained = {message.topic: message.payload for message in state.retained}
    assert all(waiting.will.topic == "w" for waiting in state.wills.values())
    queues = {}
    for client, session in sessions.items():
        queued = made.read(client, limit=10**6, max_bytes=1 << 30) + made.inflight(client)
        queues[client] = {entry.number: entry for entry in queued}
        assert len(queues[client]) == len(queued)
        assert session.queued == sum(not entry.packet_id for entry in queued)
    acknowledged = {(words[1], words[2]) for words in told if words[0] == "dropped"}
    assigned = {(words[1], int(words[2])): int(words[3]) for words in told if words[0] == "assigned"}
    for _, name, here, first, there, second, packet_id in (words for words in told if words[0] == "message"):
        for client, number in ((here, int(first)), (there, int(second))):
            if (name, client) not in acknowledged:
                entry = queues[client][number]
                assert entry.message.payload == name.encode()
                assert entry.packet_id == assigned.get((client, number), entry.packet_id)
        assert retained[f"t/{name}"] == name.encode()
        assert int(packet_id) in sessions[f"in-{name.split('-')[0]}"].received
        assert name not in state.wills
    assert not {words[1] for words in told if words[0] == "ended"} & set(sessions)


def check_wholeness(path: Path) -> None:
    """A message that nobody was told of is in both queues, retained, received, and its will gone; or not at all."""
    look = sqlite3.connect(path)
    try:
        stored = set(look.execute("SELECT number FROM mqtt_message"))
        assert stored == set(look.execute("SELECT message FROM mqtt_queue"))
        topics = {topic for (topic,) in look.execute("SELECT topic FROM mqtt_retained")}
        assert {topic for (topic,) in look.execute("SELECT topic FROM mqtt_message WHERE topic <> 't'")} <= topics
        names = {topic.removeprefix("t/") for topic in topics}
        received = {
            (client.removeprefix("in-"), packet_id)
            for client, packet_id in look.execute(
                "SELECT client, packet_id FROM mqtt_received JOIN mqtt_session ON session = mqtt_session.number"
            )
        }
        assert received == {(name.split("-")[0], int(name.split("-")[1]) % 65535 + 1) for name in names}
        assert not names & {client for (client,) in look.execute("SELECT client FROM mqtt_will")}
    finally:
        look.close()
