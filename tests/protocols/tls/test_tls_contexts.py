"""Contexts from options: certificates of two kinds, names, algorithms, client certificates, stapling, SM, threads."""

from __future__ import annotations

import gc
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from protocols.errors import RemoteError
from protocols.tls.client_context import ClientContext, ClientOptions
from protocols.tls.server_context import ClientVerification, ServerCertificate, ServerContext, ServerOptions
from tests.protocols.tls.tls_links import (
    PSK,
    Issuer,
    Link,
    client,
    completed,
    early,
    issuer,
    localhost,
    make_key,
    plaintext,
    server,
)


@pytest.fixture(scope="module")
def two_kinds():
    """An RSA and an ECDSA certificate of two intermediates."""
    return [Issuer(f"{kind} intermediate", issuer()).issue("localhost", kind) for kind in ("ec", "rsa")]


def chain_seen(gateway, **options):
    link = Link(client(**options).engine("localhost"), gateway.engine()).run()
    return [x509.load_der_x509_certificate(one) for one in completed(link.device_events).peer_chain]


@pytest.mark.parametrize(
    ("algorithms", "kind"),
    [
        (["rsa_pss_rsae_sha256"], rsa.RSAPublicKey),
        (["ecdsa_secp256r1_sha256"], ec.EllipticCurvePublicKey),
        (["rsa_pss_rsae_sha256", "ecdsa_secp256r1_sha256"], rsa.RSAPublicKey),
        (["ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256"], ec.EllipticCurvePublicKey),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_client_s_algorithms_choose_among_two_certificates(two_kinds, algorithms, kind, turned):
    gateway = server(certificates=two_kinds[::-1] if turned else two_kinds)
    # Certificates are signed by ECDSA keys, which the client has to take as well.
    chain = chain_seen(gateway, signature_algorithms=[*algorithms, "ecdsa_secp256r1_sha256"])
    assert isinstance(chain[0].public_key(), kind)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_each_certificate_brings_its_own_chain_and_no_other(two_kinds, kind):
    gateway = server(certificates=two_kinds)
    first = {"ec": "ecdsa_secp256r1_sha256", "rsa": "rsa_pss_rsae_sha256"}[kind]
    device = client(signature_algorithms=[first, "ecdsa_secp256r1_sha256"]).engine("localhost")
    Link(device, gateway.engine()).run()
    sent = device._connection.get_peer_cert_chain(as_cryptography=True)
    names = [one.subject.rfc4514_string() for one in sent]
    assert names == ["CN=localhost", f"CN={kind} intermediate"]


def test_authorities_of_clients_do_not_lengthen_the_server_s_own_chain():
    """They would in each hand-shake: OpenSSL verifies what it finds, and sends the root as well."""
    gateway = server(clients=ClientVerification("request", issuer().pem), tickets=False)
    device = client().engine("localhost")
    Link(device, gateway.engine()).run()
    assert len(device._connection.get_peer_cert_chain(as_cryptography=True)) == 1


def test_protocols_with_tickets_of_their_own_get_none_of_openssl_s(server_engine):
    if server_engine == "pure":
        pytest.skip("pyOpenSSL cannot say how many tickets a connection gets")
    gateway = server(alpn=["mmtp/1", "http/1.1"], ticketless=frozenset({"mmtp/1"}))
    for alpn, psk, there in (("mmtp/1", None, False), ("mmtp/1", PSK, False), ("http/1.1", None, True)):
        link = Link(client(alpn=[alpn]).engine("localhost", psk=psk), gateway.engine(detachable=True)).run()
        assert completed(link.gateway_events).resumed is (psk is not None)
        flight = len(link.down)
        # what follows the client's Finished
        link.gateway.encrypt(b"hello")
        link.run_on()
        assert plaintext(link.device_events) == b"hello"
        counted = link.gateway.detach()
        assert counted is not None
        assert (counted.write_sequence > 1) is there
        assert flight


def steps(device, gateway):
    """What the server's engine says of what is left, after each flight of the client."""
    device.start()
    said = [gateway.only_finished_left]
    while not gateway.handshaken:
        gateway.feed(device.to_send())
        said.append(gateway.only_finished_left)
        device.feed(gateway.to_send())
    return said


@pytest.mark.parametrize(
    ("options", "groups", "said"),
    [
        ({}, (), [False, True, True]),
        # A second ClientHello has to be signed for yet.
        ({"groups": ["P-256"]}, ("X25519", "P-256"), [False, False, True, True]),
        ({"clients": ClientVerification("request", issuer().pem), "tickets": False}, (), [False, False, False]),
    ],
    ids=["full", "another group", "a certificate"],
)
def test_when_only_the_client_s_finished_is_left(options, groups, said, server_engine):
    device = client(groups=groups).engine("localhost")
    assert steps(device, server(**options).engine(detachable=True)) == said


def test_over_tls_1_2_the_last_step_needs_the_private_key_perhaps():
    gateway = server(minimum="1.2", alpn=["http/1.1"], alpn_below_1_3=frozenset({"http/1.1"})).engine(detachable=True)
    old = client(minimum="1.2", alpn=["http/1.1"])
    old.context.set_max_proto_version(SSL.TLS1_2_VERSION)
    assert not any(steps(old.engine("localhost"), gateway))


def test_the_server_s_pinned_algorithms_leave_only_one(two_kinds):
    gateway = server(certificates=two_kinds, signature_algorithms=["ecdsa_secp256r1_sha256"])
    chain = chain_seen(gateway, signature_algorithms=["rsa_pss_rsae_sha256", "ecdsa_secp256r1_sha256"])
    assert isinstance(chain[0].public_key(), ec.EllipticCurvePublicKey)
    with pytest.raises(RemoteError):
        chain_seen(gateway, signature_algorithms=["rsa_pss_rsae_sha256"])


@pytest.mark.parametrize(
    ("groups", "name"), [(["P-256"], "secp256r1"), (["X25519MLKEM768", "X25519"], "X25519MLKEM768")]
)
def test_groups_are_pinned(groups, name, server_engine):
    if server_engine != "pure" and "MLKEM" in name:
        pytest.skip("libssl.so.3 knows it from 3.5 on")
    link = Link(client(groups=[*groups, "P-384"]).engine("localhost"), server(groups=groups).engine()).run()
    assert completed(link.gateway_events).group.lower() == completed(link.device_events).group.lower() == name.lower()
    with pytest.raises(RemoteError):
        Link(client(groups=["P-521"]).engine(), server(groups=groups).engine()).run()


def test_by_default_no_large_shares_are_sent():
    device = client().engine("localhost")
    device.start()
    assert len(device.to_send()) < 350


@pytest.mark.parametrize(
    ("asked", "shown"),
    [("a.test", "a.test"), ("A.TEST", "a.test"), ("x.b.test", "*.b.test"), ("b.test", "localhost"), ("", "localhost")],
)
def test_certificates_by_name(asked, shown):
    gateway = server(by_name={name: [issuer().issue(name)] for name in ("a.test", "*.b.test")})
    link = Link(client().engine(asked), gateway.engine(detachable=True)).run()
    leaf = x509.load_der_x509_certificate(completed(link.device_events).peer_chain[0])
    assert leaf.subject.rfc4514_string() == f"CN={shown}"
    assert completed(link.gateway_events).server_name.lower() == asked.lower()
    assert link.gateway.detach() is not None  # the key log works in each context


def test_contexts_that_were_replaced_serve_their_connections_to_the_end():
    """A reload drops them while hand-shakes are under way; a HelloRetryRequest calls the first one's callbacks again."""
    gateway = server(by_name={"a.test": [issuer().issue("a.test")]}, groups=["P-256"])
    link = Link(client().engine("a.test", psk=PSK), gateway.engine(detachable=True))
    del gateway
    gc.collect()
    link.device.start()
    link.to_gateway()
    gc.collect()
    link.run()
    seen = completed(link.gateway_events)
    assert (seen.server_name, seen.psk_identity, seen.alpn) == ("a.test", PSK.identity, "mmtp/1")


def test_an_address_is_no_server_name():
    for address in ("127.0.0.1", "::1"):
        link = Link(client().engine(address), server().engine()).run()
        assert completed(link.gateway_events).server_name == ""


def test_a_stapled_response_is_the_one_of_the_certificate_that_was_chosen():
    # OCSPResponse of a status alone: malformedRequest and internalError. OpenSSL parses what it staples.
    kinds = {"ec": b"\x30\x03\x0a\x01\x01", "rsa": b"\x30\x03\x0a\x01\x02"}
    gateway = server(certificates=[issuer().issue("localhost", kind, response) for kind, response in kinds.items()])
    for kind, algorithm in (("ec", "ecdsa_secp256r1_sha256"), ("rsa", "rsa_pss_rsae_sha256")):
        seen = []
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_ocsp_client_callback(lambda connection, response, data, seen=seen: seen.append(response) or True)
        from protocols.tls import binding
        from protocols.tls.pyopenssl_engine import PyOpenSSLEngine

        binding.set_signature_algorithms(context, [algorithm])
        device = PyOpenSSLEngine(context, server=False)
        device._connection.request_ocsp()
        Link(device, gateway.engine()).run()
        assert seen == [kinds[kind]]


def test_client_certificates_are_verified():
    mine, foreign = issuer().issue("phone-1"), Issuer("others").issue("phone-1")
    for mode in ("request", "require"):
        gateway = server(clients=ClientVerification(mode, issuer().pem), tickets=False)
        link = Link(client(chain=mine.chain, key=mine.key).engine(), gateway.engine()).run()
        seen = completed(link.gateway_events)
        assert seen.peer_certificate == x509.load_pem_x509_certificate(mine.chain).public_bytes(Encoding.DER)
        assert [one == seen.peer_certificate for one in seen.peer_chain] == [True, False]
        with pytest.raises(RemoteError, match="certificate verify failed"):
            Link(client(chain=foreign.chain, key=foreign.key).engine(), gateway.engine()).run()
    link = Link(client().engine(), server(clients=ClientVerification("request", issuer().pem), tickets=False).engine())
    assert completed(link.run().gateway_events).peer_certificate == b""


def test_a_client_refuses_a_server_of_another_root_and_can_be_told_not_to():
    gateway = server(certificates=[Issuer("others").issue()])
    with pytest.raises(RemoteError) as refusal:
        Link(client().engine("localhost"), gateway.engine()).run()
    assert refusal.value.code == 48
    with pytest.raises(RemoteError):
        Link(client(authorities=None).engine("localhost"), server().engine()).run()
    seen = completed(Link(client(verify=False).engine("localhost"), gateway.engine()).run().device_events)
    assert seen.peer_certificate == b"" and seen.peer_chain == ()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"certificates": []}, "certificate"),
        ({"minimum": "1.1"}, "1.1"),
        ({"profile": "export"}, "export"),
        ({"clients": ClientVerification("maybe")}, "maybe"),
        ({"clients": ClientVerification("request")}, "tickets"),
        ({"ticket_early_data": True, "tickets": False}, "tickets"),
        ({"max_early_data": 16385}, "16384"),
    ],
)
def test_options_that_contradict_each_other(wrong, words):
    with pytest.raises(ValueError, match=words):
        server(**wrong)


