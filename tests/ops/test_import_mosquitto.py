from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accessgw.config import load, loads
from accessgw.model.identity import Identity
from accessgw.ops import ctl, mosquitto_conf
from accessgw.ops.import_mosquitto import Imported, convert
from accessgw.ops.mosquitto_acl import acl_rules, parse_acl
from accessgw.ops.mosquitto_conf import ImportFailed, parse, read
from accessgw.policy.topic_rules import TopicRules
from tests.client import tls_files

SITE = """\
# the broker of a site
per_listener_settings false

persistence true
persistence_location /var/lib/mosquitto/
autosave_interval 60
persistent_client_expiration 14d
log_type error
set_tcp_nodelay true
max_inflight_messages 40
max_queued_messages 0
max_queued_bytes 0
message_size_limit 1048576
max_keepalive 600
sys_interval 30
retain_available true
queue_qos0_messages false
allow_anonymous false
password_file {dir}/passwd
acl_file {dir}/acl
include_dir {dir}/conf.d

listener 1883 127.0.0.1
max_qos 1

listener 9001 ::1
protocol websockets
max_qos 1
"""
TLS = """\
listener 8883 192.0.2.1
max_qos 1
certfile {dir}/server.pem
keyfile {dir}/server.key
tls_version tlsv1.3
"""
BRIDGE = """\
connection cloud
address broker.example.com:8883
topic sensors/# out 1 site1/ plant/site1/
topic cmd/# in 1 "" plant/site1/
topic "" both 2 a/b c/d
bridge_cafile {dir}/ca.pem
bridge_insecure false
bridge_protocol_version mqttv50
remote_username site1
remote_password s3cret
remote_clientid site1-bridge
keepalive_interval 30
cleansession false
restart_timeout 5 120
start_type automatic
"""
ACL = """\
topic read $SYS/#

user alice
topic readwrite home/#
topic deny home/secret/#
user roger
topic write up
# everybody
pattern write devices/%c/up
pattern read devices/%c/down
pattern users/%u/#
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with all that a mosquitto.conf names."""
    ca, chain, key = tls_files.write(tmp_path)
    for made, name in ((ca, "ca.pem"), (chain, "server.pem"), (key, "server.key")):
        if made != tmp_path / name:
            shutil.copy(made, tmp_path / name)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-bridge.conf").write_text(BRIDGE.format(dir=tmp_path))
    (tmp_path / "conf.d" / "ignored.txt").write_text("nonsense")
    (tmp_path / "acl").write_text(ACL)
    (tmp_path / "passwd").write_text("alice:$7$101$YWJjZGVmZ2hpams=$" + "A" * 86 + "==\n")
    (tmp_path / "mosquitto.conf").write_text((SITE + TLS).format(dir=tmp_path))
    return tmp_path


def imported(text: str) -> Imported:
    return convert(parse(text), "mosquitto.conf")


def data(text: str) -> dict[str, Any]:
    result = imported(text)
    loads(result.toml)
    return tomllib.loads(result.toml)


def losses(text: str) -> list[str]:
    return [str(loss) for loss in imported(text).losses]


# ------------------------------------------------------------------ a whole site


