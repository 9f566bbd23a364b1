"""Private keys elsewhere: hand-shakes that stop for a signature, go on, fail, and are dropped, on the native engine."""

from __future__ import annotations

import gc
import random
import threading

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from protocols.errors import LocalError, RemoteError
from protocols.signing import ECDSA_DIGEST, RSA_BLOCK
from tests.protocols.tls.native_links import HAS_NATIVE, native_server, without_key
from tests.protocols.tls.tls_links import PSK, Link, client, completed, early, issuer, localhost, plaintext

if not HAS_NATIVE:
    pytest.skip("no native engine here", allow_module_level=True)

from protocols._native import tls_engine
from protocols.tls.engine import HandshakeRefused
from protocols.tls.engines import server_context
from protocols.tls.native_context import key_id
from protocols.tls.server_context import ServerCertificate, ServerOptions

KINDS = ["ec", "rsa"]
INTERNAL_ERROR = 80


def make_signature(certificate, wanted):
    """What a signer makes of a SigningNeeded: the bare operation of the key."""
    key = load_pem_private_key(certificate.key, None)
    assert wanted.key == key_id(certificate.chain)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        assert wanted.algorithm == ECDSA_DIGEST
        digest = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}[len(wanted.data)]
        return key.sign(wanted.data, ec.ECDSA(utils.Prehashed(digest)))
    assert wanted.algorithm == RSA_BLOCK and len(wanted.data) == key.key_size // 8
    numbers = key.private_numbers()
    signature = pow(int.from_bytes(wanted.data, "big"), numbers.d, numbers.public_numbers.n)
    return signature.to_bytes(key.key_size // 8, "big")


def stopped(kind="ec", device=None, **options):
    """A link whose server waits for a signature, and what it waits for."""
    gateway = native_server(certificates=[without_key(localhost(kind))], **options)
    link = Link((device or client()).engine("localhost"), gateway.engine(detachable=True))
    link.device.start()
    link.to_gateway()
    wanted = link.gateway.pending_signature()
    assert wanted is not None
    return link, wanted


@pytest.fixture(autouse=True)
def nothing_is_left():
    gc.collect()
    before = tls_engine.counts()
    yield
    gc.collect()
    assert tls_engine.counts() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_made_elsewhere_completes_the_handshake(kind):
    link, wanted = stopped(kind)
    assert link.gateway.to_send() == b"" and not link.gateway.handshaken
    assert link.gateway.pending_signature() == wanted
    link.gateway.signed(wanted.number, make_signature(localhost(kind), wanted))
    assert link.gateway.pending_signature() is None
    link.moving = ("gateway",)
    link.run_on()
    assert completed(link.gateway_events).version == "TLSv1.3"
    assert completed(link.device_events).peer_chain
    link.gateway.encrypt(b"down")
    link.device.encrypt(b"up")
    link.run_on()
    assert (plaintext(link.gateway_events), plaintext(link.device_events)) == (b"up", b"down")


@pytest.mark.parametrize("kind", KINDS)
def test_tls_1_2_too(kind):
    from OpenSSL import SSL

    device = client(minimum="1.2")
    device.context.set_max_proto_version(SSL.TLS1_2_VERSION)
    link, wanted = stopped(kind, device, minimum="1.2", alpn_below_1_3=frozenset({"mmtp/1"}))
    link.gateway.signed(wanted.number, make_signature(localhost(kind), wanted))
    link.run_on()
    assert completed(link.gateway_events).version == "TLSv1.2"


def test_a_chain_that_fills_openssl_s_buffer_goes_out_whole():
    certificate = localhost("ec")
    long = ServerCertificate(certificate.chain + issuer().pem * 40, b"")
    gateway = native_server(certificates=[long])
    link = Link(client().engine("localhost"), gateway.engine(detachable=True), moving=("gateway",))
    link.device.start()
    link.to_gateway()
    wanted = link.gateway.pending_signature()
    assert link.gateway.to_send() == b""
    link.gateway.signed(wanted.number, make_signature(certificate, wanted))
    link.run_on()
    assert len(link.down) > 10_000
    link.gateway.encrypt(b"hello")
    link.run_on()
    assert plaintext(link.device_events) == b"hello"


def test_the_key_says_nothing_when_it_is_shown():
    _, wanted = stopped()
    assert repr(wanted.data) not in repr(wanted)


@pytest.mark.parametrize("kind", ["p384", "p521"])
def test_other_curves(kind):
    certificate = curve_certificate({"p384": ec.SECP384R1(), "p521": ec.SECP521R1()}[kind])
    gateway = native_server(certificates=[without_key(certificate)])
    link = Link(client(verify=False).engine("localhost"), gateway.engine())
    link.device.start()
    link.to_gateway()
    wanted = link.gateway.pending_signature()
    link.gateway.signed(wanted.number, make_signature(certificate, wanted))
    assert completed(link.run_on().gateway_events)


def curve_certificate(curve):
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from tests.protocols.tls import tls_links

    key = ec.generate_private_key(curve)
    subject = x509.Name([])
    chain = tls_links.Issuer._sign(subject, key, issuer(), names=("localhost",)).public_bytes(Encoding.PEM)
    return ServerCertificate(chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_two_certificates_of_which_one_key_is_here():
    gateway = native_server(certificates=[localhost("ec"), without_key(localhost("rsa"))])
    link = Link(client(signature_algorithms=["ecdsa_secp256r1_sha256"]).engine(), gateway.engine()).run()
    assert completed(link.gateway_events)
    both = ["rsa_pss_rsae_sha256", "ecdsa_secp256r1_sha256"]
    link = Link(client(signature_algorithms=both).engine(), gateway.engine()).run()
    wanted = link.gateway.pending_signature()
    assert wanted.algorithm == RSA_BLOCK
    link.gateway.signed(wanted.number, make_signature(localhost("rsa"), wanted))
    assert completed(link.run_on().gateway_events)


def test_many_wait_at_once_and_are_answered_in_any_order():
    gateway = native_server(certificates=[without_key(localhost("ec"))])
    links = []
    for _ in range(40):
        link = Link(client().engine("localhost"), gateway.engine(detachable=True), moving=("gateway",))
        link.device.start()
        link.to_gateway()
        links.append((link, link.gateway.pending_signature()))
    assert len({wanted.number for _, wanted in links}) == 40
    assert tls_engine.counts()[1] == 40
    random.Random(5).shuffle(links)
    for link, wanted in links:
        link.gateway.signed(wanted.number, make_signature(localhost("ec"), wanted))
    assert tls_engine.counts()[1] == 0
    for number, (link, _) in enumerate(links):
        link.run_on()
        link.gateway.encrypt(b"%d" % number)
        link.run_on()
        assert plaintext(link.device_events) == b"%d" % number
    links.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_no_signature_ends_the_handshake_with_internal_error(kind):
    link, wanted = stopped(kind)
    with pytest.raises(RemoteError, match="no signature: the card is gone") as refusal:
        link.gateway.sign_failed(wanted.number, "the card is gone")
    assert refusal.value.code == INTERNAL_ERROR
    with pytest.raises(RemoteError, match="internal error"):
        link.to_device()
    with pytest.raises(RemoteError, match="the card is gone"):
        link.gateway.feed(b"more")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signature", [b"", b"x" * 4096], ids=["empty", "too long"])
def test_what_cannot_be_a_signature_ends_the_handshake(kind, signature):
    link, wanted = stopped(kind)
    with pytest.raises(RemoteError) as refusal:
        link.gateway.signed(wanted.number, signature)
    assert refusal.value.code == INTERNAL_ERROR


@pytest.mark.parametrize("kind", KINDS)
def test_a_false_signature_is_refused_by_the_client(kind):
    link, wanted = stopped(kind)
    good = make_signature(localhost(kind), wanted)
    link.gateway.signed(wanted.number, good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(RemoteError):
        link.to_device()


def test_an_answer_to_another_question_has_no_effect():
    link, wanted = stopped()
    signature = make_signature(localhost("ec"), wanted)
    link.gateway.signed(wanted.number + 1, signature)
    link.gateway.sign_failed(wanted.number - 1, "no")
    assert link.gateway.pending_signature() == wanted
    link.gateway.signed(wanted.number, signature)
    link.gateway.signed(wanted.number, signature)
    link.gateway.sign_failed(wanted.number, "late")
    assert completed(link.run_on().gateway_events)


def test_bytes_that_come_while_it_waits_are_kept():
    link, wanted = stopped()
    link.gateway.feed(b"\x17\x03\x03\x00\x01")
    assert link.gateway.pending_signature() == wanted
    for act in (lambda: link.gateway.encrypt(b"early"), link.gateway._connection.read):
        with pytest.raises((LocalError, RuntimeError)):
            act()
    with pytest.raises(RemoteError):
        link.gateway.feed_eof()
    link.gateway.signed(wanted.number, make_signature(localhost("ec"), wanted))
    assert link.gateway.events() == [HandshakeRefused()]  # nothing can be asked of a job that is stopped


def test_keys_and_early_data_need_no_signature():
    gateway = native_server(certificates=[without_key(localhost("ec"))])
    device = client().engine("localhost", psk=PSK)
    device.early(b"call")
    link = Link(device, gateway.engine(detachable=True), moving=("gateway",))
    link.device.start()
    link.to_gateway()
    link.gateway.encrypt(b"answer")
    link.run_on()
    assert early(link.gateway_events) == b"call" and plaintext(link.device_events) == b"answer"
    assert completed(link.gateway_events).early == "accepted"


def test_early_data_that_is_refused_needs_one():
    gateway = native_server(certificates=[without_key(localhost("ec"))], find_psk=None)
    device = client().engine("localhost", psk=PSK)
    device.early(b"x" * 3000)
    link = Link(device, gateway.engine())
    link.device.start()
    link.to_gateway()
    wanted = link.gateway.pending_signature()
    link.gateway.signed(wanted.number, make_signature(localhost("ec"), wanted))
    assert completed(link.run_on().gateway_events).early == "refused"


# ------------------------------------------------------------------ dropped while they wait


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_dropped_while_it_waits_leaves_nothing(kind):
    connections, waiting, orphans = tls_engine.counts()
    link, _ = stopped(kind)
    assert tls_engine.counts() == (connections + 1, waiting + 1, orphans)
    link.gateway.close()
    link.gateway = None
    assert tls_engine.counts() == (connections, waiting, orphans)


def on_a_thread(work):
    """The result of `work` on a thread of its own, and the thread, which waits with `ended` for its end."""
    result, more, done = [], threading.Event(), threading.Event()
    later = []

    def run():
        result.append(work())
        done.set()
        more.wait(20)
        later.append(tls_engine.reap())

    thread = threading.Thread(target=run)
    thread.start()
    done.wait(20)

    def end():
        more.set()
        thread.join()
        return later[0]

    return result.pop(), end


def test_only_the_thread_on_which_it_stopped_goes_on():
    (link, wanted), end = on_a_thread(stopped)
    signature = make_signature(localhost("ec"), wanted)
    with pytest.raises(LocalError, match="thread"):
        link.gateway.signed(wanted.number, signature)
    assert link.gateway.pending_signature() == wanted
    del link
    assert tls_engine.counts()[2] == 1
    assert tls_engine.reap() == 0  # not this thread's
    assert end() == 1
    assert tls_engine.counts()[2] == 0


def test_what_another_thread_dropped_goes_with_the_next_step_of_its_own():
    given, taken, left = threading.Event(), threading.Event(), []
    links = []

    def run():
        links.extend(stopped()[0] for _ in range(3))
        given.set()
        taken.wait(20)
        Link(client().engine("localhost"), native_server().engine()).run()
        left.append(tls_engine.counts()[2])

    thread = threading.Thread(target=run)
    thread.start()
    given.wait(20)
    links.clear()
    assert tls_engine.counts()[2] == 3
    taken.set()
    thread.join()
    assert left == [0]


# ------------------------------------------------------------------ contexts


def test_keys_of_other_kinds_cannot_be_elsewhere():
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding

    from tests.protocols.tls import tls_links

    chain = tls_links.Issuer._sign(x509.Name([]), ed25519.Ed25519PrivateKey.generate(), issuer()).public_bytes(
        Encoding.PEM
    )
    with pytest.raises(ValueError, match="Ed25519"):
        native_server(certificates=[ServerCertificate(chain, b"")])


def test_the_pure_engine_says_that_it_cannot():
    options = ServerOptions([without_key(localhost("ec"))])
    with pytest.raises(ValueError, match="native"):
        server_context(options, "pure")
    assert server_context(options).engine()
