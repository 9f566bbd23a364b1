"""Problems of settings about client certificates and the SM profile of a listener."""

from __future__ import annotations

import pytest

from accessgw.config import ConfigError, loads
from tests.crypto.authority import Authority

LISTENER = '[[listeners]]\nname = "a"\ntransport = "tls"\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    return str(caught.value).splitlines()


def test_a_revocation_list_needs_somebody_who_is_asked(tmp_path):
    ca = Authority(tmp_path, "ca").file
    off = problems(LISTENER + f'client_ca = "{ca}"\nclient_crl = "{ca}"')
    expected = 'is used with client_certificates "request" or "require" only'
    assert off == [f"listeners[0].client_ca: {expected}", f"listeners[0].client_crl: {expected}"]
    missing = problems(LISTENER + f'client_certificates = "require"\nclient_ca = "{ca}"\nclient_crl = "/no/such"')
    assert missing == ['listeners[0].client_crl: cannot read "/no/such": No such file or directory']


def test_the_sm_profile():
    assert problems(LISTENER + 'profile = "sm"\nearly_data = 100') == [
        'listeners[0].profile: "sm" needs an SM2 certificate, and the development certificate is none',
        'listeners[0].early_data: tickets are not for the suites of profile "sm", expected 0',
    ]
    plain = '[[listeners]]\nname = "a"\nprofile = "sm"\n'
    assert problems(plain) == ["listeners[0].profile: only transport tls has a profile, this is tcp"]
    files = '[[listeners.certificates]]\nchain = "/etc/hostname"\nkey = "/etc/hostname"\n'
    loads(LISTENER + 'profile = "sm"\n' + files)
    native = problems(LISTENER + 'profile = "sm"\n' + files + '[tls]\nengine = "native"')
    assert native == ['listeners[0].profile: "sm" needs the pure engine, and tls.engine is "native"; expected "auto"']
