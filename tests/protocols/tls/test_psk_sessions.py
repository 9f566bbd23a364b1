"""The DER of a session with a pre-shared key in it, whose frame is made once for keys of one form."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocols.tls.psk import ExternalPsk, session_der

KEYS = st.binary(min_size=1, max_size=64)


def values(der: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of a sequence, read by its lengths."""
    found = []
    while der:
        size, head = (der[1], 2) if der[1] < 0x80 else (int.from_bytes(der[2:4], "big"), 4)
        assert len(der) >= head + size
        found.append((der[0], der[head : head + size]))
        der = der[head + size :]
    return found


@given(KEYS, st.integers(0, 16384), st.sampled_from(["", "mmtp/1", "x" * 200]), st.integers(0, 16384))
def test_a_session_holds_its_own_key_and_no_other_one(key: bytes, early: int, alpn: str, limit: int) -> None:
    for secret in (key, bytes(byte ^ 0xFF for byte in key)):
        ((tag, content),) = values(session_der(ExternalPsk(b"i", secret, early, alpn), limit))
        fields = values(content)
        assert (tag, fields[2:5]) == (0x30, [(0x04, b"\x13\x01"), (0x04, b""), (0x04, secret)])
        told = dict(fields[5:])
        assert (0xAF in told) == (min(early, limit) > 0)
        if 0xAF in told:
            assert int.from_bytes(values(told[0xAF])[0][1], "big") == min(early, limit)
        assert (
            told.get(0xB0, b"\x04\x00")[2 if len(alpn) < 0x80 else 4 :] == alpn.encode() if alpn else 0xB0 not in told
        )