def test_a_site_is_carried_over_as_a_whole(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = site / "accessgw.toml"
    code = ctl.main(["import", str(site / "mosquitto.conf"), "--output", str(output)])
    said = capsys.readouterr()
    assert "not carried over" not in said.err
    assert (code, said.out) == (0, "")
    loaded = load(output, {})
    plain, websocket, tls = loaded.listeners
    assert (plain.name, plain.transport, plain.address, plain.port) == ("mqtt-1883", "tcp", "127.0.0.1", 1883)
    assert (websocket.address, websocket.port, websocket.protocols) == ("::1", 9001, ("http/1.1",))
    assert (tls.name, tls.transport, tls.tls_minimum) == ("mqtts-8883", "tls", "1.3")
    assert tls.certificates[0].chain == f"{site}/server.pem"
    assert [(one.kind, one.file) for one in loaded.authenticators] == [("file", f"{site}/passwd")]
    assert loaded.store.path == "/var/lib/mosquitto/accessgw.sqlite"
    mqtt = loaded.mqtt
    assert (mqtt.max_inflight, mqtt.max_queued, mqtt.max_keep_alive, mqtt.max_qos) == (40, 1_000_000, 600, 1)
    assert (mqtt.max_packet, mqtt.max_session_expiry, mqtt.sys_interval) == (1048576 + 1024, 14 * 86400, 30)
    assert mqtt.acl_default == "deny"
    (bridge,) = mqtt.bridges
    assert (bridge.name, bridge.address, bridge.tls, bridge.version) == ("cloud", "broker.example.com:8883", True, 5)
    assert (bridge.client_id, bridge.username, bridge.password) == ("site1-bridge", "site1", "s3cret")
    assert (bridge.keep_alive, bridge.clean_start, bridge.retry_initial, bridge.retry_max) == (30, False, 5, 120)
    assert [(one.filter, one.direction, one.qos, one.local_prefix, one.remote_prefix) for one in bridge.topics] == [
        ("sensors/#", "out", 1, "site1/", "plant/site1/"),
        ("cmd/#", "in", 1, "", "plant/site1/"),
        ("", "both", 2, "a/b", "c/d"),
    ]


def test_the_rules_say_what_the_acl_file_said(site: Path) -> None:
    rules = TopicRules(loads(convert(read(str(site / "mosquitto.conf")), "x").toml).mqtt.acl, "deny")
    alice, roger, other = (Identity(f"dev-{user}", user) for user in ("alice", "roger", "other"))
    for identity, topic, allowed in (
        (alice, "home/light", True),
        (alice, "home/secret/key", False),
        (alice, "up", False),
        (roger, "up", True),
        (roger, "home/light", False),
        (other, "devices/dev-other/up", True),
        (other, "devices/dev-alice/up", False),
        (other, "devices/dev-other/down", False),
        (other, "users/other/x", True),
        (other, "users/alice/x", False),
    ):
        assert rules.check_publish(identity, topic).allowed is allowed, (identity.user, topic)
    assert rules.check_subscribe(other, "devices/dev-other/down").allowed
    assert not rules.check_subscribe(other, "devices/dev-other/up").allowed
    assert not rules.check_subscribe(other, "$SYS/#").allowed
    assert not rules.check_subscribe(alice, "home/#").allowed


def test_the_same_input_gives_the_same_output(site: Path) -> None:
    first, second = (convert(read(str(site / "mosquitto.conf")), "x").toml for _ in range(2))
    assert first == second


def test_what_is_left_out_is_told_with_its_line(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = site / "conf.d" / "20.conf"
    path.write_text("# mine\n\nuser mosquitto\nfrobnicate 5\n")
    code = ctl.main(["import", str(site / "mosquitto.conf")])
    said = capsys.readouterr()
    assert code == 3
    assert f"not carried over: {path}:3: user: the service manager chooses" in said.err
    assert f"not carried over: {path}:4: frobnicate: there is no such setting here" in said.err
    assert f"\n# {path}:4: frobnicate:" in said.out
    loads(said.out)


def test_what_cannot_be_read_is_a_failure(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["import", "/no/such"]) == 1
    assert "cannot read /no/such: No such file" in capsys.readouterr().err
    (site / "bad.conf").write_bytes(b"port 1883\n# \xff\n")
    assert ctl.main(["import", str(site / "bad.conf")]) == 1
    assert "bad.conf:2: expected UTF-8, got byte 0xff" in capsys.readouterr().err
    (site / "bad.conf").write_text("\ninclude_dir /no/such\n")
    assert ctl.main(["import", str(site / "bad.conf")]) == 1
    assert "bad.conf:2: include_dir: cannot read /no/such" in capsys.readouterr().err
    (site / "good.conf").write_text("port 1883\n")
    assert ctl.main(["import", str(site / "good.conf"), "-o", "/no/such/dir/x"]) == 1


def test_directories_that_include_themselves_end(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosquitto_conf, "MAX_FILES", 20)
    (site / "conf.d" / "loop.conf").write_text(f"include_dir {site}/conf.d\n")
    with pytest.raises(ImportFailed, match="at most 20 files"):
        read(str(site / "mosquitto.conf"))


def test_included_files_come_in_mosquittos_order(site: Path) -> None:
    for name in ("b.conf", "A.conf", "a.conf", "B.conf"):
        (site / "conf.d" / name).write_text(f"sys_interval {ord(name[0])}\n")
    entries = [entry for entry in read(str(site / "mosquitto.conf")).broker.entries if entry.key == "sys_interval"]
    assert [chr(int(entry.value)) for entry in entries[1:]] == ["A", "a", "B", "b"]


# ------------------------------------------------------------------ listeners and who may connect


def test_without_a_listener_mosquitto_is_local_and_open() -> None:
    settings = data("")
    assert settings["listeners"][0]["address"] == "127.0.0.1"
    assert settings["authenticators"] == [{"kind": "anonymous", "loopback_only": True}]
    assert "authenticators" not in data("allow_anonymous false")


def test_the_default_listener() -> None:
    (listener,) = data("port 1884\nbind_address 192.0.2.7")["listeners"]
    assert (listener["port"], listener["address"]) == (1884, "192.0.2.7")
    assert [one["port"] for one in data("listener 1\nmax_qos 1\nmax_connections 5")["listeners"]] == [1]
    assert [one["port"] for one in data("max_qos 1\nlistener 1\nmax_qos 1")["listeners"]] == [1883, 1]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("listener 1883", "0.0.0.0"),
        ("listener 1883\nsocket_domain ipv6", "::"),
        ("listener 1883 localhost", "127.0.0.1"),
        ("listener 1883 ::1", "::1"),
        ("listener 1883 broker.example.com", "127.0.0.1"),
        ("listener 1883\nbind_interface eth1", "127.0.0.1"),
        ("listener 1883\nmount_point tenant1/", "127.0.0.1"),
        ("listener 1883\npsk_hint x", "127.0.0.1"),
        ("listener 1883\nprotocol mqttsn", "127.0.0.1"),
    ],
)
def test_where_a_listener_binds(text: str, address: str) -> None:
    """What protected it and is lost leaves it on loopback."""
    assert data(text)["listeners"][0]["address"] == address


