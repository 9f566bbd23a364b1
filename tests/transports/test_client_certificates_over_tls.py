"""Listeners that ask for client certificates, with openssl s_client and Python's ssl as clients."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from hashlib import sha256
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from accessgw.crypto.client_certificates import ClientCertificates
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.development import ensure_development_certificate
from accessgw.crypto.revocations import RevocationStore
from accessgw.model.listener_settings import CertificateSettings
from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority
from tests.reactor_loop import run
from tests.transports.support import Journal, echo_factories, listen, make_services, outcome, play

ENGINES = ("pure",) if WHY_NOT_NATIVE else ("pure", "native")
OPENSSL = shutil.which("openssl")


def begin(reactor, state, authority, mode, rule="cn", engine="pure", revoked=b""):
    journal = Journal()
    services = make_services(reactor, journal)
    files = ensure_development_certificate(state, time.time(), "gateway.test")
    clients = ClientCertificates(mode, authority, rule)
    store = RevocationStore(Path(state, "revoked-" + engine))
    if revoked:
        store.revoke_certificate(sha256(revoked).digest(), time.time())
        store.poll(time.time())
    options = ContextOptions(name=mode, revocations=store, engine=engine)
    certificate = CertificateSettings(chain=files.chain, key=files.key)
    contexts = ServerContexts([certificate], ("mqtt",), clients=clients, options=options)
    factories = echo_factories(journal, ("mqtt",))
    return journal, services, listen(services, journal, contexts, factories, transport="tls", protocols=("mqtt",))


def speak(port, state, issued=None, version=ssl.TLSVersion.TLSv1_3):
    """What an echo says, empty when the connection is ended instead."""
    context = ssl.create_default_context(cafile=state + "/ca.pem")
    context.minimum_version = context.maximum_version = version
    if issued is not None:
        context.load_cert_chain(issued.chain, issued.key)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"x")
            return tls.recv(1)
    except OSError:
        return b""


async def modes(reactor, state, ca, issued):
    seen = []
    for mode in ("off", "request", "require"):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for certificate in (None, *issued):
                journal, services, listener = begin(reactor, state, ca, mode)
                answer = await deferToThread(speak, listener.port, state, certificate, version)
                await journal.all_closed()
                identities = [info.certificate_identity for info in journal.opened]
                failures = services.counters.handshake_failures
                reason = journal.reasons[0] if failures else ""
                seen.append((mode, answer, identities, failures, reason))
                await listener.stop()
    return seen


def test_modes(played):
    """With no certificate, a good one, a stranger's, and one without a name."""
    good, refused = (b"x", [""], 0, ""), (b"", [], 1, "handshake_failed")
    named = (b"x", ["device-1"], 0, "")
    seen = outcome(played, "modes")
    expected = {
        "off": [good, good, good, good],
        "request": [good, named, refused, good],
        "require": [refused, named, refused, refused],
    }
    for mode, results in expected.items():
        assert [tuple(rest) for m, *rest in seen if m == mode] == results * 2, mode


async def sessions(reactor, state, ca, issued):
    journal, _, listener = begin(reactor, state, ca, "require")
    file = state + "/session.pem"

    def s_client(version, *args):
        command = [
            OPENSSL, "s_client", "-connect", f"127.0.0.1:{listener.port}", "-CAfile", state + "/ca.pem", version,
            "-cert", issued[0].chain, "-key", issued[0].key, "-ign_eof", *args,
        ]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        process.stdin.write(b"ping\n")
        process.stdin.flush()
        out = b""
        while b"ping" not in out and (data := process.stdout.read1()):
            out += data
        process.stdin.close()
        process.terminate()
        out += process.stdout.read()
        process.wait(10)
        return out.decode(errors="replace")

    seen = []
    for version in ("-tls1_2", "-tls1_3"):
        Path(file).unlink(missing_ok=True)
        seen.append(await deferToThread(s_client, version, "-sess_out", file))
        # TLS 1.2 leaves no session behind at all, 1.3 one that the server does not know.
        again = ("-sess_in", file) if Path(file).exists() else ()
        seen.append(await deferToThread(s_client, version, *again))
    await journal.all_closed(4)
    return seen, [info.certificate_identity for info in journal.opened]


@pytest.mark.skipif(not OPENSSL, reason="openssl is not installed")
def test_a_client_certificate_is_verified_at_every_connection(played):
    """A session ticket would outlive the certificate in it."""
    seen, identities = outcome(played, "sessions")
    assert identities == ["device-1"] * 4
    for text in seen:
        assert "Acceptable client certificate CA names" in text and "devices-ca" in text, text
        assert "Reused, " not in text and "New, TLSv1." in text, text


async def refusals(reactor, state, ca, issued):
    good, _, nameless = issued
    seen = {}
    for engine in ENGINES:
        journal, _, listener = begin(reactor, state, ca, "require", engine=engine, revoked=good.der)

        def s_client(certificate, version, port=listener.port):
            command = [
                OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", state + "/ca.pem", version,
                "-cert", certificate.chain, "-key", certificate.key, "-ign_eof", "-msg",
            ]  # fmt: skip
            done = subprocess.run(command, input=b"", capture_output=True, check=False, timeout=30)
            return (done.stdout + done.stderr).decode(errors="replace")

        for version in ("-tls1_2", "-tls1_3"):
            for name, certificate in (("revoked", good), ("nameless", nameless)):
                seen[engine, version, name] = await deferToThread(s_client, certificate, version)
        await journal.all_closed(4)
    return seen


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.skipif(not OPENSSL, reason="openssl is not installed")
def test_who_is_refused_hears_why(played, engine):
    seen = outcome(played, "refusals")
    for name, alert in (("revoked", "certificate revoked"), ("nameless", "bad certificate")):
        said = seen[engine, "-tls1_3", name]
        assert f"alert {alert}" in said, said
        alerts = [line for line in said.splitlines() if line.startswith("<<<") and "Alert" in line]
        assert [line.split("], ")[-1] for line in alerts] == [f"fatal {alert.replace(' ', '_')}"], alerts
        # OpenSSL has no other way to refuse after a hand-shake.
        assert "close_notify" in seen[engine, "-tls1_2", name]


async def everything(reactor, state, ca, issued):
    return await play(
        {
            "modes": modes(reactor, state, ca, issued),
            **({"sessions": sessions(reactor, state, ca, issued)} if OPENSSL else {}),
            **({"refusals": refusals(reactor, state, ca, issued)} if OPENSSL else {}),
        }
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    directory = tmp_path_factory.mktemp("state")
    ensure_development_certificate(str(directory), time.time(), "gateway.test")
    authority = Authority(directory, "devices-ca")
    issued = [
        authority.issue("device-1"),
        Authority(directory, "strangers").issue("device-2"),
        authority.issue("nameless", common=()),
    ]
    return run(everything, str(directory), authority.file, issued)
