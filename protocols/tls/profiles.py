"""Profiles, families of algorithms that belong together, and how a context of either role is held to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from OpenSSL import SSL

from protocols.tls import binding

TLS_1_2_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
DEFAULT_GROUPS = ("X25519", "P-256", "P-384")
"""Pinned, because OpenSSL would take X25519MLKEM768 first, whose shares are 2.3 KB larger."""
VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


@dataclass(slots=True, frozen=True)
class Profile:
    """What a family of algorithms needs to be set to; empty is left to the options or to OpenSSL."""

    suites: bytes = b""
    groups: tuple[str, ...] = ()
    signature_algorithms: tuple[str, ...] = ()


PROFILES = {
    "default": Profile(groups=DEFAULT_GROUPS),
    # RFC 8998
    "sm": Profile(b"TLS_SM4_GCM_SM3", ("curveSM2",), ("sm2sig_sm3",)),
}


def restrict(
    context: SSL.Context,
    profile: Profile,
    *,
    minimum: str,
    suites: bytes,
    groups: Sequence[str],
    signature_algorithms: Sequence[str],
) -> None:
    """Let a context negotiate nothing else: versions from `minimum` on, suites of TLS 1.3, groups and signature algorithms
    as OpenSSL names them. Empty ones are the profile's; what that leaves empty, too, is OpenSSL's. ValueError for a
    group or signature algorithm that OpenSSL does not know, SSL.Error for suites."""
    context.set_min_proto_version(VERSIONS[minimum])
    context.set_cipher_list(TLS_1_2_CIPHERS)
    suites = suites or profile.suites
    if suites:
        context.set_tls13_ciphersuites(suites)
    groups = groups or profile.groups
    if groups:
        binding.set_groups(context, groups)
    algorithms = signature_algorithms or profile.signature_algorithms
    if algorithms:
        binding.set_signature_algorithms(context, algorithms)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
