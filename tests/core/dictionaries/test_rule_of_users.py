"""No string that too few users have gets into a dictionary, wherever it stands and whatever it is made of."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accessgw.core.dictionaries.common import Corpus
from accessgw.core.dictionaries.training import TrainingRefused, check, train
from accessgw.core.dictionaries.zstd_format import head_size
from accessgw.model.dictionaries import Sample, TrainingJob, TrainingResult
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.settings import Limits
from tests.core.dictionaries.dictionary_bodies import order, orders

USERS = 50


def trained(samples: list[Sample], users: int = USERS, size: int = 4096) -> TrainingResult:
    return train(TrainingJob(7, samples, users, size), lambda percent: None)


def content(result: TrainingResult) -> bytes:
    return result.content[head_size(result.content) :]


def seen_from(samples: list[Sample], text: bytes) -> int:
    """Counted the plain way."""
    return len({sample.user for sample in samples if text in sample.body})


def assert_rule(samples: list[Sample], result: TrainingResult, users: int = USERS) -> None:
    """Every string of the content, counted without any of the code under test, in windows of several lengths."""
    held = content(result)
    distinct = {(sample.user, sample.body) for sample in samples}
    for length in (1, 2, 3, 4, 6, 9, 11, 16, 24, 40):
        users_of: dict[bytes, set[int]] = {held[at : at + length]: set() for at in range(len(held) - length + 1)}
        for user, body in distinct:
            for at in range(len(body) - length + 1):
                if (text := body[at : at + length]) in users_of:
                    users_of[text].add(user)
        for text, seen in users_of.items():
            assert not 0 < len(seen) < users or length < result.shortest, (text, len(seen))


@pytest.fixture(scope="module")
def clean() -> list[Sample]:
    return orders()


def test_what_is_common_is_kept_and_pays(clean: list[Sample]) -> None:
    result = trained(clean)
    assert b'"channel": "mobile"' in content(result)
    assert result.expected < 0.6 * result.plain
    assert result.users == 150 and result.samples == 600 and len(result.content) <= 4096
    assert_rule(clean, result)
    dictionary = Dictionary(7, result.content, ("qorders.create",))
    body = order(random.Random(99))
    packed = dictionary.compress(body)
    assert packed is not None and dictionary.decompress(packed, Limits()) == body


SECRETS = ("Bartholomew Quux", "欧阳娜娜", "赵括", "13800138000", "6222020200112233445", "qz", "Zoë")


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_planted_rare_strings_reach_no_dictionary(clean: list[Sample], where: str) -> None:
    """49 users say each of them, again and again."""
    source = random.Random(3)
    planted = []
    for number in range(49 * len(SECRETS) * 2):
        secret = SECRETS[number // 49 % len(SECRETS)]
        body = order(source, note=secret if where == "middle" else "")
        text = secret.encode()
        body = text + body if where == "start" else body + text if where == "end" else body
        planted.append(Sample(number % 49 + 1, body))
    samples = clean + planted
    result = trained(samples)
    for secret in SECRETS:
        assert seen_from(samples, secret.encode()) == 49
        assert secret.encode() not in result.content
    assert_rule(samples, result)


@pytest.mark.parametrize(
    ("first", "second"), [("王", "伟明"), ("Anna", "bella"), ("138001", "38000"), ("欧阳", "娜娜")]
)
def test_a_name_of_common_pieces_is_rare_as_a_whole(clean: list[Sample], first: str, second: str) -> None:
    """Each half is said by a hundred users, the name by three."""
    source = random.Random(4)
    samples = list(clean)
    for user in range(1, 101):
        samples.append(Sample(user, order(source, note=f"to {first}.")))
        samples.append(Sample(user, order(source, note=f"to .{second} thanks")))
    for user in (1, 2, 3):
        samples += [Sample(user, order(source, note=f"to {first}{second} thanks"))] * 40
    result = trained(samples)
    assert (first + second).encode() not in result.content
    assert first.encode() in result.content or second.encode() in result.content, "the halves are common"
    assert_rule(samples, result)


def test_one_user_with_ten_thousand_equal_bodies_teaches_nothing(clean: list[Sample]) -> None:
    mine = json.dumps({"diary": "dear diary, the treasure is under the old oak", "channel": "mobile"}).encode()
    samples = clean + [Sample(9, mine)] * 10_000
    result = trained(samples)
    assert b"treasure" not in result.content and b"diary" not in result.content
    assert_rule(samples, result)


def test_the_fiftieth_user_makes_a_string_common(clean: list[Sample]) -> None:
    source = random.Random(5)
    note = "a voucher for everybody of the spring campaign"
    planted = [Sample(number + 1, order(source, note)) for number in range(50)] * 4
    assert note.encode() in trained(clean + planted).content
    assert note.encode() not in trained(clean + [sample for sample in planted if sample.user < 50]).content


def test_bodies_of_all_byte_values_have_no_free_separator_and_keep_the_rule() -> None:
    source = random.Random(6)
    samples = []
    for number in range(600):
        head = b"\x08\x96\x01\x12\x07payment\x1a\x10" + source.randbytes(24) + b"\x22\x05" + b"CNY\x00\xff" * 3
        samples.append(Sample(number % 150 + 1, head + source.choice([b"corner-shop", b"noodle-house"]) * 2))
    result = trained(samples)
    assert result.shortest == 4
    assert_rule(samples, result)


def test_a_field_behind_random_bytes_does_not_keep_all_other_strings_out() -> None:
    """Every byte value has stood before the field's name, so that nothing can be joined to the front of it."""
    source = random.Random(8)
    towns = [
        name.encode() for name in ("Ashborough", "Brindlewick", "Candlemoor", "Dunthorpe", "Elmsworth", "Fennwater")
    ]
    samples = []
    for number in range(3000):
        body = b"\x1a\x0c" + source.randbytes(12) + b'"\x04town' + source.choice(towns) + source.randbytes(3)
        samples.append(Sample(number % 150 + 1, body))
    result = trained(samples)
    assert [town for town in towns if town not in content(result)] == []
    assert_rule(samples, result)


