"""Signatures in software and in batches, on threads: right ones, refusals, bounds."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from accessgw.core.interfaces.tls import SigningFailed
from accessgw.crypto.pem import CertificateError
from accessgw.crypto.signers.backend import Job, Refused, SoftwareBackend
from accessgw.crypto.signers.batching import SigningThreads
from accessgw.crypto.signers.libcrypto import LibcryptoError, PrivateKey, load_provider
from accessgw.crypto.signers.multibuffer import (
    LANES,
    WORTH_IT,
    MultiBufferBackend,
    MultiBufferUnavailable,
    load_lanes,
)
from accessgw.crypto.signers.overlap import Overlap
from accessgw.crypto.signers.rsa_parts import RsaParts, rsa_parts
from accessgw.crypto.signers.threads import ThreadSigner
from accessgw.model.counters import TlsCounters
from protocols.signing import BAD_REQUEST, ECDSA_DIGEST, FAILED, RSA_BLOCK, UNKNOWN_KEY
from tests.crypto.signing_keys import ec_key, rsa_key


@pytest.fixture
def software(tmp_path) -> SoftwareBackend:
    return SoftwareBackend.of_files([rsa_key().write(tmp_path, "rsa"), ec_key().write(tmp_path, "ec")])


@pytest.mark.parametrize("key", [rsa_key(), ec_key()], ids=["rsa", "ec"])
def test_a_signature_in_software_verifies(key, software) -> None:
    assert software.keys() == {rsa_key().id, ec_key().id}
    (signature,) = software.sign([Job(key.id, key.algorithm, key.data())])
    key.verify(signature, key.data())


def test_pss_blocks_are_signed_and_what_is_no_signature_is_not(software) -> None:
    key = rsa_key()
    pss = b"\x00" + b"\x55" * 254 + b"\xbc"
    results = software.sign(
        [
            Job(key.id, RSA_BLOCK, pss),
            Job(key.id, RSA_BLOCK, b"\x00\x02" + b"\x55" * 254),  # as a ciphertext may look
            Job(key.id, RSA_BLOCK, pss[1:]),
            Job(key.id, ECDSA_DIGEST, bytes(32)),
            Job(ec_key().id, ECDSA_DIGEST, bytes(200)),
            Job("00" * 32, ECDSA_DIGEST, bytes(32)),
            Job(key.id, RSA_BLOCK, b"\xff" * 255 + b"\xbc"),  # larger than the modulus
        ]
    )
    assert isinstance(results[0], bytes)
    key.verify(results[0], pss)
    codes = [result.code for result in results[1:] if isinstance(result, Refused)]
    assert codes == [BAD_REQUEST, BAD_REQUEST, BAD_REQUEST, BAD_REQUEST, UNKNOWN_KEY, FAILED]


def test_files_that_hold_no_usable_key_are_refused_with_their_path(tmp_path) -> None:
    with pytest.raises(CertificateError, match=r"none\.pem"):
        SoftwareBackend.of_files([str(tmp_path / "none.pem")])
    locked = tmp_path / "locked.pem"
    encoding = Encoding.PEM, PrivateFormat.PKCS8
    locked.write_bytes(ec_key().private.private_bytes(*encoding, BestAvailableEncryption(b"secret")))
    edwards = tmp_path / "edwards.pem"
    edwards.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(*encoding, NoEncryption()))
    for path in (locked, edwards):
        with pytest.raises(LibcryptoError, match=path.name):
            SoftwareBackend.of_files([str(path)])


def test_keys_come_from_a_store_by_uri_and_providers_by_name(tmp_path) -> None:
    path = ec_key().write(tmp_path, "ec")
    load_provider("legacy")
    assert ctypes.CDLL("libcrypto.so.3").OSSL_PROVIDER_available(None, b"legacy") == 1
    (key,) = PrivateKey.from_store(f"file:{path}")
    assert key.id == ec_key().id
    ec_key().verify(key.sign(ec_key().data()), ec_key().data())
    with pytest.raises(LibcryptoError, match="no-such-provider"):
        load_provider("no-such-provider")
    with pytest.raises(LibcryptoError, match="absent"):
        PrivateKey.from_store(f"file:{tmp_path / 'absent.pem'}")


# ---------------------------------------------------------------- several at once


class SoftwareLanes:
    """What the library does, by Python's pow; remembers its batches, and can be made to err."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.wrong: set[int] = set()

    def __call__(self, work):
        self.batches.append(len(work))
        return [
            bytes(256) if lane in self.wrong else by_the_theorem(key, int.from_bytes(block, "big")).to_bytes(256, "big")
            for lane, (key, block) in enumerate(work)
        ]