def test_listeners_that_cannot_be() -> None:
    assert losses("listener 1883\nlistener 0\nlistener x y\nlistener 70000") == [
        "mosquitto.conf:2: listener: expected a port in 1..65535, got 0",
        "mosquitto.conf:3: listener: expected a port in 1..65535, got x y",
        "mosquitto.conf:4: listener: expected a port in 1..65535, got 70000",
    ]
    assert "left out as a whole" in losses("listener 1883\nlistener 1883")[0]
    with pytest.raises(ImportFailed, match=r"mosquitto\.conf:2: no listener can be carried over"):
        imported("\nlistener 0")
    assert data("listener 7900 127.0.0.1")["control"] == {"port": 7901}


@pytest.mark.parametrize(("listener", "port"), [(1883, 7900), (7900, 7901)])
def test_the_port_that_is_taken_beside_those_of_the_file_is_told(listener: int, port: int) -> None:
    (note,) = [note for note in imported(f"listener {listener} 127.0.0.1").notes if "control API" in note]
    assert f"127.0.0.1:{port}" in note
    assert note in imported(f"listener {listener} 127.0.0.1").toml


def test_a_unix_socket() -> None:
    assert data("listener 0 /run/mosquitto.sock")["listeners"] == [
        {"name": "mqtt-unix", "transport": "unix", "path": "/run/mosquitto.sock", "protocols": ["mqtt"]}
    ]