def test_short_strings_take_the_room_that_is_left() -> None:
    """What stands between values that nobody shares."""
    source = random.Random(9)
    samples = []
    for number in range(600):
        body = f'{{"amount":{source.getrandbits(60)}-kr-{source.getrandbits(60):x}}}'
        samples.append(Sample(number % 150 + 1, body.encode()))
    result = trained(samples)
    assert b"-kr-" in content(result)
    assert b'{"amount":' in content(result)
    assert_rule(samples, result)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (orders(users=49), "at least 50 users, got 49"),
        ([Sample(n + 1, random.Random(n).randbytes(200)) for n in range(300)], "common|smaller|without a dictionary"),
        (orders(count=60, users=60)[:20] + [Sample(n, b"x" * 20) for n in range(60)], "bytes of bodies"),
        ([Sample(1, b"")], "got 0"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_a_reason(samples: list[Sample], why: str) -> None:
    with pytest.raises(TrainingRefused, match=why):
        trained(samples)


def test_joints_without_a_free_byte_spell_nothing_rare() -> None:
    """Three users have what two common strings with some byte between them would be, for the bytes that are rarest."""
    samples = []
    for number in range(600):
        text = (b"first-common-string", b"second-common-string", b"third-common-string")[number % 3]
        samples.append(Sample(number // 3 % 150 + 1, b"\xfe%03d" % (number % 997) + text + b"%04x" % (number * 7919)))
    for byte in range(8):
        for first, second in ((b"string", b"first"), (b"string", b"second"), (b"string", b"third")):
            samples.append(Sample(byte % 3 + 1, first + bytes((byte,)) + second))
    samples += [Sample(n % 50 + 1, b"zz" + bytes((byte,)) + b"zz%d" % n) for byte in range(8, 256) for n in range(12)]
    result = trained(samples)
    assert result.shortest == 4 and b"common" in content(result)
    assert_rule(samples, result)


def test_a_finished_dictionary_that_breaks_the_rule_is_refused(clean: list[Sample]) -> None:
    result = trained(clean)
    check(result.content, clean, USERS, result.shortest)
    leaked = clean[17].body[14:30]
    with pytest.raises(TrainingRefused, match="fewer than 50 users"):
        check(result.content + b"\0" + leaked, clean, USERS, result.shortest)
    with pytest.raises(TrainingRefused, match="zstd dictionary"):
        check(b"no dictionary at all", clean, USERS, result.shortest)


def test_the_check_sees_a_rare_string_across_a_joint(clean: list[Sample]) -> None:
    """Two common strings, side by side, spell what one user has."""
    extra = [Sample(user, order(random.Random(user), note=note)) for user in range(1, 80) for note in ("Li ", "Ming")]
    samples = [*clean, *extra, Sample(5, order(random.Random(1), note="Li Ming"))]
    head = trained(clean).content
    head = head[: head_size(head)]
    check(head + b'"Li \0Ming"', samples, USERS, 1)
    with pytest.raises(TrainingRefused):
        check(head + b'"Li Ming"', samples, USERS, 1)


letters = st.binary(min_size=1, max_size=12).map(lambda data: bytes(97 + byte % 3 for byte in data))


@settings(max_examples=150, deadline=None)
@given(
    bodies=st.lists(st.tuples(st.integers(1, 4), letters), min_size=1, max_size=12),
    held=letters,
    users=st.integers(2, 3),
    shortest=st.integers(1, 4),
)
def test_the_check_finds_exactly_what_a_plain_search_finds(
    bodies: list[tuple[int, bytes]], held: bytes, users: int, shortest: int
) -> None:
    samples = [Sample(user, body) for user, body in bodies]
    corpus = Corpus(samples, users)
    corpus.index(held)
    plain = any(
        0 < seen_from(samples, held[start:end]) < users
        for start in range(len(held))
        for end in range(start + shortest, len(held) + 1)
    )
    found = corpus.violation(held, shortest)
    assert (found is not None) == plain
    if found is not None:
        assert 0 < seen_from(samples, held[found[0] : found[1]]) < users and found[1] - found[0] >= shortest


@settings(max_examples=150, deadline=None)
@given(bodies=st.lists(st.tuples(st.integers(1, 4), letters), min_size=1, max_size=12), users=st.integers(2, 3))
def test_common_strings_are_all_that_is_common(bodies: list[tuple[int, bytes]], users: int) -> None:
    samples = [Sample(user, body) for user, body in bodies]
    corpus = Corpus(samples, users)
    for body in corpus.bodies:
        found = list(corpus.common_strings(body, 2))
        plain = {
            body[start:end]
            for start in range(len(body))
            for end in range(start + 2, len(body) + 1)
            if seen_from(samples, body[start:end]) >= users
        }
        assert set(found) <= plain
        assert all(any(text in longer for longer in found) for text in plain)
