"""The contract with what pyOpenSSL and cryptography keep to themselves: each symbol by its name."""

from __future__ import annotations

import pytest
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from protocols.tls import binding, server_context
from tests.protocols.tls.tls_links import Link, client, server

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
    from tests.protocols.tls.tls_links import records

    sizes = {}
    for tickets in (True, False):
        link = Link(client().engine(), server(tickets=tickets).engine()).run()
        sizes[tickets] = len(records(link.down)[-1])
    assert sizes[True] > 2 * sizes[False]


def test_a_hand_shake_that_is_broken_off_leaves_nothing_to_the_next_at_its_address(monkeypatch):
    class Interrupted:
        def __getattr__(self, name):
            return getattr(lib, name)

        def SSL_do_handshake(self, ssl):
            raise KeyboardInterrupt

    engine = client().engine()
    with monkeypatch.context() as patched:
        patched.setattr(binding, "lib", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            engine.start()
    assert not binding._shaking


def test_the_answers_to_offers_of_protocols_take_little_memory():
    context = server()
    remembered = context.context.get_app_data().chosen_alpn
    for size in (100, 200):
        Link(client(alpn=["mmtp/1", *(f"{'x' * 250}{at:03}" for at in range(size))]).engine(), context.engine()).run()
    for at in range(100):
        Link(client(alpn=["mmtp/1", f"x{at}"]).engine(), context.engine()).run()
    assert len(remembered) == binding._MOST_OFFERS
    assert sum(len(names) for _, names in remembered) < 10_000


def test_an_answer_that_openssl_may_have_is_not_replaced(monkeypatch):
    """Two threads may choose for the same offer at the same time: here one does it in the middle of the other."""
    seen = []

    def selector(protocols, below_1_3):
        def select(over_1_3, offered):
            if not seen:
                seen.append(None)
                Link(client().engine(), context.engine()).run()
                seen[:] = context.context.get_app_data().chosen_alpn.values()
            return b"mmtp/1"

        return select

    monkeypatch.setattr(server_context, "alpn_selector", selector)
    context = server()
    Link(client().engine(), context.engine()).run()
    assert len(seen) == 1
    assert next(iter(context.context.get_app_data().chosen_alpn.values())) is seen[0]
