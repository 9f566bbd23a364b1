"""What only the native engine has: shared ticket keys, their number, revocation lists, early data refused at will."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from protocols.errors import RemoteError
from protocols.tls.key_schedule import SUITES_BY_NAME
from protocols.tls.server_context import ClientVerification, ServerOptions
from tests.interop.programs import needs
from tests.protocols.tls.minimal_handshake import MinimalClient
from tests.protocols.tls.native_links import HAS_NATIVE, native_server
from tests.protocols.tls.test_openssl_client import Serving, early_file, speak  # noqa: F401  # a fixture
from tests.protocols.tls.tls_links import (
    PSK,
    Issuer,
    Link,
    client,
    completed,
    early,
    issuer,
    localhost,
    plaintext,
    records,
)

if not HAS_NATIVE:
    pytest.skip("no native engine here", allow_module_level=True)

from protocols._native import tls_engine
from protocols.tls.engines import WHY_NOT_NATIVE, server_context
from protocols.tls.native_context import NativeServerContext
from protocols.tls.native_engine import VERSION


def ticket_key():
    return (os.urandom(16), os.urandom(32), os.urandom(32))


# ------------------------------------------------------------------ tickets


def reconnect(speak, tmp_path, first, second, *more):  # noqa: F811
    """s_client's words at its second connection, with the ticket of the first; and what the second server saw."""
    session = tmp_path / "session"
    with Serving(first, True) as serving:
        speak(serving, "-sess_out", session)
    with Serving(second, True) as serving:
        output = speak(serving, "-sess_in", session, *more)
    ((events, _),) = serving.connections
    assert "echo:a line" in output
    return output, completed(events), events


@needs("openssl", "openssl")
def test_a_ticket_is_taken_by_another_context_of_the_same_keys(speak, tmp_path):  # noqa: F811
    keys = [ticket_key(), ticket_key()]
    early_data = ("-early_data", early_file(tmp_path))
    contexts = [native_server(ticket_keys=keys, ticket_early_data=True) for _ in range(2)]
    output, seen, events = reconnect(speak, tmp_path, *contexts, *early_data)
    assert "Reused, TLSv1.3" in output and "Early data was accepted" in output
    assert (seen.resumed, seen.psk_identity, seen.early) == (True, b"", "accepted")
    assert early(events) == b"a call in 0-RTT"


@needs("openssl", "openssl")
def test_a_ticket_lives_for_three_generations_of_keys(speak, tmp_path):  # noqa: F811
    keys = [ticket_key() for _ in range(4)]
    first, second = native_server(ticket_keys=keys[:1]), native_server(ticket_keys=keys[:1])
    for generations, resumed in (([1, 0], True), ([2, 1, 0], True), ([3, 2, 1], False)):
        second.set_ticket_keys([keys[number] for number in generations])
        _, seen, _ = reconnect(speak, tmp_path, first, second)
        assert seen.resumed == resumed


@needs("openssl", "openssl")
def test_without_shared_keys_a_ticket_falls_back(speak, tmp_path):  # noqa: F811
    output, seen, _ = reconnect(speak, tmp_path, native_server(), native_server())
    assert "Reused" not in output and not seen.resumed


def test_a_ticket_names_its_key_and_the_newest_makes_it():
    keys = [ticket_key(), ticket_key(), ticket_key()]
    context = native_server(ticket_keys=keys)
    for newest in (keys[0], keys[2]):
        context.set_ticket_keys([newest, keys[1]])
        hand = MinimalClient()
        engine = context.engine()
        engine.feed(hand.start())
        engine.feed(hand.answer(engine.to_send()))
        ticket = hand.ticket(records(engine.to_send())[0])
        assert ticket.identity.startswith(newest[0])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_tickets(count):
    context = native_server(ticket_count=count)
    engine, hand = context.engine(detachable=True), MinimalClient()
    engine.feed(hand.start())
    engine.feed(hand.answer(engine.to_send()))
    assert len(records(engine.to_send())) == count
    assert engine.detach().write_sequence == count


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([], "1 to 3"),
        ([(b"n" * 16, b"a" * 32, b"h" * 32)] * 4, "1 to 3"),
        ([(b"n" * 15, b"a" * 32, b"h" * 32)], "16, 32 and 32 bytes, got 15"),
        ([(b"n" * 16, b"a" * 16, b"h" * 32)], "got 16, 16"),
    ],
)
def test_ticket_keys_that_cannot_be(keys, words):
    context = native_server()
    with pytest.raises(ValueError, match=words):
        context.set_ticket_keys(keys)