def test_a_key_of_another_certificate_is_refused():
    mixed = ServerCertificate(localhost().chain, issuer().issue().key)
    with pytest.raises((SSL.Error, crypto.Error, ValueError)):
        server(certificates=[mixed])
    server()  # and nothing of it is left for the next call on this thread


def test_an_encrypted_key_asks_nobody_for_its_passphrase():
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat

    pem = make_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises((SSL.Error, crypto.Error, ValueError)):
        server(certificates=[ServerCertificate(localhost().chain, pem)])


def sm_certificate(tmp_path):
    """Made with OpenSSL's program, since the cryptography package has no SM2 keys."""
    from tests.interop.programs import run

    key, chain = tmp_path / "sm2-key.pem", tmp_path / "sm2.pem"
    run("openssl", "genpkey", "-algorithm", "SM2", "-out", key)
    made = run("openssl", "req", "-x509", "-new", "-key", key, "-sm3", "-subj", "/CN=localhost", "-out", chain)
    if made.returncode:
        pytest.skip(f"openssl makes no SM2 certificate here: {made.stderr.decode()[-200:]}")
    return ServerCertificate(chain.read_bytes(), key.read_bytes())


def test_the_sm_profile_speaks_rfc_8998(tmp_path):
    certificate = sm_certificate(tmp_path)
    gateway = ServerContext(ServerOptions([certificate], alpn=["mmtp/1"], profile="sm"))
    device = ClientContext(ClientOptions(certificate.chain, alpn=["mmtp/1"], profile="sm"))
    link = Link(device.engine("localhost", detachable=True), gateway.engine(detachable=True)).run()
    seen = completed(link.gateway_events)
    assert (seen.cipher, seen.group) == ("TLS_SM4_GCM_SM3", "curveSM2")
    assert len(completed(link.device_events).peer_chain) == 1
    assert link.gateway.detach() is None  # no record layer of ours for it
    link.device.encrypt(b"up")
    link.gateway.encrypt(b"down")
    link.run_on()
    assert (plaintext(link.gateway_events), plaintext(link.device_events)) == (b"up", b"down")
    with pytest.raises(RemoteError):
        Link(client().engine(), gateway.engine()).run()


