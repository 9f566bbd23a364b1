"""accessgw-signer: the process that holds private keys and signs for gateways of this machine."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

from accessgw.crypto.closed_memory import close_memory
from accessgw.crypto.pem import CertificateError
from accessgw.crypto.signers.backend import Backend, SoftwareBackend
from accessgw.crypto.signers.libcrypto import LibcryptoError, PrivateKey, ProviderCalls, load_provider
from accessgw.crypto.signers.multibuffer import MultiBufferBackend, MultiBufferUnavailable, load_lanes
from accessgw.crypto.signers.overlap import KEEP
from accessgw.crypto.signers.server import SignerServer, SocketTaken, listen, to_stderr
from accessgw.model.words import trouble

_BACKENDS = "auto", "software", "multibuffer"


class _Unusable(Exception):
    """The options ask for what is not there."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Console script; exit code 1, with one line, when it cannot start."""
    options = _parser().parse_args(arguments)
    options.threads = options.threads or (1 if options.provider else max(1, (os.cpu_count() or 2) // 2))
    if options.threads > 1:
        ProviderCalls.turn = ProviderCalls.at_once
    close_memory()
    try:
        users = {os.getuid(), 0, *(_user(name) for name in options.allow_user)}
        # The keys first: who cannot sign must not look as if it could.
        backend = make_backend(options)
        server = SignerServer(
            listen(options.listen, options.socket_mode),
            backend,
            lambda: make_backend(options),
            threads=options.threads,
            waiting=options.waiting,
            users=users,
            log=to_stderr,
            keep=options.keep,
            until=sys.stdin.fileno() if options.until_stdin_ends else -1,
        )
    except (CertificateError, LibcryptoError, SocketTaken, _Unusable, OSError) as error:
        to_stderr(trouble(error))
        raise SystemExit(1) from None
    server.run()


def make_backend(options: argparse.Namespace) -> Backend:
    """The back end that the options ask for, its keys loaded. Raises CertificateError, LibcryptoError, _Unusable."""
    if options.pkcs11_module:
        return _token(options)
    if options.provider:
        if options.backend == "multibuffer":
            raise _Unusable("--backend multibuffer: expected keys in ordinary files, got --provider")
        load_provider(options.provider)
    software = SoftwareBackend.of_files(options.key)
    for uri in options.store:
        software.add(PrivateKey.from_store(uri))
    if not software.keys():
        raise _Unusable("expected --key, --store or --pkcs11-module, got none")
    if options.provider:
        software.name = f"OpenSSL with {options.provider}"
        return software
    if options.backend == "software":
        return software
    try:
        lanes = load_lanes()
    except MultiBufferUnavailable as error:
        if options.backend == "multibuffer":
            raise _Unusable(f"--backend multibuffer: {error}") from error
        return software
    from accessgw.crypto.signers.rsa_parts import rsa_parts

    return MultiBufferBackend(software, rsa_parts(options.key), lanes)


def _token(options: argparse.Namespace) -> Backend:
    try:
        from accessgw.crypto.signers.pkcs11 import Pkcs11Backend, TokenUnavailable
    except ImportError as error:
        raise _Unusable(f"--pkcs11-module needs the extra pkcs11: {error}") from error
    if options.key or options.store or options.provider:
        raise _Unusable("expected the keys of a token alone, got --key, --store or --provider beside --pkcs11-module")
    if not options.pkcs11_token:
        raise _Unusable("expected --pkcs11-token beside --pkcs11-module, got none")
    if not options.pkcs11_pin_file:
        raise _Unusable("expected --pkcs11-pin-file beside --pkcs11-module, got none")
    try:
        pin = Path(options.pkcs11_pin_file).read_text("utf-8").strip()
        return Pkcs11Backend(options.pkcs11_module, options.pkcs11_token, pin)
    except TokenUnavailable as error:
        raise _Unusable(str(error)) from error


def _user(name: str) -> int:
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise _Unusable(f"--allow-user: no user {name}") from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "accessgw-signer",
        description="Holds private keys and signs for gateways of this machine. SIGHUP loads the keys again.",
    )
    parser.add_argument("--listen", required=True, metavar="PATH", help="Unix socket")
    parser.add_argument(
        "--key", action="append", default=[], metavar="FILE", help="private key in PEM; repeat for more"
    )
    parser.add_argument("--backend", choices=_BACKENDS, default="auto", help="auto: multibuffer where it can be used")
    parser.add_argument("--provider", default="", metavar="NAME", help="OpenSSL provider to load, for --store or --key")
    parser.add_argument(
        "--store",
        action="append",
        default=[],
        metavar="URI",
        help="private keys that OpenSSL opens by URI, such as file:/DIR/key.pem",
    )
    parser.add_argument("--pkcs11-module", default="", metavar="FILE", help="library of a PKCS#11 token")
    parser.add_argument("--pkcs11-token", default="", metavar="LABEL", help="label of the token")
    parser.add_argument("--pkcs11-pin-file", default="", metavar="FILE", help="file with the user's PIN")
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="that sign; half of the processors if not given, and with --provider one",
    )
    parser.add_argument(
        "--waiting", type=int, default=4096, metavar="N", help="signatures that may wait; more are refused"
    )
    parser.add_argument(
        "--keep",
        type=_seconds,
        default=KEEP,
        metavar="SECONDS",
        help="for which keys that were replaced still sign (%(default)g)",
    )
    parser.add_argument(
        "--socket-mode", type=lambda text: int(text, 8), default=0o600, metavar="MODE", help="octal, 0600 if not given"
    )
    parser.add_argument(
        "--allow-user", action="append", default=[], metavar="USER", help="beside root and the signer's own user"
    )
    parser.add_argument("--until-stdin-ends", action="store_true", help="end with the process that started it")
    return parser


if __name__ == "__main__":
    main()