def test_unreadable_certificates_are_told_and_the_output_still_loads() -> None:
    text = "listener 8883\ncertfile /no/such.pem\nkeyfile /no/such.key"
    assert data(text)["listeners"][0] == {
        "name": "mqtts-8883", "transport": "tls", "address": "0.0.0.0", "port": 8883, "protocols": ["mqtt"],
    }  # fmt: skip
    assert losses(text) == [
        'mosquitto.conf:2: certfile: cannot read "/no/such.pem": No such file or directory; the development certificate'
        " is used"
    ]


def test_client_certificates(site: Path) -> None:
    text = (
        f"listener 8883\ncertfile {site}/server.pem\nkeyfile {site}/server.key\ncafile {site}/ca.pem\n"
        f"require_certificate true\nuse_identity_as_username true\nacl_file {site}/acl\n"
    )
    settings = data(text)
    listener = settings["listeners"][0]
    assert (listener["client_certificates"], listener["client_ca"]) == ("require", f"{site}/ca.pem")
    assert (listener["address"], losses(text)) == ("0.0.0.0", [])
    assert settings["authenticators"] == [{"kind": "certificate"}]
    alice = Identity("alice")
    rules = TopicRules(loads(imported(text).toml).mqtt.acl, "deny")
    assert rules.check_publish(alice, "home/light").allowed
    assert rules.check_publish(alice, "users/alice/x").allowed


@pytest.mark.parametrize("change", ["cafile", "crlfile", "capath"])
def test_a_listener_whose_client_certificates_cannot_be_checked_is_closed(site: Path, change: str) -> None:
    text = f"listener 8883\ncertfile {site}/server.pem\nkeyfile {site}/server.key\nrequire_certificate true\n"
    text += {
        "cafile": "cafile /no/such.pem",
        "crlfile": f"cafile {site}/ca.pem\ncrlfile {site}/crl.pem",
        "capath": f"capath {site}",
    }[change]
    assert data(text)["listeners"][0]["address"] == "127.0.0.1"
    assert any("loopback only" in loss for loss in losses(text))


def test_security_of_each_listener(site: Path) -> None:
    text = (
        f"per_listener_settings true\nlistener 1883\npassword_file {site}/passwd\nallow_anonymous false\n"
        "listener 1884\nallow_anonymous true\n"
    )
    settings = data(text)
    assert [one["address"] for one in settings["listeners"]] == ["0.0.0.0", "127.0.0.1"]
    assert [one["kind"] for one in settings["authenticators"]] == ["file"]
    assert len(losses(text)) == 2
    same = "per_listener_settings true\nlistener 1\nallow_anonymous true\nlistener 2\nallow_anonymous true"
    assert data(same)["authenticators"] == [{"kind": "anonymous"}]
    assert losses(same) == []


def test_files_that_cannot_be_read_open_nothing() -> None:
    settings = data("listener 1883\npassword_file /no/such\nacl_file /no/such")
    assert "authenticators" not in settings
    assert settings["mqtt"]["acl_default"] == "deny"
    assert len(losses("listener 1883\npassword_file /no/such\nacl_file /no/such")) == 2


def test_plugins_are_left_out() -> None:
    found = losses("listener 1883\nplugin /usr/lib/dynsec.so\nplugin_opt_config_file /x.json\nallow_anonymous false")
    assert [loss.split(":")[1] for loss in found] == ["2", "3"]


# ------------------------------------------------------------------ settings of the broker


@pytest.mark.parametrize(
    ("line", "path", "value"),
    [
        ("max_inflight_messages 0", "max_inflight", 65535),
        ("max_packet_size 100000", "max_packet", 100000),
        ("message_size_limit 0", "max_packet", 268435455),
        ("persistent_client_expiration 2h", "max_session_expiry", 7200.0),
        ("retain_available false", "retain_available", False),
        ("auto_id_prefix x-", "assigned_prefix", "x-"),
        ("sys_interval 0", "sys_interval", 0.0),
    ],
)
def test_limits(line: str, path: str, value: Any) -> None:
    assert data(f"listener 1883\nallow_anonymous true\n{line}")["mqtt"][path] == value


