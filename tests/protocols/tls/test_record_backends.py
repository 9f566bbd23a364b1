"""Which twin seals and opens records: chosen once, by what the machine has and by ACCESSGW_ACCEL."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from protocols.tls import record_backends, record_protection
from protocols.tls.key_schedule import SUITES, SUITES_BY_NAME
from protocols.tls.record_backends import LIBCRYPTO, get_backend
from tests.protocols.tls.record_peers import backend_or_skip


def chosen(wanted, before=""):
    """What a new interpreter chooses, or its error."""
    code = f"{before}\nfrom protocols.tls.record_backends import backend\nprint(backend)"
    environment = {**os.environ, "ACCESSGW_ACCEL": wanted}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def test_pure_is_cryptography():
    assert chosen("pure") == "cryptography"


def test_native_is_libcrypto():
    backend_or_skip("libcrypto")
    assert chosen("native") == chosen("auto") == "libcrypto"


def test_another_word_is_refused():
    assert "expected auto, native or pure, got 'fast'" in chosen("fast")


NOT_BUILT = "import sys; sys.modules['protocols._native.tls_records'] = None"


def test_without_the_extension():
    assert chosen("auto", NOT_BUILT) == "cryptography"
    assert chosen("native", NOT_BUILT).startswith(("ImportError", "ModuleNotFoundError"))


NO_LIBRARY = """
from protocols._native import tls_records
load = tls_records.load
tls_records.load = lambda name: load("libnothing.so.9")
"""


def test_the_extension_without_the_library():
    backend_or_skip("libcrypto")
    assert chosen("auto", NO_LIBRARY) == "cryptography"
    assert "libnothing.so.9: cannot open" in chosen("native", NO_LIBRARY)


@pytest.mark.parametrize(
    ("library", "words"), [("libnothing.so.9", "libnothing.so.9: cannot open"), ("libm.so.6", "has no EVP_CIPHER_CTX")]
)
def test_without_the_library(library, words):
    """Tried for real: the extension is there, the library or its functions are not."""
    backend_or_skip("libcrypto")
    code = f"""
from protocols._native import tls_records
try:
    tls_records.load({library!r})
except ImportError as error:
    print(error)
try:
    tls_records.Sealer(0x1301, bytes(32), bytes(16), bytes(12), 0)
except ImportError:
    print("not loaded")
print(tls_records.load({LIBCRYPTO!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    refusal, unusable, version = done.stdout.splitlines()
    assert words in refusal
    assert unusable == "not loaded"
    assert version.startswith("OpenSSL 3")


def test_a_twin_by_name():
    assert get_backend("auto").name == record_backends.backend
    assert get_backend("cryptography").sealer is record_protection.Sealer
    with pytest.raises(ValueError, match="expected auto, libcrypto or cryptography, got 'fast'"):
        get_backend("fast")


def test_the_library_that_was_asked_for_is_missed_clearly(monkeypatch):
    monkeypatch.setitem(sys.modules, "protocols._native.tls_records", None)
    monkeypatch.delattr("protocols._native.tls_records", raising=False)
    with pytest.raises(ImportError):
        get_backend("libcrypto")


@pytest.mark.parametrize(
    "given",
    [
        (0x1304, bytes(32), bytes(16), bytes(12), 0),
        (0x1301, bytes(48), bytes(16), bytes(12), 0),
        (0x1301, bytes(32), bytes(32), bytes(12), 0),
        (0x1301, bytes(32), bytes(16), bytes(8), 0),
    ],
)
def test_the_extension_checks_what_it_is_given(given):
    native = backend_or_skip("libcrypto")
    for make in (native.sealer, native.opener):
        with pytest.raises(ValueError, match="expected"):
            make(*given)


def test_the_extension_checks_types_and_places():
    native = backend_or_skip("libcrypto")
    sealer = native.sealer(0x1301, bytes(32), bytes(16), bytes(12), 0)
    opener = native.opener(0x1301, bytes(32), bytes(16), bytes(12), 0)
    for wrong in ((23,), (23, "text"), ("23", b""), (23, b"", 1)):
        with pytest.raises(TypeError):
            sealer.seal(*wrong)
    for wrong in ((b"",), ("text", 0, False), (b"", "0", False)):
        with pytest.raises(TypeError):
            opener.open(*wrong)
    for at in (-1, 4):
        with pytest.raises(ValueError, match="expected a place in 3 bytes"):
            opener.open(b"abc", at, False)
    with pytest.raises((OverflowError, TypeError)):
        native.sealer(0x1301, bytes(32), bytes(16), bytes(12), -1)
    assert sealer.seal(23, bytearray(b"x")) and sealer.sequence == 1


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES_BY_NAME)
def test_what_proved_the_count_goes_on_as_the_sealer(suite):
    secret = os.urandom(suite.secret_size)
    backend = get_backend("cryptography")
    other = backend.make_sealer(suite, secret, 4)
    record = backend.make_sealer(suite, secret, 4).seal(23, b"ticket")
    assert not other.sealed(record[:-1] + bytes([record[-1] ^ 1]))
    assert other.sequence == 4
    assert other.sealed(record)
    sealer = backend.make_sealer(suite, secret, 5, other)
    assert sealer is other
    assert sealer.awake
    assert sealer.seal(23, b"data") == backend.make_sealer(suite, secret, 5).seal(23, b"data")
    assert sealer.sequence == 6


def test_what_stands_at_another_record_is_not_gone_on_with():
    suite, backend = SUITES[0x1301], get_backend("cryptography")
    secret = os.urandom(suite.secret_size)
    other = backend.make_sealer(suite, secret, 4)
    sealer = backend.make_sealer(suite, secret, 5, other)
    assert sealer.seal(23, b"data") == backend.make_sealer(suite, secret, 5).seal(23, b"data")


def test_the_twin_in_c_makes_its_own():
    backend = backend_or_skip("libcrypto")
    suite = SUITES[0x1302]
    secret = os.urandom(suite.secret_size)
    other = get_backend("cryptography").make_sealer(suite, secret, 0)
    assert type(backend.make_sealer(suite, secret, 0, other)) is backend.sealer
