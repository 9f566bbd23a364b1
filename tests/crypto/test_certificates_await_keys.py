"""Where private keys are elsewhere a certificate comes into force once its key is there, and not before."""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from twisted.internet.testing import MemoryReactorClock

from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.pem import CertificateError
from accessgw.crypto.signers.build import LOOKS, STARTING, Signing
from accessgw.crypto.signers.child import SignerChild
from accessgw.crypto.signers.overlap import KEEP
from accessgw.model.counters import TlsCounters
from accessgw.model.listener_settings import CertificateSettings
from accessgw.model.tls_settings import TlsSettings
from protocols.signing import SigningConnection
from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority
from tests.crypto.certificates import self_signed
from tests.crypto.revoking import response, write

if WHY_NOT_NATIVE:
    pytest.skip(f"no native engine: {WHY_NOT_NATIVE}", allow_module_level=True)


class Keys:
    """A KeysElsewhere that has those whose ids a test says."""

    def __init__(self, *ids):
        self.ids = set(ids)

    def has_key_of(self, leaf, path):
        public = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(public).hexdigest() in self.ids


class Served:
    """Contexts under a clock of the test."""

    def __init__(self, *certificates, keys):
        self.now = time.time()
        options = ContextOptions(name="tls", engine="native", keys_elsewhere=keys)
        self.contexts = ServerContexts(certificates, ["mqtt"], wall=lambda: self.now, options=options)

    def seconds(self, count):
        looks = []
        for _ in range(count):
            self.now += 1.0
            looks.append(self.contexts.poll(self.now))
        return any(looks)

    @property
    def leaves(self):
        """In force: the PEM of each chain."""
        return [one.pem.chain for one in self.contexts.certificates()[0]]

    @property
    def staples(self):
        return [one.pem.ocsp_response for one in self.contexts.certificates()[0]]

    def id_of(self, number=0):
        """Of the key that waits."""
        return self.contexts.certificates()[1][number].key_id


def end_of(settings, served):
    return served.contexts.expires_at()[settings.chain]


@pytest.fixture
def renewed(tmp_path):
    """Two certificates and another for each of them: (settings, the PEM of the new chain)."""
    pairs = []
    for name in ("one", "two"):
        settings = self_signed(tmp_path, name, names=[name])
        new = self_signed(tmp_path, f"new-{name}", lifetime=timedelta(days=2))
        pairs.append((settings, Path(new.chain).read_bytes()))
    return pairs


def test_a_chain_waits_for_its_key_and_is_in_force_within_a_second_of_it(renewed, logged):
    ((settings, new), _) = renewed
    keys = Keys()
    served = Served(settings, keys=keys)
    old, end = Path(settings.chain).read_bytes(), end_of(settings, served)
    Path(settings.chain).write_bytes(new)
    assert served.seconds(20)
    assert (served.leaves, end_of(settings, served)) == ([old], end)
    assert logged() == [
        f"listener tls: THE CERTIFICATE IN {settings.chain} WAITS FOR THE SIGNER TO HAVE ITS KEY"
        f" (id {served.id_of()}), the one before it stays in force"
    ]
    served.contexts.prepare()()  # a reload changes nothing about it
    assert served.leaves == [old] and not served.seconds(5) and len(logged()) == 1
    keys.ids.add(served.id_of())
    assert served.seconds(1) and not served.seconds(5)
    assert served.leaves == [new] and served.contexts.certificates()[1] == []
    assert end_of(settings, served) != end and len(logged()) == 1


def test_a_key_that_was_there_first_is_no_news(renewed, logged):
    ((settings, new), _) = renewed
    keys = Keys()
    served = Served(settings, keys=keys)
    Path(settings.chain).write_bytes(new)
    assert served.seconds(2)  # its signer is told of it now
    keys.ids.add(served.id_of())
    assert served.seconds(1) and served.leaves == [new] and logged() == []


