"""The benchmark of signers measures every way, and the card at the pace of depth by latency, not beyond."""

from __future__ import annotations

import pytest

from accessgw.crypto.signers.libcrypto import LibcryptoError, load_provider
from tests.crypto import signer_rates


def test_every_way_signs_and_is_measured():
    try:
        load_provider("base")
    except LibcryptoError as error:
        pytest.skip(str(error))
    named = {(row.case, row.who): row.value for row in signer_rates.rows(seconds=0.2)}
    for kind in signer_rates.KINDS:
        for way in signer_rates.WAYS:
            assert named[f"lateness p99, {kind}", way] > 0
            if way != signer_rates.IDLE:
                assert named[f"signatures, {kind}", way] > 0
        assert named[f"signatures, {kind}", signer_rates.CARD] <= signer_rates.DEPTH / signer_rates.LATENCY
