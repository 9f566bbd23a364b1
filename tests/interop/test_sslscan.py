"""What Debian's scanner says of the listener of a running gateway: no weak version, cipher or group, no known hole."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from tests.interop.programs import needs, run
from tests.system.gateway_process import Gateway

SUITES = {
    "TLSv1.3": {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"},
    # the development certificate has an ECDSA key; each suite has a fresh key, and authenticates what it encrypts
    "TLSv1.2": {"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"},
}
GROUPS = {"0x001d": "X25519", "0x0017": "P-256", "0x0018": "P-384"}


@needs("sslscan", "sslscan")
def test_sslscan_finds_no_weakness(gateway: Gateway) -> None:
    done = run("sslscan", "--xml=-", "--sni-name=localhost", f"127.0.0.1:{gateway.tls}", timeout=120)
    scan = ElementTree.fromstring(done.stdout.decode()).find("ssltest")
    assert scan is not None, done.stdout
    versions = {one.attrib["type"] + one.attrib["version"]: one.attrib["enabled"] for one in scan.iter("protocol")}
    assert versions == {"ssl2": "0", "ssl3": "0", "tls1.0": "0", "tls1.1": "0", "tls1.2": "1", "tls1.3": "1"}
    suites: dict[str, set[str]] = {}
    for one in scan.iter("cipher"):
        suites.setdefault(one.attrib["sslversion"], set()).add(one.attrib["cipher"])
        assert one.attrib["strength"] in ("acceptable", "strong")
        assert int(one.attrib["bits"]) >= 128
    assert suites == SUITES
    groups = {one.attrib["id"] for one in scan.iter("group")}
    assert groups
    assert groups <= set(GROUPS)
    holes = [one.attrib for one in scan.iter("heartbleed")]
    assert holes
    assert all(one["vulnerable"] == "0" for one in holes)
    renegotiation = scan.find("renegotiation")
    assert renegotiation is not None
    assert renegotiation.attrib["supported"] == "0"
    gateway.assert_sound()