def test_each_certificate_of_a_listener_waits_for_its_own_key(renewed):
    (first, new_first), (second, new_second) = renewed
    old_second = Path(second.chain).read_bytes()
    keys = Keys()
    served = Served(first, second, keys=keys)
    Path(first.chain).write_bytes(new_first)
    Path(second.chain).write_bytes(new_second)
    assert served.seconds(2)
    keys.ids.add(served.id_of(0))
    assert served.seconds(1) and served.leaves == [new_first, old_second]
    keys.ids.add(served.id_of(0))
    assert served.seconds(1) and served.leaves == [new_first, new_second]


def test_a_certificate_with_the_key_of_the_one_before_does_not_wait(tmp_path):
    authority = Authority(tmp_path, "ca")
    issued = authority.issue("localhost")
    settings = CertificateSettings(chain=issued.chain)
    served = Served(settings, keys=Keys())
    longer = Path(issued.chain).read_bytes() + Path(authority.file).read_bytes()
    Path(settings.chain).write_bytes(longer)
    assert served.seconds(2) and served.leaves == [longer]


def test_a_chain_that_waits_and_is_then_damaged_or_taken_back_is_forgotten(renewed, logged):
    ((settings, new), _) = renewed
    keys = Keys()
    served = Served(settings, keys=keys)
    old = Path(settings.chain).read_bytes()
    Path(settings.chain).write_bytes(new)
    served.seconds(3)
    keys.ids.add(served.id_of())
    Path(settings.chain).write_bytes(b"damaged")
    assert not served.seconds(5) and served.leaves == [old]
    assert "CERTIFICATE REFUSED" in logged()[1] and len(logged()) == 2
    Path(settings.chain).write_bytes(old)
    assert served.seconds(2) and served.leaves == [old] and len(logged()) == 2


def test_the_response_of_the_one_in_force_is_dropped_when_it_ends_though_its_file_is_for_another(tmp_path):
    authority = Authority(tmp_path, "ca")
    issued, new = authority.issue("localhost"), authority.issue("new")
    path = write(tmp_path / "ocsp.der", response(authority, issued.der, days=2.0))
    first = Path(path).read_bytes()
    settings = CertificateSettings(chain=issued.chain, ocsp=path)
    served = Served(settings, keys=Keys())
    Path(settings.chain).write_bytes(Path(new.chain).read_bytes())
    second = response(authority, new.der, days=9.0)
    write(path, second)
    assert served.seconds(3) and served.staples == [first]
    served.now += 3 * 86_400.0
    assert served.seconds(1) and served.staples == [b""]
    served.contexts._options.keys_elsewhere.ids.add(served.id_of())
    assert served.seconds(1) and served.staples == [second]