def test_limits_that_ask_for_others() -> None:
    settings = loads(imported("listener 1883\nmax_packet_size 16777216").toml)
    assert settings.limits.write_buffer >= 2 * 16777216
    assert settings.mqtt.max_queued_bytes >= 16777216


@pytest.mark.parametrize(
    "line",
    [
        "max_inflight_messages many", "persistent_client_expiration 2", "persistent_client_expiration 0d",
        "retain_available maybe", "max_keepalive 70000", "queue_qos0_messages true", "check_retain_source true",
        "upgrade_outgoing_qos true", "log_type all", "log_dest syslog", "connection_messages 7", "max_qos 3",
        "topic a out", "connection x", "user mosquitto", "auto_id_prefix a/b", "memory_limit 5", "max_packet_size 20", "max_queued_bytes 5",
    ],
)  # fmt: skip
def test_lines_that_are_told(line: str) -> None:
    found = losses(f"listener 1883\n{line}")
    assert len(found) >= 1
    assert found[0].startswith(f"mosquitto.conf:2: {line.split(maxsplit=1)[0]}: ")


def test_logging_and_storage() -> None:
    settings = data("listener 1883\nlog_dest stdout\nconnection_messages false\npersistence false")
    assert settings["log"] == {"access": "-", "connections": False}
    assert settings["store"] == {"kind": "memory"}


# ------------------------------------------------------------------ ACL files


def test_a_client_without_a_user_name_gets_no_more_than_before() -> None:
    acl = parse_acl("topic read public/#\ntopic deny secret\nuser a\ntopic a/#\n", "acl")
    everyone, lost = acl_rules(acl, who="user", anonymous="all")
    assert ([rule.get("user") for rule in everyone], lost) == (["a", None, None], [])
    nobody, lost = acl_rules(acl, who="user", anonymous="none")
    assert ([rule.get("user") for rule in nobody], lost) == (["a"], [])
    some, lost = acl_rules(acl, who="user", anonymous="some")
    assert [(rule.get("user"), rule["permit"]) for rule in some] == [("a", "allow"), (None, "deny")]
    assert [loss.line for loss in lost] == [1, 2]


def test_rules_for_those_who_are_not_let_in_are_named(tmp_path: Path) -> None:
    """They change nothing there either: no loss, but who reads the result looks for them."""
    (tmp_path / "acl").write_text("topic read $SYS/#\n\ntopic b\nuser a\ntopic a/#\n")
    text = f"listener 1883\nallow_anonymous {{}}\nacl_file {tmp_path}/acl\n"
    (note,) = [note for note in imported(text.format("false")).notes if "left out" in note]
    assert note.startswith(f"{tmp_path}/acl, line 1, 3: ")
    assert not [note for note in imported(text.format("true")).notes if "left out" in note]


def test_lines_of_an_acl_that_mean_nothing_here() -> None:
    acl = parse_acl(
        "user\ngrant x\nuser a\ntopic a/#/b\ntopic {device}/x\ntopic deny {device}/x\nuser b*\ntopic b\n", "acl"
    )
    rules, lost = acl_rules(acl, who="user", anonymous="all")
    assert [loss.line for loss in lost] == [1, 2, 6, 4, 5, 8]
    assert rules == [{"permit": "deny", "action": "all", "user": "a", "topics": ["+/x"]}]


def test_a_topic_may_have_spaces_and_an_access_word_as_its_name() -> None:
    acl = parse_acl("topic read my house/#\ntopic read\n", "acl")
    assert [(one.access, one.topic) for one in acl.anonymous] == [("read", "my house/#"), ("readwrite", "read")]