def test_handshakes_of_many_threads_do_not_mix():
    """Refusals, keys and secrets stay with their connection when one context serves many threads at once."""
    lines, lock = [], threading.Lock()

    def log(line):
        with lock:
            lines.append(line)

    gateway, good, bad = server(key_log=log), client(), client(alpn=["imap"])
    wrong: list[object] = []

    def work(number):
        for turn in range(12):
            if (number + turn) % 3 == 0:
                link = Link(bad.engine("localhost"), gateway.engine())
                try:
                    link.run()
                    wrong.append("not refused")
                except RemoteError as refusal:
                    if refusal.code != 120:
                        wrong.append(refusal)
                continue
            psk = PSK if (number + turn) % 3 == 1 else None
            try:
                word = b"%d of %d" % (turn, number)
                device = good.engine("localhost", psk=psk)
                if psk is not None:
                    device.early(word)
                link = Link(device, gateway.engine(detachable=True), moving=("gateway",)).run()
                link.gateway.encrypt(word)
                link.run_on()
                seen = completed(link.gateway_events)
                told = (seen.resumed, plaintext(link.device_events), early(link.gateway_events))
                if told != (psk is not None, word, word if psk else b""):
                    wrong.append(seen)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # One server application secret for each hand-shake that was not refused, none twice.
    secrets = [line.split()[1:] for line in lines if line.startswith(b"SERVER_TRAFFIC_SECRET_0")]
    assert len(secrets) == len({tuple(one) for one in secrets}) == 6 * 8