def of_ed25519():
    """The PEM of a certificate."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "one")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, None).public_bytes(Encoding.PEM)


class Child(SignerChild):
    """Counts what it is told."""

    reloads = 0
    kills = 0

    def kill(self):
        self.kills += 1

    def reload(self):
        self.reloads += 1


class Process:
    """Signing on a reactor in memory, and the signer that a test plays."""

    child: Child

    def __init__(self, settings, directory, **more):
        self.reactor = MemoryReactorClock()
        self.reactor.callFromThread = self.reactor.callLater  # nothing is signed
        tls = TlsSettings(signer="process", **more)
        self.signing = Signing(tls, [settings], state_dir=str(directory), reactor=self.reactor, counters=TlsCounters())
        self.signing.child = self.child = Child([], self.reactor)
        self.signing.process.start()
        self.link = self.reactor.unixClients[-1][1].buildProtocol(None)
        self.link.transport = self
        self.far = SigningConnection(signer=True)

    def write(self, data):
        """What is asked is not looked at."""

    def offer(self, *ids):
        self.far.hello(frozenset(ids))
        self.link.dataReceived(self.far.to_send())

    def look(self, served):
        """As the gateway does every second."""
        self.reactor.advance(1.0)
        if served.seconds(1):
            self.signing.reload(*served.contexts.certificates())
        self.signing.poll()


def test_the_process_is_told_when_a_chain_waits_and_when_its_key_has_come(renewed, tmp_path, logged):
    ((settings, new), _) = renewed
    process = Process(settings, tmp_path)
    served = Served(settings, keys=process.signing)
    old_id = served.contexts.certificates()[0][0].key_id
    process.offer(old_id)
    process.look(served)
    assert process.child.reloads == 0
    Path(settings.chain).write_bytes(new)
    for _ in range(3):
        process.look(served)
    assert process.child.reloads == 1  # the key might have come before
    process.offer(old_id)
    process.look(served)
    assert len(logged()) == 1 and "WAITS FOR THE SIGNER" in logged()[0]
    Path(settings.key).write_bytes((tmp_path / "new-one-key.pem").read_bytes())
    for _ in range(3):
        process.look(served)
    assert process.child.reloads == 2
    process.offer(old_id, served.id_of())
    process.look(served)
    assert served.leaves == [new] and not process.signing.process.lacks_keys
    assert process.child.reloads == 2 and len(logged()) == 1


def test_a_process_that_does_not_serve_half_a_minute_after_its_start_is_ended(renewed, tmp_path, logged):
    ((settings, _), _) = renewed
    process = Process(settings, tmp_path)
    process.reactor.spawnProcess = lambda *_, **__: None
    process.reactor.advance(20.0)
    process.child.start()
    process.reactor.advance(STARTING - 1)
    process.signing.poll()
    assert process.child.kills == 0
    for _ in range(LOOKS):
        assert process.child.kills == 0
        process.reactor.advance(1.0)
        process.signing.poll()
    assert process.child.kills == 1 and "does not serve 30 s after its start" in logged()[-1]
    process.child.start()
    process.signing.poll()
    process.signing.process.greeted(process.link)
    process.reactor.advance(2 * STARTING)
    process.signing.poll()
    assert process.child.kills == 1


def test_a_gateway_that_was_stopped_itself_does_not_end_the_process(renewed, tmp_path):
    ((settings, _), _) = renewed
    process = Process(settings, tmp_path)
    process.reactor.spawnProcess = lambda *_, **__: None
    process.child.start()
    for _ in range(LOOKS):
        process.reactor.advance(2 * STARTING)
        process.signing.poll()  # before the reactor has heard of anything
        process.signing.process.greeted(process.link)
        process.signing.poll()
        process.signing.process.lost("it was stopped, too")
    assert process.child.kills == 0


def test_a_chain_whose_key_nobody_can_read_is_refused_at_a_start(tmp_path):
    settings = self_signed(tmp_path, "localhost")
    der = x509.load_pem_x509_certificate(Path(settings.chain).read_bytes()).public_bytes(Encoding.DER)
    # a curve that there is not
    damaged = der.replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f"))
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(damaged) + b"-----END CERTIFICATE-----\n"
    Path(settings.chain).write_bytes(pem)
    with pytest.raises(CertificateError, match=f"{settings.chain}: its key cannot be used: "):
        Process(settings, tmp_path)


def test_a_chain_whose_kind_of_key_no_signer_has_is_refused(tmp_path, logged):
    settings = self_signed(tmp_path, "one")
    process = Process(settings, tmp_path)
    served = Served(settings, keys=process.signing)
    old = served.leaves
    Path(settings.chain).write_bytes(of_ed25519())
    assert not served.seconds(3) and served.leaves == old
    assert "signers have RSA and EC keys, this is Ed25519PublicKey" in logged()[0] and len(logged()) == 1


def test_a_fallback_has_keys_of_its_own_and_loads_them_again(renewed, tmp_path):
    ((settings, new), _) = renewed
    process = Process(settings, tmp_path, signer_fallback=True)
    served = Served(settings, keys=process.signing)
    old_id = served.contexts.certificates()[0][0].key_id
    process.offer()  # a process that has nothing
    Path(settings.chain).write_bytes(new)
    for _ in range(2):
        process.look(served)
    new_id = served.id_of()
    Path(settings.key).write_bytes((tmp_path / "new-one-key.pem").read_bytes())
    for _ in range(3):
        process.look(served)
    assert served.leaves == [new]
    software = process.signing._software
    assert software.has({new_id, old_id})
    process.reactor.advance(KEEP)
    process.look(served)
    assert software.has({new_id}) and not software.has({old_id})
    process.signing._software.stop()
