from __future__ import annotations

import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessgw.config import ConfigError, diff, load, loads, syntax
from accessgw.model.settings import GatewaySettings

LISTENER = '[[listeners]]\nname = "plain"\nport = 7080\n'
CLUSTER = '[[clusters]]\nname = "demo"\nendpoints = ["http://127.0.0.1:1"]\n'
BRIDGE = '[[mqtt.bridges]]\nname = "b"\naddress = "other:1883"\n'
TOPICS = 'topics = [{filter = "a/#"}]\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(LISTENER + text)
    return str(caught.value).splitlines()


def load_with(text: str, environ: dict[str, str]) -> GatewaySettings:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(LISTENER + text)
        file.flush()
        return load(file.name, environ)


def test_a_full_mqtt_section_is_fine() -> None:
    settings = loads(
        LISTENER
        + CLUSTER
        + '[mqtt]\nacl_default = "deny"\npush_topic = "devices/push/{biz}"\n'
        + '[[mqtt.acl]]\ntopics = ["devices/{device}/#", "apps/{app}-{user}/+", "$SYS/#"]\nuser = "ops-*"\n'
        + '[[mqtt.acl]]\npermit = "deny"\ntopics = ["#", "literal}brace{"]\n'
        + '[[mqtt.rules]]\nname = "in"\ntopics = ["sensors/+/t"]\ncluster = "demo"\npath = "/ingest"\n'
        + BRIDGE
        + 'topics = [{filter = "", local_prefix = "a/b", remote_prefix = "c/d"}, {filter = "#", direction = "both"}]\n'
    )
    assert settings.mqtt.acl[0].topics[0] == "devices/{device}/#"
    assert settings.mqtt.bridges[0].topics[0].filter == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[mqtt]\nmax_packet = 262145", "limits.write_buffer: expected at least twice mqtt.max_packet (524290), got 524288"),
        ("[limits]\nwrite_buffer = 16777216\n[mqtt]\nmax_packet = 8388608", "mqtt.max_queued_bytes: expected at least mqtt.max_packet (8388608), got 4194304"),
        ("[mqtt]\nmax_unreleased = 1000", "mqtt.max_unreleased: expected at least mqtt.receive_maximum (1024), got 1000"),
        ("[mqtt]\nmax_qos0_buffer = 1048576", "limits.write_buffer: expected at least mqtt.max_qos0_buffer (1048576), got 524288"),
        ("[mqtt]\nmax_packet = 1024", "mqtt.max_packet: expected at least mqtt.max_topic_length (1040, and 16 bytes around it), got 1024"),
        ("[mqtt]\nmax_retained_bytes = 9", "mqtt.max_retained_bytes: expected at least mqtt.max_topic_length (1024), got 9"),
        ("[mqtt]\nmax_keep_alive = 65536", "mqtt.max_keep_alive: expected an integer in 0..65535, got 65536"),
        ('[mqtt]\nassigned_prefix = "a/"', 'mqtt.assigned_prefix: expected at most 64 bytes without /, + and #, got "a/"'),
        ('[mqtt]\npush_topic = "a/{device}"', 'mqtt.push_topic: expected {biz} as the only placeholder, got "{device}"'),
        ('[mqtt]\npush_topic = "a/+"', 'mqtt.push_topic: expected a topic without wildcards, got "a/+"'),
        ("[[mqtt.acl]]\ntopics = []", "mqtt.acl[0].topics: expected at least one topic filter, got none"),
        ('[[mqtt.acl]]\ntopics = ["a/#/b"]', 'mqtt.acl[0].topics[0]: expected a topic filter such as devices/{device}/#, got "a/#/b"'),
        ('[[mqtt.acl]]\ntopics = ["a/{client}"]', 'mqtt.acl[0].topics[0]: expected {device}, {user} or {app}, got "{client}"'),
        ('[[mqtt.acl]]\ntopics = ["#"]\nuser = "a*b"', 'mqtt.acl[0].user: expected a name, or a prefix with one * at its end, got "a*b"'),
        ('[[mqtt.acl]]\ntopics = ["#"]\npermit = "deny"\nmax_qos = 1', "mqtt.acl[0].max_qos: belongs to rules that allow"),
        ('[[mqtt.acl]]\ntopics = ["#"]\npermit = "deny"\nretain = false', "mqtt.acl[0].retain: belongs to rules that allow"),
        ('[[mqtt.rules]]\nname = "r"\ntopics = []\ncluster = "demo"', "mqtt.rules[0].topics: expected at least one topic filter, got none"),
        ('[[mqtt.rules]]\nname = "r"\ntopics = ["a"]\ncluster = "dema"', 'mqtt.rules[0].cluster: unknown cluster "dema", did you mean "demo"?'),
        ('[[mqtt.rules]]\nname = "r"\ntopics = ["a"]\ncluster = "demo"\npath = "x"', 'mqtt.rules[0].path: expected a path that begins with "/", got "x"'),
        ('[[mqtt.rules]]\nname = "r"\ntopics = ["a"]\ncluster = "demo"\nqueue = 9', "mqtt.rules[0].queue: expected at least batch (100), got 9"),
        ('[[mqtt.rules]]\nname = "r r"\ntopics = ["a"]\ncluster = "demo"', "mqtt.rules[0].name: expected letters, digits, `_`, `-` and `.`, got \"r r\""),
        ('[[mqtt.rules]]\nname = "r"\ntopics = ["$share/g/a"]\ncluster = "demo"',
         'mqtt.rules[0].topics[0]: a rule takes part in no shared subscription, got "$share/g/a"'),
        (BRIDGE + TOPICS + BRIDGE + TOPICS, 'mqtt.bridges[1].name: "b" is the name of mqtt.bridges[0] already'),
        (BRIDGE + "topics = []", "mqtt.bridges[0].topics: expected at least one topic, got none"),
        (BRIDGE.replace(":1883", "") + TOPICS, 'mqtt.bridges[0].address: expected "host:port", got "other"'),
        (BRIDGE + TOPICS + 'ca = "/no/such"', "mqtt.bridges[0].ca: belongs to bridges with tls = true"),
        (BRIDGE + TOPICS + 'tls = true\nserver_name = "a b"', 'mqtt.bridges[0].server_name: expected the name or address of a server, got "a b"'),
        (BRIDGE + TOPICS + 'tls = true\nca = "/no/such"', 'mqtt.bridges[0].ca: cannot read "/no/such": No such file or directory'),
        (BRIDGE + TOPICS + 'tls = true\nca = "/dev/null"', "mqtt.bridges[0].ca: expected PEM certificates, OpenSSL says: NO_CERTIFICATE_OR_CRL_FOUND"),
        (BRIDGE + TOPICS + 'tls = true\nkey = "/dev/null"', "mqtt.bridges[0].key: expected together with certificate"),
        (BRIDGE + TOPICS + 'password = "p"\nversion = 4', "mqtt.bridges[0].password: MQTT 3.1.1 has no password without a user name: expected username"),
        (BRIDGE + TOPICS + "retry_initial = 90.0", "mqtt.bridges[0].retry_max: expected at least retry_initial (90), got 60"),
        (BRIDGE + 'topics = [{filter = "a", local_prefix = "x/#"}]',
         'mqtt.bridges[0].topics[0].local_prefix: expected the beginning of a topic, without wildcards, got "x/#"'),
        (BRIDGE + 'topics = [{filter = ""}]', 'mqtt.bridges[0].topics[0].filter: expected a topic filter such as "sensors/+/temperature", got ""'),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_its_path(text: str, line: str) -> None:
    assert problems(CLUSTER + text) == [line]


