"""mosquitto's own clients against the gateway: every version, QoS, door and option that operators use."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.interop.mqtt_place import Place
from tests.interop.programs import needs, run
from tests.system.gateway_process import PATIENCE

pytestmark = [needs(f"mosquitto_{name}", "mosquitto-clients") for name in ("pub", "sub", "rr")]

VERSIONS = ("mqttv31", "mqttv311", "mqttv5")
WHO = ("-u", "anybody", "-P", "alice-token")
FORMAT = r'{"topic": "%t", "qos": %q, "retain": %r, "text": "%p"}'
FORMAT_5 = r'{"topic": "%t", "qos": %q, "text": "%p", "type": "%C", "user": "%P", "response": "%R", "data": "%D"}'


def at(port: int) -> tuple[object, ...]:
    return ("-h", "127.0.0.1", "-p", port, *WHO)


def publish(place: Place, topic: str, text: str, *more: object, version: str = "mqttv5", port: int = 0) -> None:
    done = run("mosquitto_pub", *at(port or place.mqtt), "-V", version, "-t", topic, "-m", text, *more)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


def listen(place: Place, *more: object, port: int = 0, version: str = "mqttv5", shape: str = FORMAT) -> list[str]:
    command = ("mosquitto_sub", *at(port or place.mqtt), "-V", version, "-W", round(PATIENCE), "-F", shape, *more)
    return list(map(str, command))


@contextmanager
def listening(
    place: Place, name: str, *filters: str, options: tuple[object, ...] = (), port: int = 0, version: str = "mqttv5",
    shape: str = FORMAT,
) -> Iterator[subprocess.Popen[str]]:  # fmt: skip
    """mosquitto_sub with its subscriptions made."""
    topics = [part for one in filters for part in ("-t", one)]
    command = listen(place, "-i", name, *topics, *options, port=port, version=version, shape=shape)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        place.subscribed(name, *filters)
        yield process
    finally:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    """What it printed until its end, which must be a good one."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (out, err)
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_publish_and_subscribe(mqtt_place: Place, version: str, qos: int) -> None:
    name = f"s{version}{qos}"
    with listening(mqtt_place, name, f"{name}/+", version=version, options=("-q", qos, "-C", 3)) as process:
        for sent in (0, 1, 2):
            publish(mqtt_place, f"{name}/{sent}", f"温度 {sent}", "-q", sent, version=version)
        assert heard(process) == [
            {"topic": f"{name}/{sent}", "qos": min(sent, qos), "retain": 0, "text": f"温度 {sent}"}
            for sent in (0, 1, 2)
        ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_retained_message_is_kept_sent_and_removed(mqtt_place: Place, version: str) -> None:
    topic = f"kept/{version}"
    publish(mqtt_place, topic, "21.5", "-r", "-q", "1", version=version)
    done = run(*listen(mqtt_place, "-t", "kept/+", "-t", topic, "-C", 1, "-q", 1, version=version))
    assert json.loads(done.stdout) == {"topic": topic, "qos": 1, "retain": 1, "text": "21.5"}
    publish(mqtt_place, topic, "", "-r", version=version)
    again = run(*listen(mqtt_place, "-t", topic, "-E", version=version))
    assert (again.returncode, again.stdout) == (0, b"")
    assert mqtt_place.gateway.http("GET", f"/v1/mqtt/retained?filter={topic}", token="t-read")[1]["retained"] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_will_of_a_client_that_is_killed(mqtt_place: Place, version: str) -> None:
    watcher, dying = f"watcher-{version}", f"dying-{version}"
    will = ("--will-topic", f"wills/{dying}", "--will-payload", "别了 gone", "--will-qos", 1, "--will-retain")
    with listening(mqtt_place, watcher, f"wills/{dying}", options=("-q", 1, "-C", 1), version=version) as process:
        with listening(mqtt_place, dying, "nothing", options=will, version=version) as other:
            other.kill()
        assert heard(process) == [{"topic": f"wills/{dying}", "qos": 1, "retain": 0, "text": "别了 gone"}]
    with listening(mqtt_place, dying, "nothing", options=will, version=version) as other:
        other.terminate()
        other.wait(PATIENCE)
    retained = mqtt_place.gateway.http("GET", "/v1/mqtt/retained?filter=wills/%2B", token="t-read")[1]["retained"]
    assert f"wills/{dying}" in [one["topic"] for one in retained]


@pytest.mark.parametrize("version", VERSIONS)
def test_messages_wait_for_a_persistent_session(mqtt_place: Place, version: str) -> None:
    name = f"away-{version}"
    session = ("-i", name, "-c", "-q", 2, "-t", f"{name}/#")
    assert run(*listen(mqtt_place, *session, "-E", version=version)).returncode == 0
    mqtt_place.connected(name, False)
    for number in range(5):
        publish(mqtt_place, f"{name}/{number}", f"{number}", "-q", number % 3, version=version)
    done = run(*listen(mqtt_place, *session, "-C", 3, version=version))
    got = [json.loads(line) for line in done.stdout.splitlines()]
    # the client hands out a message of QoS 2 with its PUBREL, maybe after later ones of QoS 1
    assert sorted((one["text"], one["qos"]) for one in got) == [("1", 1), ("2", 2), ("4", 1)], "QoS 0 is not kept"
    mqtt_place.connected(name, False)
    assert mqtt_place.client(name)["queued"] == 0


def test_a_message_waits_through_a_kill(mqtt_place: Place) -> None:
    """Not one that mosquitto's client was told to be safe is lost with the process."""
    session = ("-i", "patient", "-c", "-q", 1, "-t", "patient/#")
    assert run(*listen(mqtt_place, *session, "-E")).returncode == 0
    publish(mqtt_place, "patient/1", "one", "-q", 1)
    publish(mqtt_place, "patient/2", "two", "-q", 2)
    mqtt_place.gateway.kill()
    mqtt_place.gateway.start()
    done = run(*listen(mqtt_place, *session, "-C", 2))
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["one", "two"], done.stderr


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@pytest.mark.parametrize(
    ("door", "options"),
    [
        ("mqtts", ()),
        ("mqtts", ("--tls-alpn", "mqtt")),
        ("mqtts", ("--tls-version", "tlsv1.2")),
        ("shared", ("--tls-alpn", "mqtt")),
        ("shared", ()),
    ],
)
def test_tls(mqtt_place: Place, version: str, door: str, options: tuple[str, ...]) -> None:
    port = getattr(mqtt_place, door)
    name = f"tls-{uuid.uuid4().hex}"
    tls = ("--cafile", mqtt_place.ca, *options)
    with listening(mqtt_place, name, name, port=port, version=version, options=("-C", 1, *tls)) as process:
        publish(mqtt_place, name, "x" * 30_000, *tls, "-q", 1, version=version, port=port)
        assert heard(process)[0]["text"] == "x" * 30_000


def test_a_client_that_does_not_know_our_authority_stays_away(mqtt_place: Place) -> None:
    done = run("mosquitto_pub", *at(mqtt_place.mqtts), "--cafile", mqtt_place.devices.file, "-t", "a", "-m", "b")
    assert done.returncode != 0
    assert b"TLS error" in done.stderr or b"certificate" in done.stderr, done.stderr


def test_a_client_certificate_names_the_device(mqtt_place: Place) -> None:
    """Neither user nor password: the certificate is enough, and only for its own device."""
    issued = mqtt_place.devices.issue("meter-7")
    door = ("-h", "127.0.0.1", "-p", mqtt_place.certified, "--cafile", mqtt_place.ca, "-V", "mqttv5")
    certificate = ("--cert", issued.chain, "--key", issued.key)
    message = ("-t", "certified/meter-7", "-m", "17.5", "-q", 1, "-r")
    done = run("mosquitto_pub", *door, *certificate, "-i", "meter-7", *message)
    assert (done.returncode, done.stderr) == (0, b"")
    other = run("mosquitto_pub", *door, *certificate, "-i", "meter-8", *message)
    assert other.returncode != 0
    assert b"bad user name or password" in other.stderr.lower(), other.stderr
    assert run("mosquitto_pub", *door, "-i", "meter-7", *message).returncode != 0


@pytest.mark.parametrize("version", VERSIONS)
def test_user_name_and_password(mqtt_place: Place, version: str) -> None:
    door = ("-h", "127.0.0.1", "-p", mqtt_place.mqtt, "-V", version, "-t", "a", "-m", "b")
    assert run("mosquitto_pub", *door, "-u", "anybody", "-P", "device-token").returncode == 0
    for credentials in (("-u", "anybody", "-P", "wrong"), ()):
        done = run("mosquitto_pub", *door, *credentials)
        assert done.returncode != 0
        assert b"bad user name or password" in done.stderr.lower(), done.stderr


def test_a_topic_rule_refuses(mqtt_place: Place) -> None:
    done = run("mosquitto_pub", *at(mqtt_place.mqtt), "-V", "mqttv5", "-t", "forbidden/x", "-m", "y", "-q", 1)
    assert b"Not authorized" in done.stderr
    done = run(*listen(mqtt_place, "-t", "forbidden/#", "-E"))
    assert b"All subscription requests were denied" in done.stderr


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_members_of_a_group_share_messages(mqtt_place: Place, version: str) -> None:
    shared = f"$share/workers/jobs/{version}"
    count = 20
    with (
        listening(mqtt_place, f"one-{version}", shared, options=("-q", 1, "-C", count // 2), version=version) as one,
        listening(mqtt_place, f"two-{version}", shared, options=("-q", 1, "-C", count // 2), version=version) as two,
    ):
        text = "\n".join(map(str, range(count))).encode()
        sent = run(
            "mosquitto_pub", *at(mqtt_place.mqtt), "-V", version, "-t", f"jobs/{version}", "-q", 1, "-l", data=text
        )
        assert sent.returncode == 0
        got = [[int(str(one["text"])) for one in heard(process)] for process in (one, two)]
    assert sorted(got[0] + got[1]) == list(range(count))
    assert [sorted(part) for part in got] == got, "each member gets its part in order"


def test_properties_arrive_as_they_were_sent(mqtt_place: Place) -> None:
    given = (
        ("content-type", "application/json"), ("response-topic", "answers/here"), ("correlation-data", "no-7"),
        ("user-property", "单位", "kWh"), ("payload-format-indicator", 1), ("message-expiry-interval", 60),
    )  # fmt: skip
    options = [part for one in given for part in ("-D", "publish", *one)]
    with listening(mqtt_place, "properties", "properties", options=("-C", 1), shape=FORMAT_5) as process:
        publish(mqtt_place, "properties", "1", *options)
        (got,) = heard(process)
    assert got == {
        "topic": "properties", "qos": 0, "text": "1", "type": "application/json", "user": "单位:kWh",
        "response": "answers/here", "data": "no-7",
    }  # fmt: skip


def test_properties_of_a_connection_and_a_will(mqtt_place: Place) -> None:
    """Receive maximum, session expiry, topic aliases of a publisher; a will's content type and user property."""
    options = (
        "-D", "connect", "receive-maximum", 1, "-x", 300, "-D", "connect", "user-property", "a", "b",
        "-D", "subscribe", "user-property", "c", "d", "-c", "-q", 2, "-C", 50,
    )  # fmt: skip
    with listening(mqtt_place, "one-at-a-time", "burst", options=options) as process:
        text = "\n".join(map(str, range(50))).encode()
        command = ("mosquitto_pub", *at(mqtt_place.mqtt), "-V", "mqttv5", "-t", "burst", "-q", 2, "-l")
        alias = ("-D", "publish", "topic-alias", 3)
        assert run(*command, *alias, data=text).returncode == 0
        assert [one["text"] for one in heard(process)] == [str(n) for n in range(50)]
    will = ("--will-topic", "wills/5", "--will-payload", "w", "-D", "will", "content-type", "text/plain",
            "-D", "will", "user-property", "why", "test")  # fmt: skip
    with listening(mqtt_place, "will-5", "wills/5", options=("-C", 1), shape=FORMAT_5) as process:
        with listening(mqtt_place, "dying-5", "nothing", options=will) as other:
            other.kill()
        (got,) = heard(process)
    assert (got["type"], got["user"], got["text"]) == ("text/plain", "why:test", "w")


def test_sys_topics(mqtt_place: Place) -> None:
    wanted = ("$SYS/broker/version", "$SYS/broker/clients/connected", "$SYS/broker/uptime")
    topics = [part for one in wanted for part in ("-t", one)]
    done = run(*listen(mqtt_place, *topics, "-C", 3))
    got = {one["topic"]: one["text"] for one in map(json.loads, done.stdout.splitlines())}
    assert set(got) == set(wanted), done
    assert got["$SYS/broker/version"].startswith("accessgw ")
    assert got["$SYS/broker/clients/connected"].isdigit()
    assert got["$SYS/broker/uptime"].endswith(" seconds")
    assert len(run(*listen(mqtt_place, "-t", "$SYS/#", "-C", 20)).stdout.splitlines()) == 20
    everything = run(*listen(mqtt_place, "-t", "#", "-t", "marker", "-W", 1, "--retained-only"))
    assert b"$SYS" not in everything.stdout, "a wildcard alone does not cover topics that begin with $"


def test_a_call_by_request_and_response(mqtt_place: Place) -> None:
    """mosquitto_rr calls a service: MQTT 5's Response Topic, and the reply topic of 3.1.1."""
    call = ("mosquitto_rr", *at(mqtt_place.mqtt), "-i", "caller", "-q", 1, "-W", round(PATIENCE), "-m", '{"amount": 1}')
    done = run(*call, "-V", "5", "-t", "$call/payments.pay", "-e", "answers/caller", "-D", "publish", "correlation-data", uuid.uuid4().hex)  # fmt: skip
    assert json.loads(done.stdout) == {"you sent": 13, "path": "/payments.pay", "device": "caller"}, done.stderr
    number = uuid.uuid4().hex
    done = run(*call, "-V", "311", "-t", f"$call/payments.pay/{number}", "-e", f"$reply/{number}")
    assert json.loads(done.stdout) == {"you sent": 13, "path": "/payments.pay", "device": "caller"}, done.stderr


def test_a_push_arrives_as_a_message(mqtt_place: Place) -> None:
    for version in VERSIONS:
        name = f"pushed-{version}"
        with listening(mqtt_place, name, "anything", options=("-C", 1), version=version) as process:
            mqtt_place.gateway.push({"device": name}, {"text": "shipped 已发货"})
            out, _ = process.communicate(timeout=PATIENCE)
        assert '"topic": "$push/orders"' in out
        assert "\\u5df2\\u53d1\\u8d27" in out, "its bytes are those of the request"


def test_a_newer_connection_takes_the_session_over(mqtt_place: Place) -> None:
    with listening(mqtt_place, "twin", "twin", options=("-d",)) as first:
        with listening(mqtt_place, "twin", "twin", "second", options=("-C", 1)) as second:
            publish(mqtt_place, "twin", "for the newer one")
            assert [one["text"] for one in heard(second)] == ["for the newer one"]
        out, _ = first.communicate(timeout=PATIENCE)
    assert "Received DISCONNECT (142)" in out, out


def test_many_filters_and_unsubscribing(mqtt_place: Place) -> None:
    topics = [f"many/{n}/+" for n in range(100)]
    with listening(mqtt_place, "many", *topics, options=("-C", 100, "-U", "many/200/+")) as process:
        for n in (0, 50, 99):
            publish(mqtt_place, f"many/{n}/x", "first", "-q", 1)
        lines = b"\n".join(b"more" for _ in range(97))
        run("mosquitto_pub", *at(mqtt_place.mqtt), "-t", "many/7/x", "-q", 1, "-l", data=lines)
        assert len(heard(process)) == 100
