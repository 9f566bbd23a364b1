"""What every AnswerStore does: the same tests over SQLite and memory."""

from __future__ import annotations

from typing import Any

import pytest

from accessgw.core.interfaces.stores import ClaimState

NOW = 1_700_000_000.0
LARGEST = (1 << 64) - 1


def claim(stores: Any, call_id: int = 5, digest: bytes = b"a", device: str = "d", user: str = "u") -> str:
    return stores.wait(stores.answers.claim(device, user, call_id, digest, NOW))


def repeated(stores: Any, call_id: int, first: float) -> str:
    return stores.wait(stores.answers.claim("d", "u", call_id, b"a", NOW, first=first))


def test_a_claim_is_new_once(stores: Any) -> None:
    assert claim(stores) == ClaimState.NEW
    assert claim(stores) == ClaimState.OPEN


def test_a_settled_claim_is_answered(stores: Any) -> None:
    claim(stores)
    stores.answers.settle("d", "u", 5)
    assert claim(stores) == ClaimState.ANSWERED
    assert claim(stores) == ClaimState.ANSWERED


def test_a_released_claim_is_new_again_but_an_answered_one_stays(stores: Any) -> None:
    claim(stores)
    stores.answers.release("d", "u", 5)
    assert claim(stores) == ClaimState.NEW
    stores.answers.settle("d", "u", 5)
    stores.answers.release("d", "u", 5)
    assert claim(stores) == ClaimState.ANSWERED


def test_another_digest_is_a_mismatch_open_or_answered(stores: Any) -> None:
    claim(stores)
    assert claim(stores, digest=b"b") == ClaimState.MISMATCH
    stores.answers.settle("d", "u", 5)
    assert claim(stores, digest=b"b") == ClaimState.MISMATCH
    assert claim(stores) == ClaimState.ANSWERED


@pytest.mark.parametrize("call_id", [0, 1, (1 << 63) - 1, 1 << 63, LARGEST])
def test_call_ids_have_64_bits(stores: Any, call_id: int) -> None:
    assert claim(stores, call_id) == ClaimState.NEW
    assert claim(stores, call_id ^ (1 << 63)) == ClaimState.NEW
    stores.answers.settle("d", "u", call_id)
    assert claim(stores, call_id) == ClaimState.ANSWERED
    assert claim(stores, call_id ^ (1 << 63)) == ClaimState.OPEN


@pytest.mark.parametrize("call_id", [-1, 1 << 64])
def test_other_call_ids_are_refused(stores: Any, call_id: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        claim(stores, call_id)


def test_device_user_and_id_make_the_key(stores: Any) -> None:
    claims = [claim(stores, device=device, user=user) for device in ("d", "d\x00", "e") for user in ("", "u")]
    assert claims == [ClaimState.NEW] * 6


def test_of_racing_claims_one_wins(stores: Any) -> None:
    racing = [stores.answers.claim("d", "u", 5, b"a", NOW) for _ in range(6)]
    stores.answers.settle("d", "u", 5)
    after = stores.answers.claim("d", "u", 5, b"a", NOW)
    assert [stores.wait(deferred) for deferred in racing] == [ClaimState.NEW, *[ClaimState.OPEN] * 5]
    assert stores.wait(after) == ClaimState.ANSWERED


def test_release_and_claim_keep_their_order(stores: Any) -> None:
    first = stores.answers.claim("d", "u", 5, b"a", NOW)
    stores.answers.release("d", "u", 5)
    second = stores.answers.claim("d", "u", 5, b"b", NOW)
    stores.answers.release("d", "u", 5)
    stores.answers.settle("d", "u", 5)
    assert (stores.wait(first), stores.wait(second)) == (ClaimState.NEW, ClaimState.NEW)
    assert claim(stores, digest=b"c") == ClaimState.NEW


def test_an_old_claim_is_settled_released_and_made_again_in_one_batch(stores: Any) -> None:
    claim(stores, 1)
    claim(stores, 2)
    stores.answers.release("d", "u", 1)
    again = stores.answers.claim("d", "u", 1, b"b", NOW)
    stores.answers.settle("d", "u", 1)
    stores.answers.settle("d", "u", 2)
    assert stores.wait(again) == ClaimState.NEW
    assert claim(stores, 1, b"b") == ClaimState.ANSWERED
    assert claim(stores, 2) == ClaimState.ANSWERED


def test_sweep_forgets_old_claims(stores: Any) -> None:
    stores.wait(stores.answers.claim("d", "u", 1, b"a", NOW))
    stores.wait(stores.answers.claim("d", "u", 2, b"a", NOW + 1))
    assert stores.wait(stores.answers.sweep(NOW + 1)) == 1
    assert stores.wait(stores.answers.sweep(NOW + 1)) == 0
    assert (claim(stores, 1), claim(stores, 2)) == (ClaimState.NEW, ClaimState.OPEN)


def test_settling_what_was_never_claimed_does_nothing(stores: Any) -> None:
    stores.answers.settle("d", "u", 5)
    stores.answers.release("d", "u", 5)
    assert claim(stores) == ClaimState.NEW


def test_of_too_many_claims_the_oldest_are_forgotten_and_repetitions_from_their_time_are_not_trusted(
    stores: Any,
) -> None:
    claims = [stores.answers.claim("d", "u", number, b"a", NOW + number) for number in range(12)]
    assert [stores.wait(made) for made in claims] == [ClaimState.NEW] * 12
    assert claim(stores, 11) == claim(stores, 2) == ClaimState.OPEN
    assert repeated(stores, 1, NOW + 1) == ClaimState.OPEN, "forgotten"
    assert repeated(stores, 100, NOW + 1) == ClaimState.OPEN, "who knows"
    assert repeated(stores, 1, NOW + 1.5) == ClaimState.NEW, "nothing was claimed, and this one is younger"


def test_claims_that_leave_room_are_not_forgotten(stores: Any) -> None:
    for number in range(10):
        stores.wait(stores.answers.claim("d", "u", number, b"a", NOW + number))
    assert repeated(stores, 100, NOW - 1) == ClaimState.NEW