def by_the_theorem(key: RsaParts, block: int) -> int:
    """RFC 8017 5.2.1, step 2.b."""
    one, two = pow(block, key.dp, key.p), pow(block, key.dq, key.q)
    return two + key.q * ((one - two) * key.inverse % key.p)


@pytest.fixture
def lanes() -> SoftwareLanes:
    return SoftwareLanes()


@pytest.fixture
def together(software, lanes, tmp_path) -> MultiBufferBackend:
    parts = rsa_parts([str(tmp_path / "rsa.pem"), str(tmp_path / "ec.pem")])
    assert set(parts) == {rsa_key().id}
    return MultiBufferBackend(software, parts, lanes)


def rsa_jobs(count: int) -> list[Job]:
    return [Job(rsa_key().id, RSA_BLOCK, rsa_key().data(seed)) for seed in range(count)]


@pytest.mark.parametrize(("count", "batches"), [(2, []), (3, [3]), (8, [8]), (11, [8, 3]), (10, [8])])
def test_rsa_goes_through_the_lanes_where_it_is_worth_it(together, lanes, count, batches) -> None:
    jobs = rsa_jobs(count)
    for job, signature in zip(jobs, together.sign(jobs), strict=True):
        rsa_key().verify(signature, job.data)
    assert lanes.batches == batches
    assert WORTH_IT == 3
    assert LANES == 8


def test_a_mixed_batch_keeps_its_order(together, lanes) -> None:
    jobs = rsa_jobs(4)
    jobs.insert(1, Job(ec_key().id, ECDSA_DIGEST, ec_key().data()))
    jobs.insert(3, Job(rsa_key().id, RSA_BLOCK, b"too short"))
    results = together.sign(jobs)
    assert lanes.batches == [4]
    assert isinstance(results[3], Refused)
    ec_key().verify(results[1], ec_key().data())
    for index in (0, 2, 4, 5):
        rsa_key().verify(results[index], jobs[index].data)


def test_a_faulty_lane_never_leaves_and_is_made_again(together, lanes) -> None:
    lanes.wrong = {1}
    jobs = rsa_jobs(5)
    for job, signature in zip(jobs, together.sign(jobs), strict=True):
        rsa_key().verify(signature, job.data)
    assert together.faults == 1