@pytest.mark.parametrize(
    "good", ["a", "/", "a//b", "+", "#", "a/+/b", "a/#", "+/+/#", "$SYS/#", "$share/g/a/#", "$share/g//", " ", "温度/+"]
)
def test_topic_filters(good: str) -> None:
    """[MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.8.2-1] [MQTT-4.8.2-2]"""
    assert syntax.is_topic_filter(good)


@pytest.mark.parametrize(
    "bad",
    ["", "a#", "#/a", "a/b+", "+a", "a/#/b", "\0", "\ud800", "x" * 65536, "$share/g", "$share//a", "$share/g+/a", "$share/g/"],
)  # fmt: skip
def test_what_is_no_topic_filter(bad: str) -> None:
    assert not syntax.is_topic_filter(bad)


@given(st.text())
def test_a_topic_is_a_filter_without_wildcards(text: str) -> None:
    if syntax.is_topic_name(text) and not text.startswith("$share/"):
        assert syntax.is_topic_filter(text)
    if syntax.is_topic_filter(text) and "+" not in text and "#" not in text:
        assert syntax.is_topic_name(text)


def test_topic_rules_take_effect_on_reload_and_the_rest_waits() -> None:
    old = loads(LISTENER)
    new = loads(
        LISTENER + '[mqtt]\nacl_default = "deny"\nacl_log = "all"\nmax_inflight = 9\n[[mqtt.acl]]\ntopics = ["#"]\n'
    )
    found = diff(old, new)
    assert found.applied == ["mqtt.acl", "mqtt.acl_default", "mqtt.acl_log"]
    assert found.needs_restart == ["mqtt.max_inflight"]


def test_a_choice_of_numbers() -> None:
    assert problems(BRIDGE + TOPICS + "version = 3") == ["mqtt.bridges[0].version: expected one of 4, 5, got 3"]
    settings = load_with(BRIDGE + "version = 5\n" + TOPICS, {"ACCESSGW__MQTT__BRIDGES__0__VERSION": "4"})
    assert settings.mqtt.bridges[0].version == 4