# ------------------------------------------------------------------ bridges


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ("topic # out 1", 2, "left out as a whole: it has no address"),
        ("address h", 2, "left out as a whole: it carries no topics"),
        ("address h\ntopic # sideways", 4, "expected PATTERN"),
        ("address h\ntopic a#", 4, "expected a topic filter, got a#"),
        ('address h\ntopic "a', 4, "expected PATTERN"),
        ("address h\ntopic a out 0 +/ x/", 4, "expected prefixes without wildcards"),
        ("address h\ntopic #\nbridge_insecure true", 5, "a bridge always verifies"),
        ("address h\ntopic #\nbridge_psk 00\nbridge_identity i", 2, "left out as a whole: its TLS would be lost"),
        ("address h h2\ntopic #", 3, "a bridge has one address, h2 is left out"),
        ("address h\ntopic #\nbridge_protocol_version mqttv31", 5, "expected mqttv311 or mqttv50"),
        ("address h\ntopic #\nkeepalive_interval 1", 5, "expected seconds in 5..65535"),
        ("address h\ntopic #\ncleansession maybe", 5, "expected true or false"),
        ("address h\ntopic #\nrestart_timeout 1 2 3", 5, "expected one or two numbers"),
        ("address h\ntopic #\nbridge_certfile /no/such\nbridge_keyfile /no/such", 2, "left out as a whole: mqtt.bridges[0].certificate"),
        ("address h\ntopic #\nconnection c\naddress h\ntopic #", 5, "left out: there is a bridge c already"),
    ],
)  # fmt: skip
def test_bridges_that_are_told(lines: str, line: int, reason: str) -> None:
    text = f"listener 1883\nconnection c\n{lines}"
    assert any(loss.startswith(f"mosquitto.conf:{line}: ") and reason in loss for loss in losses(text)), losses(text)
    data(text)


def test_a_plain_bridge() -> None:
    settings = data("listener 1883\nconnection to the cloud\naddress 192.0.2.1\ntopic a/# both\nrestart_timeout 9")
    assert settings["mqtt"]["bridges"] == [
        {
            "name": "to-the-cloud",
            "address": "192.0.2.1:1883",
            "version": 4,
            "retry_initial": 9.0,
            "retry_max": 9.0,
            "topics": [{"filter": "a/#", "direction": "both", "qos": 0}],
        }
    ]


# ------------------------------------------------------------------ any text

KEYS = [
    *sorted(mosquitto_conf.SECURITY | mosquitto_conf.LISTENER | mosquitto_conf.BRIDGE),
    "listener", "connection", "per_listener_settings", "max_queued_bytes", "max_packet_size", "persistence", "log_dest",
    "message_size_limit", "max_keepalive", "persistent_client_expiration", "max_queued_messages", "persistence_location",
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(["true", "false", "0", "1", "1883", "8883 ::1", "websockets", "a/#", "# both 1 x/ y/", "h:1", '"']),
    st.text(max_size=20),
)
LINES = st.lists(st.tuples(st.sampled_from(KEYS), VALUES).map(" ".join), max_size=15).map("\n".join)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(), LINES))
def test_any_text_gives_a_configuration_that_loads_or_its_own_error(text: str) -> None:
    try:
        result = imported(text)
    except ImportFailed as error:
        assert error.line >= 1
        return
    loads(result.toml)
    assert result.toml == imported(text).toml


@given(st.text(), st.sampled_from(["all", "some", "none"]), st.sampled_from(["user", "device"]))
def test_any_acl_gives_rules_that_load(text: str, anonymous: str, who: str) -> None:
    try:
        acl = parse_acl(text, "acl")
    except ImportFailed as error:
        assert error.line >= 1
        return
    acl_rules(acl, who=who, anonymous=anonymous)


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mosquitto.conf").write_text("listener 1883\n")
    output = tmp_path / "accessgw.toml"
    output.write_text("ours")
    arguments = ["import", str(tmp_path / "mosquitto.conf"), "-o", str(output)]
    assert ctl.main(arguments) == 1
    assert "--force writes over it" in capsys.readouterr().err
    assert output.read_text() == "ours"
    assert ctl.main([*arguments, "--force"]) in (0, 3)
    assert "listeners" in output.read_text()