def test_what_the_processor_or_the_package_lacks_is_said(tmp_path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("flags : fpu sse2 avx2\n")
    with pytest.raises(MultiBufferUnavailable, match="AVX512-IFMA"):
        load_lanes(tmp_path, plain)
    capable = tmp_path / "capable"
    capable.write_text("flags : fpu avx512ifma\n")
    with pytest.raises(MultiBufferUnavailable, match="extra mb"):
        load_lanes(tmp_path, capable)
    with pytest.raises(MultiBufferUnavailable, match="nobody says"):
        load_lanes(tmp_path, tmp_path / "absent")


def test_the_real_library_signs_where_it_can(software, tmp_path) -> None:
    try:
        real = load_lanes()
    except MultiBufferUnavailable as error:
        pytest.skip(str(error))
    backend = MultiBufferBackend(software, rsa_parts([str(tmp_path / "rsa.pem")]), real)
    jobs = rsa_jobs(8)
    for job, signature in zip(jobs, backend.sign(jobs), strict=True):
        rsa_key().verify(signature, job.data)
    assert backend.faults == 0


# ---------------------------------------------------------------- threads


class HeldBackend:
    """Signs when it is let."""

    name = "held"
    linger = 30.0

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.breaks = False

    def keys(self) -> frozenset[str]:
        return frozenset()

    def sign(self, jobs):
        self.batches.append(len(jobs))
        self.entered.set()
        assert self.gate.wait(30)
        if self.breaks:
            raise OSError("the card has gone")
        return [job.data for job in jobs]


JOB = Job("ab" * 32, ECDSA_DIGEST, b"data")


def test_threads_gather_a_batch_and_take_no_more_than_the_bound() -> None:
    backend = HeldBackend(batch=3)
    results: list[object] = []
    done = threading.Event()

    def tell(batch) -> None:
        results.extend(batch)
        done.set()

    threads: SigningThreads[int] = SigningThreads(backend, tell, threads=1, waiting=4)
    for number in range(3):
        assert threads.submit(number, JOB)
    # the batch is full: it goes although nobody has lingered for 30 s
    assert backend.entered.wait(30)
    assert all(threads.submit(number, JOB) for number in range(3, 7))
    assert not threads.submit(7, JOB)
    backend.gate.set()
    assert done.wait(30)
    threads.stop(30)
    assert [token for token, _ in results] == [0, 1, 2, 3, 4, 5, 6]
    assert backend.batches[0] == 3
    assert not threads.submit(8, JOB)


def signer_of(backend, waiting: int = 8) -> tuple[ThreadSigner, TlsCounters, list]:
    counters = TlsCounters()
    turns: list = []
    arrived = threading.Semaphore(0)

    def call_from_thread(function, *arguments) -> None:
        turns.append((function, arguments))
        arrived.release()

    signer = ThreadSigner(backend, counters, call_from_thread, threads=1, waiting=waiting)

    def turn() -> None:
        assert arrived.acquire(timeout=30)
        function, arguments = turns.pop(0)
        function(*arguments)

    return signer, counters, turn


def test_a_signer_of_threads_signs_and_counts(software) -> None:
    signer, counters, turn = signer_of(software)
    key = ec_key()
    made: list[bytes] = []
    signer.sign(key.id, key.algorithm, key.data()).addCallback(made.append)
    assert counters.signer_waiting == 1
    turn()
    key.verify(made[0], key.data())
    assert (counters.signer_waiting, counters.signatures, counters.signer_failures) == (0, {"software": 1}, 0)
    failures: list = []
    signer.sign("00" * 32, key.algorithm, key.data()).addErrback(failures.append)
    turn()
    assert failures[0].check(SigningFailed)
    assert counters.signer_failures == 1
    signer.stop()


def test_a_full_queue_refuses_at_once_and_a_back_end_that_raises_fails_its_batch_only() -> None:
    backend = HeldBackend()
    backend.breaks = True
    signer, counters, turn = signer_of(backend, waiting=1)
    failures: list = []
    signer.sign(JOB.key, JOB.algorithm, JOB.data).addErrback(failures.append)
    assert backend.entered.wait(30)
    cancelled = signer.sign(JOB.key, JOB.algorithm, JOB.data)
    signer.sign(JOB.key, JOB.algorithm, JOB.data).addErrback(failures.append)
    assert "too many" in failures[0].getErrorMessage()
    cancelled.addErrback(lambda failure: None)
    cancelled.cancel()
    backend.gate.set()
    turn()
    assert "the card has gone" in failures[1].getErrorMessage()
    turn()
    assert counters.signer_waiting == 0
    assert counters.signer_failures == 3
    signer.stop()


def test_no_secret_shows_in_representations(tmp_path: Path) -> None:
    (parts,) = rsa_parts([rsa_key().write(tmp_path, "rsa")]).values()
    assert str(parts.p) not in repr(parts)
    assert str(parts.inverse) not in repr(parts)


def test_replaced_keys_sign_until_their_own_end_however_often_others_come(tmp_path) -> None:
    rsa, ec = rsa_key(), ec_key()
    first, second = (SoftwareBackend.of_files([key.write(tmp_path, "key")]) for key in (rsa, ec))
    jobs = [Job(key.id, key.algorithm, key.data()) for key in (ec, rsa, ec)]
    overlap = Overlap(first).replaced(second, until=60.0).replaced(second, until=70.0)
    assert (overlap.keys(), overlap.newest_keys(), overlap.next_end) == ({rsa.id, ec.id}, {ec.id}, 60.0)
    for key, signature in zip((ec, rsa, ec), overlap.without_ended(59.9).sign(jobs), strict=True):
        key.verify(signature, key.data())
    late = overlap.without_ended(60.0)
    assert (late.keys(), late.next_end) == ({ec.id}, float("inf"))
    assert [isinstance(result, Refused) for result in late.sign(jobs)] == [False, True, False]


def test_a_key_that_comes_back_is_not_a_replaced_one(tmp_path) -> None:
    first, second = (SoftwareBackend.of_files([key.write(tmp_path, "key")]) for key in (rsa_key(), ec_key()))
    overlap = Overlap(first).replaced(second, until=60.0).replaced(first, until=70.0)
    assert (overlap.newest_keys(), overlap.next_end) == ({rsa_key().id}, 70.0)
    assert overlap.without_ended(70.0).keys() == {rsa_key().id}
