"""The benchmark of signers measures every way, and the card at the pace of depth by latency, not beyond."""

from __future__ import annotations

import pytest

from accessgw.crypto.signers.libcrypto import LibcryptoError, load_provider
from loadtest.bench import tls_signers


def test_every_way_signs_and_is_measured():
    try:
        load_provider("base")
    except LibcryptoError as error:
        pytest.skip(str(error))
    named = {(row.case, row.who): row.value for row in tls_signers.rows(seconds=0.2)}
    for kind in tls_signers.KINDS:
        for way in tls_signers.WAYS:
            assert named[f"lateness p99, {kind}", way] > 0
            if way != tls_signers.IDLE:
                assert named[f"signatures, {kind}", way] > 0
        assert named[f"signatures, {kind}", tls_signers.CARD] <= tls_signers.DEPTH / tls_signers.LATENCY
