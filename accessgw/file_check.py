"""What `--check` looks at beyond settings: the files of TLS that a start loads; part of the composition root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from accessgw.config.errors import Problem
from accessgw.crypto.client_certificates import ClientCertificates, authorities_in
from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.key_store import check_key_store
from accessgw.crypto.pem import CertificateError, read_file
from accessgw.crypto.provider import load_provider
from accessgw.crypto.revocation_lists import load_lists
from accessgw.crypto.revocations import RevocationStore
from accessgw.crypto.server_certificates import moment
from accessgw.crypto.shared_file import SharedFileError
from accessgw.crypto.signers.backend import SoftwareBackend
from accessgw.crypto.signers.build import SignerUnusable, public_key_of, socket_path
from accessgw.crypto.signers.libcrypto import LibcryptoError
from accessgw.crypto.signers.libcrypto import load_provider as load_for_signer
from accessgw.crypto.signers.probe import NoSigner, keys_offered
from accessgw.model.listener_settings import ListenerSettings
from accessgw.model.settings import GatewaySettings


class _Anyone:
    """Whose keys are not looked at here."""

    def has_key_of(self, leaf: x509.Certificate, path: str) -> bool:
        return True


def file_problems(settings: GatewaySettings, now: float) -> Iterator[Problem]:
    """What a start would refuse of the files that the settings name, or log as an error; `now` is the wall clock.

    Nothing is written. A development certificate is not looked at: the start makes one.
    """
    # a file that several look at is told once
    yield from dict.fromkeys(_problems(settings, now))


def _problems(settings: GatewaySettings, now: float) -> Iterator[Problem]:
    yield from _shown(settings, now)
    listeners = {
        f"listeners[{index}]": listener
        for index, listener in enumerate(settings.listeners)
        if listener.transport == "tls"
    }
    if not listeners:
        return
    signer = list(_signer(settings, listeners))
    yield from signer
    for path, listener in listeners.items():
        if listener.certificates and not signer:
            yield from _certificates(path, listener, settings, now)
        if listener.client_crl:
            yield from _lists(path, listener, listeners, now)
    if settings.tls.signer.startswith("unix:") and not signer:
        yield from _serving(settings, listeners)
    yield from _stores(settings)


def _certificates(path: str, listener: ListenerSettings, settings: GatewaySettings, now: float) -> Iterator[Problem]:
    try:
        contexts = ServerContexts(
            listener.certificates,
            listener.protocols,
            clients=ClientCertificates(listener.client_certificates, listener.client_ca, listener.certificate_identity),
            options=ContextOptions.of(
                listener,
                engine=settings.tls.engine,
                keys_elsewhere=_Anyone() if settings.tls.signs_elsewhere else None,
                provider=settings.tls.own_provider,
            ),
            wall=lambda: now,
        )
    except CertificateError as error:
        yield Problem(_place(path, listener, error), str(error))
        return
    for index, certificate in enumerate(contexts.certificates()[0]):
        place = f"{path}.certificates[{index}]"
        if certificate.ends <= now:
            yield Problem(f"{place}.chain", f"{certificate.settings.chain}: ended at {moment(certificate.ends)}")
        for remark in certificate.remarks(now):
            yield Problem(f"{place}.{'ocsp' if remark == certificate.unstapled else 'chain'}", remark)
    end = contexts.expires_at().get(listener.client_ca, now + 1.0)
    if end <= now:
        yield Problem(f"{path}.client_ca", f"{listener.client_ca}: a CA in it ended at {moment(end)}")


def _lists(
    path: str, listener: ListenerSettings, listeners: dict[str, ListenerSettings], now: float
) -> Iterator[Problem]:
    file = listener.client_crl
    authorities = []
    for other, one in listeners.items():
        if one.client_crl == file:
            try:
                authorities += authorities_in([one.client_ca])
            except CertificateError as error:
                yield Problem(f"{other}.client_ca", str(error))
                return
    try:
        loaded = load_lists(file, authorities)
    except CertificateError as error:
        yield Problem(f"{path}.client_crl", str(error))
        return
    if loaded.expires_at <= now:
        yield Problem(f"{path}.client_crl", f"{file}: should have been replaced before {moment(loaded.expires_at)}")


def _shown(settings: GatewaySettings, now: float) -> Iterator[Problem]:
    """Certificates that are shown to services and other brokers: that they can be loaded is a matter of settings."""
    files = [(f"clusters[{at}].tls", f"cluster {one.name}", one.tls) for at, one in enumerate(settings.clusters)]
    files += [
        (f"authenticators[{at}].tls", f"authenticator {one.name or one.kind}", one.tls)
        for at, one in enumerate(settings.authenticators)
    ]
    files.append(("webhook.tls", "webhook", settings.webhook.tls))
    shown = [(path, user, tls.certificate) for path, user, tls in files]
    shown += [
        (f"mqtt.bridges[{at}]", f"bridge {one.name}", one.certificate) for at, one in enumerate(settings.mqtt.bridges)
    ]
    for path, user, file in shown:
        if file:
            try:
                chain = x509.load_pem_x509_certificates(read_file(file))
            except (CertificateError, ValueError) as error:
                yield Problem(f"{path}.certificate", str(error))
                continue
            end = min(one.not_valid_after_utc for one in chain).timestamp()
            if end <= now:
                yield Problem(f"{path}.certificate", f"{file} ({user}): ended at {moment(end)}")


def _signer(settings: GatewaySettings, listeners: dict[str, ListenerSettings]) -> Iterator[Problem]:
    """Where private keys are elsewhere: whether they can be, and, of those that are read by this user, whether they are
    the keys of the chains."""
    tls = settings.tls
    try:
        load_provider(tls)
        if tls.signs_elsewhere:
            socket_path(tls, settings.state_dir)
            if tls.provider:
                load_for_signer(tls.provider)
    except SignerUnusable as error:
        setting, _, message = str(error).partition(": ")
        yield Problem(setting, message)
        return
    except LibcryptoError as error:
        yield Problem("tls.provider", str(error))
        return
    if not tls.signs_elsewhere:
        return
    for path, listener in listeners.items():
        for index, certificate in enumerate(listener.certificates):
            place = f"{path}.certificates[{index}]"
            try:
                wanted = public_key_of(certificate).id
            except CertificateError as error:
                yield Problem(f"{place}.chain", str(error))
                continue
            if tls.signer != "process" and not tls.signer_fallback:
                continue
            try:
                keys = SoftwareBackend.of_files([certificate.key]).keys()
            except (CertificateError, LibcryptoError) as error:
                yield Problem(f"{place}.key", str(error))
                continue
            if wanted not in keys:
                yield Problem(f"{place}.key", f"{certificate.key}: is not the key of {certificate.chain}")


def _serving(settings: GatewaySettings, listeners: dict[str, ListenerSettings]) -> Iterator[Problem]:
    """Whether a signer that is not ours serves now, and has the keys. A start does not wait for it."""
    path = socket_path(settings.tls, settings.state_dir)
    try:
        keys = keys_offered(path, settings.tls.signer_timeout)
    except NoSigner as error:
        yield Problem("tls.signer", str(error))
        return
    for place, listener in listeners.items():
        for index, certificate in enumerate(listener.certificates):
            wanted = public_key_of(certificate).id
            if wanted not in keys:
                yield Problem(
                    f"{place}.certificates[{index}].chain",
                    f"{certificate.chain}: the signer at {path} does not have its key (id {wanted})",
                )


def _stores(settings: GatewaySettings) -> Iterator[Problem]:
    """Files of a gateway's own, where there are any."""
    directory = Path(settings.state_dir) / settings.tls.key_store
    if not directory.is_dir():
        return
    for check in (check_key_store, RevocationStore):
        try:
            check(directory)
        except SharedFileError as error:
            yield Problem("tls.key_store", str(error))


def _place(path: str, listener: ListenerSettings, error: CertificateError) -> str:
    """The setting that names the file of a certificate, of its key or of CAs; several may name the same."""
    for index, certificate in enumerate(listener.certificates):
        for name in ("chain", "key"):
            if getattr(certificate, name) == error.path and error.setting in ("", name):
                return f"{path}.certificates[{index}].{name}"
    return f"{path}.client_ca" if listener.client_ca == error.path else path
