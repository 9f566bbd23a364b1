"""The contract with what pyOpenSSL and cryptography keep to themselves: each symbol by its name."""

from __future__ import annotations

import pytest
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from protocols.tls import binding
from tests.protocols.tls.tls_links import client, server

GONE = "the installed {} has no {} any more, which protocols/tls/binding.py needs"


@pytest.mark.parametrize("name", binding.FUNCTIONS)
def test_the_library_has(name):
    assert hasattr(lib, name), GONE.format("cryptography", name)
    assert name not in binding.missing()


@pytest.mark.parametrize(("owner", "name"), binding.ATTRIBUTES)
def test_pyopenssl_has(owner, name):
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    examples = {SSL.Context: context, SSL.Connection: SSL.Connection(context, None), crypto.PKey: crypto.PKey()}
    assert hasattr(examples[owner], name), GONE.format("pyOpenSSL", f"{owner.__name__}.{name}")


@pytest.mark.parametrize("name", binding.FUNCTIONS)
def test_no_symbol_is_named_for_nothing(name):
    with open(binding.__file__, encoding="utf-8") as file:
        assert f"lib.{name}" in file.read(), f"binding.py names {name} and does not use it"


def test_no_symbol_is_used_without_being_named():
    import re

    with open(binding.__file__, encoding="utf-8") as file:
        used = set(re.findall(r"\blib\.([A-Za-z]\w+)", file.read()))
    assert used == set(binding.FUNCTIONS)


def test_a_symbol_that_has_gone_is_told_by_its_name(monkeypatch):
    monkeypatch.setattr(binding, "FUNCTIONS", (*binding.FUNCTIONS, "SSL_of_tomorrow"))
    assert binding.missing() == ["SSL_of_tomorrow"]


@pytest.mark.parametrize(
    ("capability", "words"), [("HAS_EARLY_DATA", "early data"), ("HAS_EXTERNAL_PSK", "pre-shared keys")]
)
def test_without_a_capability_a_context_that_needs_it_is_refused(monkeypatch, capability, words):
    assert getattr(binding, capability)
    monkeypatch.setattr(binding, capability, False)
    with pytest.raises(ValueError, match=words):
        server()
    server(find_psk=None, max_early_data=0)


def test_groups_and_algorithms_that_openssl_does_not_know():
    with pytest.raises(ValueError, match="X25519, Q-256"):
        server(groups=["X25519", "Q-256"])
    with pytest.raises(ValueError, match="rot13"):
        client(signature_algorithms=["rot13"])
    # Nothing of it is left for the next call on this thread.
    server(groups=["X25519"])


def test_the_option_against_openssl_s_own_guard_is_still_that_bit():
    """Without it OpenSSL would make tickets that need a cache, which are a third as long as others."""
    from tests.protocols.tls.tls_links import Link, records

    sizes = {}
    for tickets in (True, False):
        link = Link(client().engine(), server(tickets=tickets).engine()).run()
        sizes[tickets] = len(records(link.down)[-1])
    assert sizes[True] > 2 * sizes[False]
