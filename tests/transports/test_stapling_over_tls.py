"""OCSP stapling as openssl s_client sees it, while the file is replaced under a listener that serves."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.threads import deferToThread

from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.model.listener_settings import CertificateSettings
from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority
from tests.crypto.revoking import response, write
from tests.reactor_loop import run
from tests.transports.support import Journal, echo_factories, listen, make_services

OPENSSL = shutil.which("openssl")


def ask(port: int, version: str) -> str:
    command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", "-status", "-alpn", "mqtt", version]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)
    return done.stdout.decode(errors="replace")


async def stapled(reactor, folder, engine):
    authority = Authority(Path(folder), "root").intermediate("ca")
    issued = authority.issue("localhost", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    other = authority.issue("other", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    staple = write(f"{folder}/ocsp.der", response(authority, issued.der))
    settings = CertificateSettings(chain=issued.chain, key=issued.key, ocsp=staple)
    journal = Journal()
    services = make_services(reactor, journal)
    contexts = ServerContexts([settings], ("mqtt",), options=ContextOptions(engine=engine))
    factories = echo_factories(journal, ("mqtt",))
    listener = listen(services, journal, contexts, factories, transport="tls", protocols=("mqtt",))
    seen = [await deferToThread(ask, listener.port, version) for version in ("-tls1_2", "-tls1_3")]
    for content in (response(authority, other.der), response(authority, issued.der, days=2.0)):
        write(staple, content)
        swapped = [contexts.poll(time.time()) for _ in range(2)]
        assert swapped == [False, True]
        seen.append(await deferToThread(ask, listener.port, "-tls1_3"))
    await journal.all_closed(4)
    await listener.stop()
    return seen


@pytest.mark.skipif(not OPENSSL, reason="no openssl here (Debian package openssl)")
@pytest.mark.parametrize("engine", ["pure", "native"])
def test_s_client_gets_a_good_response_and_none_that_is_wrong(tmp_path, engine):
    if engine == "native" and WHY_NOT_NATIVE:
        pytest.skip(f"no native engine here: {WHY_NOT_NATIVE}")
    old, new, wrong, renewed = run(stapled, str(tmp_path), engine)
    for text in (old, new, renewed):
        assert "OCSP Response Status: successful (0x0)" in text
        assert "Cert Status: good" in text
    assert "OCSP response: no response sent" in wrong and "BEGIN CERTIFICATE" in wrong
