"""QoS 2 messages of a client: what is answered to them, and when their ids are free again."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from accessgw.core.mqtt.session import MqttSession
from protocols.mqtt.reasons import Reason


def told(answer: int | Deferred[int]) -> list[int]:
    """What it answers, as soon as it does."""
    if isinstance(answer, int):
        return [answer]
    answers: list[int] = []

    def note(reason: int) -> int:
        answers.append(reason)
        return reason

    answer.addCallback(note)
    return answers


def test_what_was_refused_leaves_its_id_free() -> None:
    session = MqttSession("d1", None, "")
    session.remember(1)
    assert told(session.receive(1, Reason.SUCCESS)) == [0]
    session.remember(2)
    assert told(session.receive(2, Reason.QUOTA_EXCEEDED)) == [Reason.QUOTA_EXCEEDED]
    session.remember(3)
    stored: Deferred[int] = Deferred()
    answer = told(session.receive(3, stored))
    stored.callback(Reason.UNSPECIFIED)
    assert answer == [Reason.UNSPECIFIED]
    assert session.received == {1}


def test_the_same_message_again_waits_for_the_first_answer() -> None:
    session = MqttSession("d1", None, "")
    session.remember(1)
    stored: Deferred[int] = Deferred()
    first, again = told(session.receive(1, stored)), told(session.receive_again(1))
    assert (first, again) == ([], [])
    stored.callback(Reason.NO_MATCHING_SUBSCRIBERS)
    assert (first, again) == ([0x10], [0x10])
    assert told(session.receive_again(1)) == [0]


def test_the_end_of_a_message_leaves_the_next_one_with_its_id_alone() -> None:
    """The client did not wait for PUBREC: it has released the id, and published another message under it."""
    session = MqttSession("d1", None, "")
    earlier: Deferred[int] = Deferred()
    later: Deferred[int] = Deferred()
    session.remember(1)
    session.receive(1, earlier)
    assert session.release(1)
    session.remember(1)
    session.receive(1, later)
    again = told(session.receive_again(1))
    earlier.callback(Reason.UNSPECIFIED)
    assert session.received == {1} and again == []
    later.callback(Reason.SUCCESS)
    assert again == [0] and session.received == {1}
