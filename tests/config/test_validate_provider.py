"""Problems of settings about the OpenSSL provider that has private keys."""

from __future__ import annotations

import pytest

from accessgw.config import ConfigError, loads

LISTENER = '[[listeners]]\nname = "a"\ntransport = "tls"\n'
FILES = '[[listeners.certificates]]\nchain = "/etc/hostname"\nkey = "/etc/hosts"\n'


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('engine = "pure"', 'tls.provider: "tpm2" needs the native engine, tls.engine is "pure"'),
        ('signer = "unix:/s"', 'tls.provider: "unix:/s" has the keys: its option --provider names theirs'),
        (
            'signer = "process"\nsigner_fallback = true',
            "tls.provider: is used by one process: the signer, or this one without signer_fallback",
        ),
    ],
)
def test_who_cannot_use_a_provider(lines: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(f'{LISTENER}[tls]\nprovider = "tpm2"\n{lines}\n')
    assert problem in str(caught.value).splitlines()


@pytest.mark.parametrize("name", ["../tpm2", "a,b", "?a", "9", "a" * 65])
def test_a_name_is_nothing_else(name: str) -> None:
    with pytest.raises(ConfigError, match=r"tls\.provider: expected the name of an OpenSSL provider, got "):
        loads(f'{LISTENER}[tls]\nprovider = "{name}"\n')


def test_a_key_of_a_provider_is_left_to_it() -> None:
    loads(f'{LISTENER}{FILES}[tls]\nprovider = "tpm2"\n')
    with pytest.raises(ConfigError, match="expected a PEM certificate chain and its unencrypted key"):
        loads(LISTENER + FILES)
    with pytest.raises(ConfigError, match="No such file"):
        loads(f'{LISTENER}{FILES.replace("/etc/hosts", "/no/such")}[tls]\nprovider = "tpm2"\n')
