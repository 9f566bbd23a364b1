"""SCRAM-SHA-256: the RFC's own exchange, both sides against each other, and hostile messages."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError
from protocols.saslprep import saslprep
from protocols.scram import ClientExchange, ScramError, ServerFirst, Verifier

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
PROOF = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SUCCESS = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
PENCIL = Verifier.of("pencil", SALT, 4096)


def client(user: str = "user", password: str = "pencil") -> ClientExchange:
    return ClientExchange(user, password, lambda: CLIENT_NONCE)


def test_the_example_of_rfc_7677_on_the_servers_side() -> None:
    first = ServerFirst(FIRST)
    assert first.user == "user"
    final = first.challenge(PENCIL, SERVER_NONCE)
    assert final.message == CHALLENGE
    assert final.finish(PROOF) == SUCCESS


def test_the_example_of_rfc_7677_on_the_clients_side() -> None:
    one = client()
    assert one.first() == FIRST
    assert one.respond(CHALLENGE) == PROOF
    one.finish(SUCCESS)


def test_a_verifier_survives_its_text() -> None:
    assert Verifier.parse(str(PENCIL)) == PENCIL
    assert str(PENCIL).startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected SCRAM-SHA-256"),
        ("SCRAM-SHA-1$4096:AAAA$AAAA:AAAA", "expected SCRAM-SHA-256"),
        (str(PENCIL).replace("4096", "4095"), "expected 4096 to"),
        (str(PENCIL).replace("4096", "99999999"), "expected 4096 to"),
        ("SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", "two keys of 32 bytes"),
        (str(PENCIL).replace("W22Z", "W2=Z"), "expected base64"),
    ],
)
def test_a_bad_verifier_is_told(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Verifier.parse(text)


@pytest.mark.parametrize("user", ["user", "a,b=c", "jörg", "=2C"])
def test_both_sides_understand_each_other(user: str) -> None:
    one = client(user, "pässwörd")
    first = ServerFirst(one.first())
    assert first.user == saslprep(user)
    final = first.challenge(Verifier.of("pässwörd", b"salt", 5000), SERVER_NONCE)
    one.finish(final.finish(one.respond(final.message)))


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=8), st.text(max_size=8))
def test_whatever_saslprep_lets_pass_logs_in(user: str, password: str) -> None:
    try:
        prepared = saslprep(user, stored=True)
        verifier = Verifier.of(password, b"salt", 4096)
    except ValueError:
        return
    if not prepared:
        return
    one = client(user, password)
    first = ServerFirst(one.first())
    assert first.user == prepared == saslprep(prepared, stored=True)
    final = first.challenge(verifier, SERVER_NONCE)
    one.finish(final.finish(one.respond(final.message)))


def test_names_and_passwords_that_look_alike_are_alike() -> None:
    """RFC 5802, section 2.2: SASLprep on both sides."""
    one = client("us\u00ader", "pe\u00adncil")
    final = ServerFirst(one.first()).challenge(PENCIL, SERVER_NONCE)
    assert final.finish(one.respond(final.message)) == SUCCESS


def test_a_wrong_password_is_an_invalid_proof() -> None:
    one = client(password="pen")
    final = ServerFirst(one.first()).challenge(PENCIL, SERVER_NONCE)
    with pytest.raises(ScramError) as caught:
        final.finish(one.respond(final.message))
    assert caught.value.value == "invalid-proof"


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (b"", "other-error"),
        (b"n,,", "other-error"),
        (b"n,,n=user", "other-error"),
        (b"n,,r=abc,n=user", "other-error"),
        (b"n,,n=user,r=", "other-error"),
        (b"n,,n=user,r=a\x7f", "other-error"),
        (b"n,,n=user,r=abc,", "other-error"),
        (b"n,,n=user,r=abc,m=x", "extensions-not-supported"),
        (b"n,,m=x,n=user,r=abc", "extensions-not-supported"),
        (b"x,,n=user,r=abc", "other-error"),
        (b"n,a=other,n=user,r=abc", "other-error"),
        (b"n,b,n=user,r=abc", "other-error"),
        (b"p=tls-unique,,n=user,r=abc", "server-does-not-support-channel-binding"),
        (b"n,,n=,r=abc", "invalid-username-encoding"),
        (b"n,,n=a=b,r=abc", "invalid-username-encoding"),
        (b"n,,n=a\x00,r=abc", "invalid-username-encoding"),
        ("n,,n=\u0627a,r=abc".encode(), "invalid-username-encoding"),
        ("n,,n=\u00ad,r=abc".encode(), "invalid-username-encoding"),
        (b"n,,n=\xff,r=abc", "invalid-encoding"),
        (b"n,,n=user,r=abc" + b"x" * 5000, "other-error"),
    ],
)
def test_a_bad_first_message(message: bytes, value: str) -> None:
    with pytest.raises(ScramError) as caught:
        ServerFirst(message)
    assert caught.value.value == value


def test_what_a_first_message_may_have_beside() -> None:
    assert ServerFirst(b"y,a=user,n=user,r=abc,x=ignored").user == "user"


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (b"", "other-error"),
        (PROOF.replace(b"c=biws", b"c=eSws"), "channel-bindings-dont-match"),
        (PROOF.replace(b"c=biws", b"c=!"), "invalid-encoding"),
        (PROOF.replace(b"r=rOpr", b"r=rOps"), "other-error"),
        (PROOF.replace(b"p=dHzb", b"p=dHzc"), "invalid-proof"),
        (PROOF.replace(b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", b"p=AAAA"), "invalid-proof"),
        (PROOF.replace(b",p=", b",m=x,p="), "extensions-not-supported"),
        (PROOF.replace(b",p=", b",x,p="), "other-error"),
        (PROOF.replace(b",p=", b",q="), "other-error"),
    ],
)
def test_a_bad_proof(message: bytes, value: str) -> None:
    final = ServerFirst(FIRST).challenge(PENCIL, SERVER_NONCE)
    with pytest.raises(ScramError) as caught:
        final.finish(message)
    assert caught.value.value == value


@pytest.mark.parametrize(
    "message",
    [
        b"",
        CHALLENGE.replace(b"r=rOpr", b"r=xOpr"),
        b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        CHALLENGE.replace(b"i=4096", b"i=4095"),
        CHALLENGE.replace(b"i=4096", b"i=999999999"),
        CHALLENGE.replace(b"i=4096", b"i=-1"),
        CHALLENGE.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        b"m=x," + CHALLENGE,
    ],
)
def test_a_server_cannot_talk_a_client_into_less(message: bytes) -> None:
    with pytest.raises(ScramError):
        client().respond(message)


@pytest.mark.parametrize("message", [b"", b"v=", b"v=AAAA", b"e=invalid-proof", SUCCESS[:-1]])
def test_a_client_wants_proof_of_the_server(message: bytes) -> None:
    one = client()
    one.respond(CHALLENGE)
    with pytest.raises(ScramError):
        one.finish(message)


def test_a_client_that_was_not_challenged_has_nothing_to_check() -> None:
    with pytest.raises(LocalError):
        client().finish(b"v=")
    for nonce in ("", "a,b", "ü"):
        with pytest.raises(LocalError):
            ClientExchange("user", "pencil", lambda nonce=nonce: nonce)
    with pytest.raises(LocalError):
        client(user="")
    with pytest.raises(LocalError):
        client(password="\u0627a")
    with pytest.raises(LocalError):
        ServerFirst(FIRST).challenge(PENCIL, "a,b")


MUTATED = st.one_of(
    st.binary(max_size=80),
    st.text(alphabet="npyar=,m2C3D\x00ü\u0627\ufeff", max_size=40).map(lambda text: text.encode()),
)


@given(MUTATED, st.integers(0, 30))
def test_hostile_messages_raise_nothing_but_the_protocols_own_error(noise: bytes, at: int) -> None:
    def only_ours(act: Any, message: bytes) -> None:
        try:
            act(message)
        except ScramError as error:
            assert re.fullmatch("[a-z-]+", error.value)

    one = client()
    one._server_signature = b"x" * 32
    for whole, act in (
        (FIRST, ServerFirst),
        (PROOF, ServerFirst(FIRST).challenge(PENCIL, SERVER_NONCE).finish),
        (CHALLENGE, lambda message: client().respond(message) if message != CHALLENGE else None),
    ):
        only_ours(act, noise)
        only_ours(act, whole[:at] + noise + whole[at:])
    try:
        one.finish(noise)
    except ScramError:
        pass
    else:
        raise AssertionError("accepted a server that proved nothing")


# ------------------------------------------------------------------ RFC 4013


@pytest.mark.parametrize(
    ("text", "prepared"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")],
)
def test_saslprep_as_in_section_3_of_rfc_4013(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "\u0627a\u0627", "\ud800", "\ue000", "\u200e"])
def test_saslprep_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        saslprep(text)


def test_unassigned_code_points_are_refused_in_stored_text_only() -> None:
    assert saslprep("\u0221") == "\u0221"
    with pytest.raises(ValueError, match="newer"):
        saslprep("\u0221", stored=True)
