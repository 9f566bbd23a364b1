"""OCSP responses to staple (RFC 6960, RFC 8446 section 4.4.2.1): only one that a client would believe."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from accessgw.crypto.issuers import is_signed_by

AHEAD = 300.0
"""Seconds by which the responder's clock may be ahead of ours."""


class OcspError(ValueError):
    """A response that is not to be stapled; the message says what was expected."""


def response_end(der: bytes, chain: Sequence[x509.Certificate], now: float) -> float:
    """Wall-clock second at which a good response for the leaf of `chain` ends; infinite when it does not say.

    Raises OcspError for a response that is damaged, not `good`, about another certificate, not yet or no longer valid,
    or, where the issuer is in the chain, not signed by it or by whom it delegated to.
    """
    try:
        response = ocsp.load_der_ocsp_response(der)
        status = response.response_status
        if status != ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise OcspError(f"expected a successful response, got {status.name.lower()}")
        _check(response, chain, now)
    except OcspError:
        raise
    except UnsupportedAlgorithm as error:
        raise OcspError(f"expected a signature that can be verified: {error}") from error
    except ValueError as error:
        raise OcspError(f"expected an OCSP response in DER: {error}") from error
    end = response.next_update_utc
    return float("inf") if end is None else end.timestamp()


def _check(response: ocsp.OCSPResponse, chain: Sequence[x509.Certificate], now: float) -> None:
    leaf = chain[0]
    if response.serial_number != leaf.serial_number:
        raise OcspError(f"expected one for certificate {leaf.serial_number:x}, got {response.serial_number:x}")
    if len(chain) > 1:
        _check_signature(response, chain[1])
    if response.certificate_status != ocsp.OCSPCertStatus.GOOD:
        raise OcspError(f"expected the certificate to be good, it is {response.certificate_status.name.lower()}")
    if response.this_update_utc.timestamp() > now + AHEAD:
        raise OcspError(f"valid from {_shown(response.this_update_utc)} only")
    end = response.next_update_utc
    if end is not None and end.timestamp() <= now:
        raise OcspError(f"expired at {_shown(end)}")


def _check_signature(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> None:
    signers = [issuer, *(one for one in response.certificates if _is_delegate(one, issuer))]
    signature, data = response.signature, response.tbs_response_bytes
    if not any(is_signed_by(one, signature, data, response.signature_hash_algorithm) for one in signers):
        raise OcspError(f"expected a signature by {issuer.subject.rfc4514_string()} or for it, got another")


def _is_delegate(candidate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """The issuer made it for signing responses (RFC 6960 section 4.2.2.2)."""
    try:
        usage = candidate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usage or candidate.issuer != issuer.subject:
        return False
    return is_signed_by(
        issuer, candidate.signature, candidate.tbs_certificate_bytes, candidate.signature_hash_algorithm
    )


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
