"""A listener of the profile sm (RFC 8998): SM2 certificates made by OpenSSL's program, our own client on the other side."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from accessgw.crypto.client_certificates import ClientCertificates
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.development import ensure_development_certificate
from accessgw.crypto.pem import CertificateError
from accessgw.model.listener_settings import CertificateSettings
from protocols.errors import RemoteError
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.engine import HandshakeCompleted, PlaintextReceived
from tests.reactor_loop import run
from tests.transports.support import Journal, echo_factories, listen, make_services

ID = ("-sigopt", "distid:1234567812345678")
"""The identity that signers of certificates have (GM/T 0009); the program has none of its own accord."""


def openssl(*command: object) -> None:
    made = subprocess.run(["openssl", *map(str, command)], capture_output=True, timeout=30, check=False)
    if made.returncode:
        pytest.skip(f"openssl makes no SM2 certificates here: {made.stderr.decode()[-200:]}")


@pytest.fixture(scope="module")
def sm(tmp_path_factory) -> Path:
    """A folder with ca.pem, server.pem, device.pem and their keys, all of SM2 with SM3."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here (Debian package openssl)")
    folder = tmp_path_factory.mktemp("sm")
    for name in ("ca", "server", "device"):
        openssl("genpkey", "-algorithm", "SM2", "-out", folder / f"{name}-key.pem")
    openssl(
        "req",
        "-x509",
        "-new",
        "-key",
        folder / "ca-key.pem",
        "-sm3",
        "-subj",
        "/CN=SM2 CA",
        *ID,
        "-out",
        folder / "ca.pem",
    )
    for name, usage in (("server", "serverAuth"), ("device", "clientAuth")):
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        extensions.write_text(f"extendedKeyUsage={usage}\nsubjectAltName=DNS:localhost\n")
        openssl("req", "-new", "-key", folder / f"{name}-key.pem", "-sm3", "-subj", f"/CN={name}", *ID, "-out", request)
        openssl(
            "x509", "-req", "-in", request, "-CA", folder / "ca.pem", "-CAkey", folder / "ca-key.pem", "-sm3",
            *ID, "-vfyopt", ID[1], "-CAcreateserial", "-days", 5, "-extfile", extensions, "-out", folder / f"{name}.pem",
        )  # fmt: skip
    return folder


def talk(port: int, options: ClientOptions) -> tuple[str, str, bytes]:
    """Cipher, group and the echo that a client of ours gets; the words of the error instead."""
    engine = ClientContext(options).engine("localhost")
    engine.start()
    seen, answer = None, b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        try:
            sock.sendall(engine.to_send())
            while not answer:
                data = sock.recv(65536)
                if not data:
                    engine.feed_eof()
                    return "", "ended", b""
                engine.feed(data)
                for event in engine.events():
                    if isinstance(event, HandshakeCompleted):
                        seen = event
                        engine.encrypt(b"x" * 70_000)
                    elif isinstance(event, PlaintextReceived):
                        answer += event.data
                sock.sendall(engine.to_send())
            while len(answer) < 70_000:
                engine.feed(sock.recv(65536))
                answer += b"".join(one.data for one in engine.events() if isinstance(one, PlaintextReceived))
        except (RemoteError, OSError) as error:
            with contextlib.suppress(OSError):
                sock.sendall(engine.to_send())
            return "", str(error), b""
    assert seen is not None
    return seen.cipher, seen.group, answer


async def both_profiles(reactor, folder, state):
    made = ensure_development_certificate(state, time.time(), "localhost")
    authorities = Path(f"{folder}/ca.pem").read_bytes()
    certificate, key = Path(f"{folder}/device.pem").read_bytes(), Path(f"{folder}/device-key.pem").read_bytes()
    clients = {
        "sm": ClientOptions(authorities, alpn=("mqtt",), profile="sm"),
        "sm with a certificate": ClientOptions(
            authorities, alpn=("mqtt",), profile="sm", chain=certificate, key=key
        ),
        "default": ClientOptions(Path(made.ca).read_bytes(), alpn=("mqtt",)),
    }  # fmt: skip
    seen = {}
    for profile, chain, private, mode in (
        ("sm", f"{folder}/server.pem", f"{folder}/server-key.pem", "off"),
        ("sm", f"{folder}/server.pem", f"{folder}/server-key.pem", "require"),
        ("default", made.chain, made.key, "off"),
    ):
        journal = Journal()
        services = make_services(reactor, journal)
        contexts = ServerContexts(
            [CertificateSettings(chain=chain, key=private)],
            ("mqtt",),
            clients=ClientCertificates(mode, f"{folder}/ca.pem" if mode != "off" else ""),
            options=ContextOptions(name=profile, profile=profile),
        )
        factories = echo_factories(journal, ("mqtt",))
        listener = listen(services, journal, contexts, factories, transport="tls", protocols=("mqtt",))
        for name, options in clients.items():
            cipher, group, answer = await deferToThread(talk, listener.port, options)
            seen[profile, mode, name] = (cipher, group, len(answer))
        await journal.all_closed(len(clients))
        seen[profile, mode] = (
            services.tls.detached,
            services.tls.kept,
            [info.certificate_identity for info in journal.opened],
            [(str(entry[0]), entry[1]) for entry in journal.closed if str(entry[0]) == "handshake_failed"],
        )
        await listener.stop()
    return seen


@pytest.fixture(scope="module")
def seen(sm, tmp_path_factory):
    return run(both_profiles, str(sm), str(tmp_path_factory.mktemp("state")))


def test_sm_speaks_rfc_8998_and_its_records_stay_with_openssl(seen):
    assert seen["sm", "off", "sm"] == ("TLS_SM4_GCM_SM3", "curveSM2", 70_000)
    detached, kept, identities, _ = seen["sm", "off"]
    assert (detached, kept) == (0, 2)
    assert identities == ["", ""]


def test_sm2_client_certificates_name_the_device(seen):
    assert seen["sm", "require", "sm with a certificate"][0] == "TLS_SM4_GCM_SM3"
    _, _, identities, refused = seen["sm", "require"]
    assert identities == ["device"]
    assert any("peer did not return a certificate" in why for _, why in refused)


def test_the_profiles_refuse_each_other(seen):
    assert seen["sm", "off", "default"][2] == 0 and seen["default", "off", "sm"][2] == 0
    for profile in ("sm", "default"):
        reasons = seen[profile, "off"][3]
        assert reasons, profile
        assert all(why.startswith("alert ") for _, why in reasons), reasons


def test_others_are_detached(seen):
    assert seen["default", "off", "default"][1:] == ("x25519", 70_000)
    assert seen["default", "off"][:2] == (1, 0)


def test_keys_and_certificates_that_do_not_fit_are_refused(sm, tmp_path):
    made = ensure_development_certificate(str(tmp_path), time.time(), "localhost")
    options = ContextOptions(profile="sm")
    with pytest.raises(CertificateError, match=r"OpenSSL refuses it: [^(\[]+$"):
        ServerContexts(
            [CertificateSettings(chain=str(sm / "server.pem"), key=str(sm / "device-key.pem"))],
            ["mqtt"],
            options=options,
        )
    with pytest.raises(CertificateError, match=r'is not supported \(a certificate of SM2 needs profile = "sm"\)$'):
        ServerContexts([CertificateSettings(chain=str(sm / "server.pem"), key=str(sm / "server-key.pem"))], ["mqtt"])
    assert made.chain
