"""TLS alert numbers (RFC 8446 section 6), how to find the one that OpenSSL meant, and what it said."""

from __future__ import annotations

from OpenSSL import SSL

CLOSE_NOTIFY = 0
UNEXPECTED_MESSAGE = 10
BAD_RECORD_MAC = 20
RECORD_OVERFLOW = 22
HANDSHAKE_FAILURE = 40
BAD_CERTIFICATE = 42
UNSUPPORTED_CERTIFICATE = 43
CERTIFICATE_REVOKED = 44
CERTIFICATE_EXPIRED = 45
ILLEGAL_PARAMETER = 47
UNKNOWN_CA = 48
DECODE_ERROR = 50
DECRYPT_ERROR = 51
PROTOCOL_VERSION = 70
INTERNAL_ERROR = 80
USER_CANCELED = 90
NO_RENEGOTIATION = 100
MISSING_EXTENSION = 109
CERTIFICATE_REQUIRED = 116
NO_APPLICATION_PROTOCOL = 120
UNEXPECTED_EOF = UNEXPECTED_MESSAGE
"""TLS has no alert for a missing close_notify, and nobody is left to hear one."""

_BY_TEXT = (
    ("peer sent close_notify", CLOSE_NOTIFY),
    ("no application protocol", NO_APPLICATION_PROTOCOL),
    ("peer did not return a certificate", CERTIFICATE_REQUIRED),
    # why a certificate was refused stands behind "certificate verify failed"; as OpenSSL's ssl_x509err2alert
    ("certificate has expired", CERTIFICATE_EXPIRED),
    ("certificate purpose", UNSUPPORTED_CERTIFICATE),
    ("certificate revoked", CERTIFICATE_REVOKED),
    ("certificate signature failure", DECRYPT_ERROR),
    ("issuer certificate", UNKNOWN_CA),
    ("self-signed certificate", UNKNOWN_CA),
    ("invalid ca certificate", UNKNOWN_CA),
    ("certificate chain too long", UNKNOWN_CA),
    ("path length constraint exceeded", UNKNOWN_CA),
    ("certificate verify failed", BAD_CERTIFICATE),
    ("bad record mac", BAD_RECORD_MAC),
    ("bad decrypt", BAD_RECORD_MAC),
    ("data length too long", RECORD_OVERFLOW),
    ("packet length too long", RECORD_OVERFLOW),
    ("encrypted length too long", RECORD_OVERFLOW),
    ("unsupported protocol", PROTOCOL_VERSION),
    ("wrong version number", PROTOCOL_VERSION),
    ("version too low", PROTOCOL_VERSION),
    ("no shared cipher", HANDSHAKE_FAILURE),
    ("no suitable", HANDSHAKE_FAILURE),
    ("handshake failure", HANDSHAKE_FAILURE),
    ("missing", MISSING_EXTENSION),
    ("digest check failed", DECRYPT_ERROR),
    ("bad signature", DECRYPT_ERROR),
    ("length mismatch", DECODE_ERROR),
    ("bad length", DECODE_ERROR),
    ("decode error", DECODE_ERROR),
    ("unexpected", UNEXPECTED_MESSAGE),
    ("bad record type", UNEXPECTED_MESSAGE),
    ("http request", UNEXPECTED_MESSAGE),
    # floods and disorder, of which OpenSSL's alert is sealed
    ("invalid ccs message", ILLEGAL_PARAMETER),
    ("excessive message size", ILLEGAL_PARAMETER),
    ("mixed handshake and non handshake data", UNEXPECTED_MESSAGE),
    ("too much early data", UNEXPECTED_MESSAGE),
    ("record too small", UNEXPECTED_MESSAGE),
    ("invalid alert", UNEXPECTED_MESSAGE),
    ("too many warn alerts", UNEXPECTED_MESSAGE),
    ("ccs received early", UNEXPECTED_MESSAGE),
    ("no renegotiation", HANDSHAKE_FAILURE),
    ("illegal parameter", ILLEGAL_PARAMETER),
)

_NAMES = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    100: "no_renegotiation",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}


def name_of(code: int) -> str:
    """An alert as RFC 8446 section 6 calls it, for logs and counters."""
    return _NAMES.get(code, f"alert_{code}")


def plaintext_alert(code: int) -> bytes:
    """The record of a fatal alert before anything is encrypted."""
    return bytes((21, 3, 3, 0, 2, 2, code))


def alert_in(ciphertext: bytes) -> int | None:
    """The number of a plaintext alert record at the end of `ciphertext`."""
    record = ciphertext[-7:]
    if len(record) == 7 and record[0] == 21 and record[3:5] == b"\x00\x02" and record[5] in {1, 2}:
        return record[6]
    return None


def alert_for(error: SSL.Error) -> int:
    """The alert that fits OpenSSL's words; internal_error when none is known to."""
    return alert_for_words(str(error.args))


def alert_for_words(reason: str) -> int:
    """As alert_for(), of the reason alone."""
    words = reason.lower()
    for code, name in _NAMES.items():
        # one that the peer has sent
        if f"alert {name.replace('_', ' ')}" in words:
            return code
    for text, code in _BY_TEXT:
        if text in words:
            return code
    return INTERNAL_ERROR


def reasons_of(error: Exception) -> str:
    """The reasons in an error of pyOpenSSL's, without library and function names; of another one, what it says."""
    if isinstance(error, SSL.ZeroReturnError):
        return "the peer sent close_notify"
    if error.args and isinstance(error.args[0], list):
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "no reason given"
    return " ".join(str(part) for part in error.args) or type(error).__name__
