"""MQTT's bytes through OpenSSL's own client: ALPN, sniffing, TLS 1.2, client certificates."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.crypto.authority import Authority
from tests.interop.mqtt_place import Place
from tests.interop.programs import needs

pytestmark = needs("openssl", "openssl")

PINGREQ, PINGRESP, DISCONNECT = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def connect(name: str, password: str | None = "alice-token", *, version: int = 4) -> bytes:
    """CONNECT with a clean session, written out by hand (3.1 of both standards)."""
    flags = 0x02 | (0xC0 if password is not None else 0)
    body = text("MQTT") + bytes((version, flags)) + b"\x00\x3c" + (b"\x00" if version == 5 else b"") + text(name)
    if password is not None:
        body += text("anybody") + text(password)
    return bytes((0x10, len(body))) + body


def talk(place: Place, port: int, data: bytes, *options: object, until: bytes) -> bytes:
    """What comes back, until it ends with `until` or the other side closes."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-CAfile", place.ca,
               "-verify_return_error", "-quiet", "-no_ign_eof", *options]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data)
        process.stdin.flush()
        came = b""
        while not came.endswith(until) or not came:
            more = process.stdout.read1(65536)  # type: ignore[attr-defined]
            if not more:
                break
            came += more
        return came
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    ("door", "options"),
    [
        ("shared", ("-alpn", "mqtt")),
        ("shared", ()),
        ("shared", ("-alpn", "mqtt", "-tls1_2")),
        ("mqtts", ("-alpn", "mqtt")),
        ("mqtts", ("-tls1_2",)),
    ],
)
def test_connack_and_pingresp(mqtt_place: Place, door: str, options: tuple[str, ...], version: int) -> None:
    name = f"openssl-{door}{version}"
    came = talk(
        mqtt_place, getattr(mqtt_place, door), connect(name, version=version) + PINGREQ, *options, until=PINGRESP
    )
    assert came.endswith(PINGRESP), came
    assert came[0] == 0x20 and came[2:4] == b"\x00\x00"
    assert came[1] == len(came) - 4
    if version == 4:
        assert len(came) == 6


def test_a_refused_password(mqtt_place: Place) -> None:
    assert talk(mqtt_place, mqtt_place.mqtts, connect("x", "wrong"), until=b"no end") == b"\x20\x02\x00\x04"
    came = talk(mqtt_place, mqtt_place.mqtts, connect("x", "wrong", version=5), until=b"no end")
    assert came[:1] == b"\x20" and came[2:4] == b"\x00\x86", came


def test_an_unknown_version(mqtt_place: Place) -> None:
    came = talk(mqtt_place, mqtt_place.mqtts, connect("x", version=6), until=b"no end")
    assert came in (b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00")


@pytest.mark.parametrize("options", [(), ("-tls1_2",), ("-alpn", "mqtt")])
def test_a_certificate_is_who_the_device_is(mqtt_place: Place, options: tuple[str, ...]) -> None:
    issued = mqtt_place.devices.issue("sensor-1")
    keys = ("-cert", issued.chain, "-key", issued.key, *options)
    hello = connect("sensor-1", None) + PINGREQ
    assert talk(mqtt_place, mqtt_place.certified, hello, *keys, until=PINGRESP) == b"\x20\x02\x00\x00" + PINGRESP
    other = talk(mqtt_place, mqtt_place.certified, connect("sensor-2", None), *keys, until=b"no end")
    assert other[:3] == b"\x20\x02\x00" and other[3] in (4, 5), other


def test_no_certificate_or_one_of_another_authority_gets_no_answer(mqtt_place: Place, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").issue("sensor-1")
    for keys in ((), ("-cert", stranger.chain, "-key", stranger.key)):
        assert talk(mqtt_place, mqtt_place.certified, connect("sensor-1", None), *keys, until=b"no end") == b""
