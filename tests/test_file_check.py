"""`--check` and files: everything that the start would refuse, or log as an error, is named with its setting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from accessgw.config import loads
from accessgw.crypto.development import ensure_development_certificate
from accessgw.crypto.signers.build import public_key_of
from accessgw.file_check import file_problems
from accessgw.model.listener_settings import CertificateSettings
from protocols.signing import SigningConnection
from protocols.tls.engines import WHY_NOT_NATIVE
from tests.crypto.authority import Authority
from tests.crypto.certificates import self_signed
from tests.crypto.revoking import crl, response, write

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
DAY = 86_400.0


class House:
    """A configuration with every file of TLS, all of them good."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory, "ca")
        self.issued = self.authority.issue("gateway", usage=SERVER, days=9.0)
        self.ocsp = Path(write(directory / "ocsp.der", response(self.authority, self.issued.der, days=2.0)))
        self.crl = Path(write(directory / "crl.pem", crl(self.authority, days=3.0)))
        self.more = ""
        self.tls = ""
        self.meanwhile: Callable[[], object] = lambda: None
        """Done to the files when the settings have been checked."""

    def problems(self, after: float = 0.0) -> list[str]:
        settings = loads(f"""
state_dir = "{self.directory}/state"
[[listeners]]
name = "plain"
port = 7080
[[listeners]]
name = "tls"
transport = "tls"
port = 7443
client_certificates = "require"
client_ca = "{self.authority.file}"
client_crl = "{self.crl}"
{self.more}
[[listeners.certificates]]
chain = "{self.issued.chain}"
key = "{self.issued.key}"
ocsp = "{self.ocsp}"
[tls]
{self.tls}
""")
        self.meanwhile()
        return list(map(str, file_problems(settings, time.time() + after)))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_good_files_are_no_problem_and_nothing_is_written(house: House) -> None:
    before = sorted(house.directory.rglob("*"))
    assert house.problems() == []
    assert sorted(house.directory.rglob("*")) == before


