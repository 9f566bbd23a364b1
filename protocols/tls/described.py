"""What a certificate says of itself, for logs: bounded words, whatever is in it."""

from __future__ import annotations

from cryptography import x509

MAX_WORDS = 256
"""Characters of each; what is longer ends in three dots."""
MAX_NAMES = 4
"""Alternative names that are told."""

_KINDS: tuple[type[x509.DNSName] | type[x509.UniformResourceIdentifier] | type[x509.RFC822Name], ...] = (
    x509.DNSName,
    x509.UniformResourceIdentifier,
    x509.RFC822Name,
)


def described(certificate: bytes) -> dict[str, str]:
    """Of a DER certificate that need not be verified: `subject` (RFC 4514), `names` (DNS, URI and e-mail alternative
    names), `serial` (hexadecimal digits). What it does not have, or cannot be read, is not there."""
    told: dict[str, str] = {}
    # A panic of cryptography's is no Exception, and would end the thread that writes the log.
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        told["serial"] = _bounded(f"{parsed.serial_number:x}")
        told["subject"] = _bounded(parsed.subject.rfc4514_string())
        told["names"] = _bounded(", ".join(_names(parsed)))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
    return {name: words for name, words in told.items() if words}


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name) for kind in _KINDS for name in names.get_values_for_type(kind)][:MAX_NAMES]


def _bounded(words: str) -> str:
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 3] + "..."