def test_keys_are_rotated_under_load():
    context, stop, wrong = native_server(ticket_keys=[ticket_key()]), threading.Event(), []
    device = client()

    def shake():
        while not stop.is_set():
            try:
                completed(Link(device.engine("localhost"), context.engine()).run().gateway_events)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=shake) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        context.set_ticket_keys([ticket_key() for _ in range(3)])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


# ------------------------------------------------------------------ revocation lists


def revocation_list(authority, *serials):
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject).last_update(now)
    builder = builder.next_update(now + timedelta(days=1))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_revoked_client_certificates_are_refused():
    good, bad = issuer().issue("phone-1"), issuer().issue("phone-2")
    listed = revocation_list(issuer(), x509.load_pem_x509_certificate(bad.chain).serial_number)
    verification = ClientVerification("require", issuer().pem)
    gateway = native_server(clients=verification, tickets=False, revocation_lists=listed)
    assert completed(Link(client(chain=good.chain, key=good.key).engine(), gateway.engine()).run().gateway_events)
    with pytest.raises(RemoteError, match="certificate verify failed") as refusal:
        Link(client(chain=bad.chain, key=bad.key).engine(), gateway.engine()).run()
    assert refusal.value.code == 44  # certificate_revoked
    other = revocation_list(Issuer("others"))
    gateway = native_server(clients=verification, tickets=False, revocation_lists=other)
    with pytest.raises(RemoteError):
        Link(client(chain=good.chain, key=good.key).engine(), gateway.engine()).run()


@pytest.mark.parametrize("authorities", [b"", b"no PEM"])
def test_authorities_that_are_none(authorities):
    with pytest.raises(ValueError, match="authorities"):
        native_server(clients=ClientVerification("require", authorities), tickets=False)


# ------------------------------------------------------------------ early data, refused


def test_early_data_is_refused_at_will_and_the_key_still_serves():
    device = client().engine("localhost", psk=PSK)
    device.early(b"x" * 3000)
    link = Link(device, native_server().engine())
    link.gateway.refuse_early()
    link.run()
    seen = completed(link.gateway_events)
    assert (seen.early, seen.resumed, seen.psk_identity) == ("refused", True, PSK.identity)
    assert completed(link.device_events).early == "refused"
    assert not early(link.gateway_events)


# ------------------------------------------------------------------ the choice, and options


def test_the_choice_of_an_engine():
    options = ServerOptions([localhost()])
    assert WHY_NOT_NATIVE == ""
    assert VERSION.startswith("OpenSSL 3")
    assert isinstance(server_context(options), NativeServerContext)
    assert isinstance(server_context(options, "native"), NativeServerContext)
    assert not isinstance(server_context(options, "pure"), NativeServerContext)
    with pytest.raises(ValueError, match="expected an engine"):
        server_context(options, "fast")


@pytest.mark.parametrize(("accel", "words"), [("pure", "ACCESSGW_ACCEL is pure"), ("auto", "cannot open")])
def test_without_the_library_the_pure_engine_serves_and_says_why(accel, words):
    program = (
        "import protocols._native.tls_engine as native\n"
        "load = native.load\n"
        "native.load = lambda name: load('libssl-that-is-not-there.so')\n"
        "from protocols.tls.engines import WHY_NOT_NATIVE, server_context\n"
        "from tests.protocols.tls.tls_links import localhost\n"
        "from protocols.tls.server_context import ServerOptions\n"
        "print(type(server_context(ServerOptions([localhost()]))).__name__, WHY_NOT_NATIVE)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "ACCESSGW_ACCEL": accel},
    )
    assert done.stdout.startswith("ServerContext ") and words in done.stdout


def test_without_the_extension_it_says_so_too():
    program = (
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name.endswith('tls_engine') else find(name, *more)\n"
        "from protocols.tls.engines import WHY_NOT_NATIVE\nprint(WHY_NOT_NATIVE)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "was not built" in done.stdout


def test_a_library_that_is_too_old_is_refused_with_its_name():
    program = "import protocols._native.tls_engine as native\nnative.load('libc.so.6')\n"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "ImportError: libc.so.6 has no " in done.stderr


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"groups": ["P-256", "P-0"]}, "groups"),
        ({"signature_algorithms": ["md5_by_hand"]}, "signature algorithms"),
        ({"profile": "sm"}, "sm"),
        ({"ticket_count": 0}, "1 to 8 tickets"),
        ({"ticket_count": 9}, "1 to 8 tickets"),
    ],
)
def test_options_that_libssl_refuses(wrong, words):
    with pytest.raises(ValueError, match=words):
        native_server(**wrong)