def test_revocation_lists_are_read_and_verified(house: House) -> None:
    house.crl.write_bytes(b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    (problem,) = house.problems()
    assert problem.startswith(f"listeners[1].client_crl: {house.crl}: list 1 cannot be read: ")
    house.crl.write_bytes(b"")
    assert house.problems() == [f"listeners[1].client_crl: {house.crl}: expected PEM revocation lists, got none"]
    house.crl.write_bytes(crl(Authority(house.directory, "other")))
    (problem,) = house.problems()
    assert "expected lists signed by the CAs of clients, that of CN=other is not" in problem


def test_responses_are_read_and_verified(house: House) -> None:
    place = f"listeners[1].certificates[0].ocsp: NO OCSP RESPONSE IS STAPLED for {house.issued.chain}: {house.ocsp}: "
    house.ocsp.write_bytes(b"nothing")
    (problem,) = house.problems()
    assert problem.startswith(place + "expected an OCSP response in DER")
    house.ocsp.unlink()
    assert house.problems() == [place + "No such file or directory"]


def test_of_two_settings_with_one_file_the_one_at_fault_is_named(house: House) -> None:
    ca = Path(house.authority.file)
    house.crl = ca
    (problem,) = house.problems()
    assert problem == f"listeners[1].client_crl: {ca}: expected PEM revocation lists, got none"
    ca.write_bytes(ca.read_bytes() + crl(Authority(house.directory, "other")))
    (problem,) = house.problems()
    assert problem.startswith("listeners[1].client_crl: ") and "that of CN=other is not" in problem
    house.crl = Path(write(house.directory / "crl.pem", crl(house.authority)))
    house.meanwhile = lambda: ca.write_bytes(b"nothing")
    assert house.problems() == [f"listeners[1].client_ca: {ca}: expected PEM certificates of CAs"]


def test_of_a_chain_and_a_key_in_one_file_the_one_at_fault_is_named(house: House) -> None:
    chain, key = Path(house.issued.chain), Path(house.issued.key)
    both = house.directory / "both.pem"
    house.issued.chain = house.issued.key = str(both)
    house.ocsp = Path(write(house.directory / "ocsp.der", response(house.authority, house.issued.der)))
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    assert house.problems() == []
    other = Path(self_signed(house.directory, "other").key).read_bytes()
    house.meanwhile = lambda: both.write_bytes(chain.read_bytes() + other)
    assert house.problems() == [f"listeners[1].certificates[0].key: {both}: is not the key of {both}"]
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    house.meanwhile = lambda: both.write_bytes(key.read_bytes())
    (problem,) = house.problems()
    assert problem.startswith(f"listeners[1].certificates[0].chain: {both}: expected a PEM certificate chain")


def test_of_cas_of_several_listeners_the_setting_that_names_the_bad_file_is_named(house: House) -> None:
    other = house.directory / "other-cas.pem"
    other.write_bytes(Path(house.authority.file).read_bytes())
    house.meanwhile = lambda: other.write_bytes(b"nothing")
    house.tls = f"""
[[listeners]]
name = "more"
transport = "tls"
port = 7444
client_certificates = "require"
client_ca = "{other}"
client_crl = "{house.crl}"
"""
    assert house.problems() == [f"listeners[2].client_ca: {other}: expected PEM certificates of CAs"]


def test_what_has_ended_is_told_by_its_setting(house: House) -> None:
    assert [line.partition(":")[0] for line in house.problems(2.5 * DAY)] == ["listeners[1].certificates[0].ocsp"]
    assert [line.partition(":")[0] for line in house.problems(9.5 * DAY)] == [
        "listeners[1].certificates[0].chain",
        "listeners[1].certificates[0].ocsp",
        "listeners[1].client_crl",
    ]
    assert any(line.startswith("listeners[1].client_ca: ") for line in house.problems(11 * DAY))


def test_what_is_shown_to_others_and_has_ended_is_told(tmp_path: Path) -> None:
    own = Authority(tmp_path, "ca").issue("gateway", days=9.0)
    shown = f'{{certificate = "{own.chain}", key = "{own.key}"}}'
    settings = loads(f"""
[[listeners]]
name = "plain"
port = 7080
[webhook]
url = "https://x"
tls = {shown}
[[clusters]]
name = "c"
endpoints = ["https://127.0.0.1:1"]
tls = {shown}
[[authenticators]]
kind = "http"
url = "https://x"
tls = {shown}
[[mqtt.bridges]]
name = "b"
address = "x:8883"
tls = true
topics = [{{filter = "a"}}]
{shown[1:-1].replace(", ", chr(10))}
""")
    assert list(file_problems(settings, time.time())) == []
    places = ["clusters[0].tls", "authenticators[0].tls", "webhook.tls", "mqtt.bridges[0]"]
    lines = list(map(str, file_problems(settings, time.time() + 10 * DAY)))
    users = ["cluster c", "authenticator http", "webhook", "bridge b"]
    assert [line.partition(": ended at ")[0] for line in lines] == [
        f"{at}.certificate: {own.chain} ({user})" for at, user in zip(places, users, strict=True)
    ]


def test_a_certificate_that_is_not_valid_yet_is_told(house: House) -> None:
    (problem,) = [line for line in house.problems(-5 * DAY) if ".chain: " in line]
    assert "CERTIFICATE NOT YET VALID" in problem


def test_algorithms_that_openssl_does_not_know_are_of_the_listener(house: House) -> None:
    house.more = 'groups = ["X25519", "nonsense"]'
    (problem,) = house.problems()
    assert problem.startswith("listeners[1]: listener tls: ") and "groups" in problem


def test_stores_that_a_start_would_refuse(house: House) -> None:
    keys = house.directory / "state" / "keys"
    keys.mkdir(mode=0o700, parents=True)
    for name in ("epochs", "revoked.json"):
        (keys / name).write_bytes(b"damaged")
        (keys / name).chmod(0o600)
    lines = house.problems()
    assert [line.split(": ")[:2] for line in lines] == [
        ["tls.key_store", f"{keys}/epochs"],
        ["tls.key_store", f"{keys}/revoked.json"],
    ]


def test_development_certificates_are_the_matter_of_the_start(tmp_path: Path) -> None:
    text = f'state_dir = "{tmp_path}"\n[[listeners]]\nname = "tls"\ntransport = "tls"\nport = 7443\n'
    assert list(file_problems(loads(text), time.time())) == []
    ensure_development_certificate(str(tmp_path), time.time())
    assert list(file_problems(loads(text), time.time())) == []


@pytest.mark.skipif(bool(WHY_NOT_NATIVE), reason=WHY_NOT_NATIVE)
def test_keys_of_a_signer_of_ours_are_read_and_compared(house: House) -> None:
    house.tls = 'signer = "process"'
    assert house.problems() == []
    other = self_signed(house.directory, "other")
    key = Path(house.issued.key)
    key.write_bytes(Path(other.key).read_bytes())
    place = "listeners[1].certificates[0].key"
    assert house.problems() == [f"{place}: {key}: is not the key of {house.issued.chain}"]
    key.write_bytes(b"nothing")
    (problem,) = house.problems()
    assert problem.startswith(f"{place}: {key}: expected an unencrypted private key in PEM")
    house.tls = f'signer = "unix:{house.directory}/signer.sock"'
    # the key is not looked at
    assert house.problems() == [f"tls.signer: no signer at {house.directory}/signer.sock: No such file or directory"]


@contextmanager
def listening(path: Path, answer: Callable[[socket.socket], object]) -> Iterator[None]:
    """Somebody at `path`, for one connection."""

    def serve() -> None:
        link, _ = listener.accept()
        with link:
            answer(link)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield
        serving.join()


def greeted_with(answer: bytes, link: socket.socket) -> None:
    link.recv(4096)
    link.sendall(answer)


def greeting(*keys: str) -> bytes:
    wire = SigningConnection(signer=True)
    wire.hello(frozenset(keys))
    return wire.to_send()


@pytest.mark.skipif(bool(WHY_NOT_NATIVE), reason=WHY_NOT_NATIVE)
def test_a_signer_that_runs_already_is_asked_which_keys_it_has(house: House) -> None:
    path = house.directory / "signer.sock"
    house.tls = f'signer = "unix:{path}"\nsigner_timeout = 20'
    chain = house.issued.chain
    id = public_key_of(CertificateSettings(chain=chain, key="")).id
    with listening(path, lambda link: (link.recv(4096), link.sendall(greeting(id)))):
        assert house.problems() == []
    place = "listeners[1].certificates[0].chain"
    for answer, problem in (
        (b"", f"tls.signer: who listens at {path} closes the connection: does it serve this user?"),
        (b"\xff" * 8, f"tls.signer: who listens at {path} does not speak our protocol: "),
        (greeting("ab" * 32), f"{place}: {chain}: the signer at {path} does not have its key (id {id})"),
    ):
        path.unlink()
        with listening(path, partial(greeted_with, answer)):
            (said,) = house.problems()
        assert said.startswith(problem)
    assert house.problems() == [f"tls.signer: no signer at {path}: Connection refused"]
    path.unlink()
    house.tls = f'signer = "unix:{path}"\nsigner_timeout = 0.2'
    done = threading.Event()
    with listening(path, lambda link: done.wait(60)):
        assert house.problems() == [f"tls.signer: who listens at {path} says nothing for 0.2 s"]
        done.set()


@pytest.mark.skipif(bool(WHY_NOT_NATIVE), reason=WHY_NOT_NATIVE)
def test_a_socket_that_cannot_be(house: House) -> None:
    house.tls = f'signer = "unix:/{"long" * 40}"'
    (problem,) = house.problems()
    assert problem.startswith("tls.signer: expected a path of at most 107 bytes")
