"""The benchmark of signers measures every way, and the card at the pace of depth by latency, not beyond."""

from __future__ import annotations

import pytest

from accessgw.crypto.signers.libcrypto import LibcryptoError, load_provider
from tests.crypto import signer_rates


def test_help_and_unknown_options_measure_nothing(monkeypatch, capsys):
    monkeypatch.setattr(signer_rates, "rows", lambda seconds: pytest.fail("it measures"))
    for options, code in ((["--help"], 0), (["--fast"], 2), (["--measure", "RSA-2048", "nobody"], 2)):
        monkeypatch.setattr("sys.argv", ["signer_rates", *options])
        with pytest.raises(SystemExit) as ended:
            signer_rates.main()
        assert ended.value.code == code
    said = capsys.readouterr()
    assert "--seconds" in said.out and "expected one of RSA-2048, P-256" in said.err


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