def test_a_context_in_use_is_not_changed():
    context = native_server()
    context.engine()
    for change in (
        lambda: context.context.set_names([]),
        lambda: context.context.use_certificate(localhost().chain, localhost().key, "", b""),
        lambda: context.context.verify_clients(True, issuer().pem, b"", 4),
    ):
        with pytest.raises(RuntimeError, match="not changed"):
            change()


def test_contexts_of_names_live_as_long_as_connections_need_them():
    context = native_server(by_name={"a.test": [issuer().issue("a.test")]})
    link = Link(client().engine("a.test"), context.engine())
    link.device.start()
    link.to_gateway()
    del context
    gc.collect()
    link.run_on()
    link.gateway.encrypt(b"still here")
    link.run_on()
    assert plaintext(link.device_events) == b"still here"


# ------------------------------------------------------------------ nothing is left over


def test_handshakes_leave_no_memory_behind():
    """Of all kinds, and cut off at each flight."""
    gateway, device = native_server(ticket_keys=[ticket_key()]), client()

    def shake(number):
        one = device.engine("localhost", psk=PSK if number % 3 == 1 else None)
        if number % 3 == 1:
            one.early(b"call")
        link = Link(one, gateway.engine(detachable=number % 2 == 0), moving=("gateway",) if number % 2 == 0 else ())
        link.device.start()
        link.to_gateway()
        if number % 5:
            link.run_on()
        del link

    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    for number in range(300):
        shake(number)
    gc.collect()
    before = resident()
    for number in range(1500):
        shake(number)
    gc.collect()
    assert tls_engine.counts() == (0, 0, 0)
    # What each leaves would be some 20 KB, 30 MB in all.
    assert resident() - before < 3 << 20


# ------------------------------------------------------------------ how secrets are learned


@pytest.mark.parametrize("suite", sorted(SUITES_BY_NAME))
@pytest.mark.parametrize("derive", [True, False])
def test_secrets_are_learned_by_the_derivation_and_without_it_by_the_key_log(derive, suite):
    """In a process of its own, since libssl is loaded once."""
    program = (
        "import sys\n"
        "import protocols._native.tls_engine as native\n"
        f"native.load('libssl.so.3', {derive})\n"
        "from tests.protocols.tls.native_links import native_server\n"
        "from tests.protocols.tls.tls_links import PSK, Link, client\n"
        "lines = []\n"
        f"device = client(suites={suite!r}.encode()).engine('localhost')\n"
        "link = Link(device, native_server(key_log=lines.append).engine(detachable=True), moving=('gateway',)).run()\n"
        "link.gateway.encrypt(b'down')\n"
        "link.device.encrypt(b'up')\n"
        "link.run_on()\n"
        "secret = [line for line in lines if line.startswith(b'SERVER_TRAFFIC_SECRET_0')][0].split()[2].decode()\n"
        "device, stays = client().engine('localhost'), native_server().engine()\n"
        "device.start()\n"
        "stays.feed(device.to_send())\n"
        "print(native.derives(), stays.only_finished_left, link.gateway.state.write_secret.hex() == secret,\n"
        "      link.device_events[-1].data, link.gateway_events[-1].data)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    expected = derive and VERSION.startswith("OpenSSL 3.0.")
    assert done.stdout.strip() == f"{expected} True True b'down' b'up'", done.stderr


@pytest.mark.parametrize("group", ["X25519", "P-384", "P-521", "ffdhe8192"])
@pytest.mark.parametrize("suite", sorted(SUITES_BY_NAME))
def test_shared_secrets_may_be_shorter_and_longer_than_a_digest_and_its_block(group, suite):
    psk = PSK if suite.endswith("SHA256") else None
    device = client(groups=[group], suites=suite.encode()).engine("localhost", psk=psk)
    link = Link(device, native_server(groups=[group]).engine(detachable=True), moving=("gateway",)).run()
    link.gateway.encrypt(b"down")
    link.device.encrypt(b"up")
    link.run_on()
    assert link.gateway.state is not None
    assert (link.device_events[-1].data, link.gateway_events[-1].data) == (b"down", b"up")
