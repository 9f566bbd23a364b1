from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accessgw.model.identity import Identity
from accessgw.model.mqtt_settings import TopicRuleSettings
from accessgw.policy import topic_rule_tree, topic_rules
from accessgw.policy.topic_rules import Decision, TopicRules
from tests.naive_topics import all_filters, all_topics, matches


def rule(permit: str, *topics: str, **more) -> TopicRuleSettings:
    return TopicRuleSettings(permit=permit, topics=topics, **more)


def allow(*topics: str, **more) -> TopicRuleSettings:
    return rule("allow", *topics, **more)


def deny(*topics: str, **more) -> TopicRuleSettings:
    return rule("deny", *topics, **more)


ME = Identity("d1", user="u1", app="app", attributes={"region": "eu", "os": "x"})


def allowed(rules, filter: str, identity: Identity = ME) -> bool:
    return TopicRules(rules, "deny").check_subscribe(identity, filter).allowed


def denied(rules, filter: str, identity: Identity = ME) -> bool:
    return not TopicRules(rules, "allow").check_subscribe(identity, filter).allowed


def test_without_rules_the_default_holds():
    for topic in ("a", "$SYS/x", "$push/a", "$call/a/b"):
        assert TopicRules((), "allow").check_publish(ME, topic, 2, True) == Decision(True, -1, 2)
        assert TopicRules((), "deny").check_publish(ME, topic) == Decision(False, -1, 2)
        assert TopicRules((), "deny").check_subscribe(ME, topic) == Decision(False, -1, 2)
    assert TopicRules(()).check_subscribe(ME, "#").allowed


def test_the_first_rule_that_matches_decides():
    rules = TopicRules([allow("a/b"), deny("a/#"), allow("#", max_qos=1)], "deny")
    assert rules.check_publish(ME, "a/b") == Decision(True, 0, 2)
    assert rules.check_publish(ME, "a/c") == Decision(False, 1, 2)
    assert rules.check_publish(ME, "b") == Decision(True, 2, 1)
    assert rules.check_publish(ME, "$SYS/b") == Decision(False, -1, 2)
    assert rules.check_subscribe(ME, "b/#") == Decision(True, 2, 1)
    assert rules.check_subscribe(ME, "+") == Decision(False, 1, 2)
    assert rules.check_subscribe(ME, "+/+/b") == Decision(False, 1, 2)
    assert len(rules) == 3


def test_a_rule_may_be_for_one_action():
    rules = TopicRules([deny("a", action="publish"), allow("a", action="subscribe")], "deny")
    assert not rules.check_publish(ME, "a").allowed and rules.check_subscribe(ME, "a").allowed


def test_qos_and_retain_of_a_publish():
    rules = TopicRules([allow("a", max_qos=1, retain=False), allow("#")], "deny")
    assert rules.check_publish(ME, "a", 1) == Decision(True, 0, 1)
    assert rules.check_publish(ME, "a", 2) == Decision(False, 0, 1)
    assert rules.check_publish(ME, "a", 0, True) == Decision(False, 0, 1)
    assert rules.check_publish(ME, "b", 2, True).allowed


@pytest.mark.parametrize(
    ("conditions", "mine"),
    [
        ({"device": "d1"}, True),
        ({"device": "d2"}, False),
        ({"device": "d*"}, True),
        ({"device": "d1*"}, True),
        ({"device": "d12*"}, False),
        ({"device": "*"}, True),
        ({"user": "u1"}, True),
        ({"user": "u*"}, True),
        ({"user": "v*"}, False),
        ({"app": "app"}, True),
        ({"app": "ap"}, False),
        ({"attributes": {"region": "eu"}}, True),
        ({"attributes": {"region": "us"}}, False),
        ({"attributes": {"region": "eu", "os": "x"}}, True),
        ({"attributes": {"region": "eu", "os": "y"}}, False),
        ({"attributes": {"none": ""}}, False),
        ({"device": "d1", "user": "u1", "app": "app", "attributes": {"os": "x"}}, True),
        ({"device": "d1", "user": "u2"}, False),
        ({"device": "d1", "user": "u*"}, True),
        ({"device": "d*", "user": "v*"}, False),
        ({"device": "d1", "app": "other"}, False),
        ({"user": "u1", "attributes": {"os": "y"}}, False),
    ],
)
def test_whom_a_rule_is_for(conditions, mine):
    assert TopicRules([allow("a", **conditions)], "deny").check_publish(ME, "a").allowed is mine
    assert allowed([allow("a", **conditions)], "a") is mine
    assert denied([deny("a", **conditions)], "+") is mine


def test_placeholders_are_the_identitys_own():
    rules = TopicRules([allow("{app}/{user}/{device}/#", "x/dev-{device}-{user}/y")], "deny")
    assert rules.check_publish(ME, "app/u1/d1/x").allowed
    assert rules.check_publish(ME, "x/dev-d1-u1/y").allowed
    for topic in ("app/u1/d2/x", "app/u1/{device}", "x/dev-d1-/y", "x/dev-{device}-{user}/y"):
        assert not rules.check_publish(ME, topic).allowed
    assert rules.check_subscribe(ME, "app/u1/d1/+/x").allowed
    assert not rules.check_subscribe(ME, "app/u1/+/x").allowed


@pytest.mark.parametrize("value", ["a/b", "+", "#", "a+", "", "/"])
def test_a_value_that_is_no_level_matches_nothing(value):
    someone = Identity("d1", user=value)
    rules = TopicRules([allow("u/{user}/#", "w/x-{user}")], "deny")
    for topic in (f"u/{value}", f"u/{value}/x", f"w/x-{value}", "u/a/b"):
        assert not rules.check_publish(someone, topic).allowed
        assert not rules.check_subscribe(someone, topic).allowed
    for filter in (f"u/{value}", "u/+", "u/#", "#", f"w/x-{value}", "w/+"):
        assert not denied([deny("u/{user}", "w/x-{user}")], filter, someone), filter


def test_a_value_does_not_lead_into_the_servers_own_topics():
    someone = Identity("$SYS", user="SYS")
    assert not TopicRules([allow("{device}/#")], "deny").check_publish(someone, "$SYS/x").allowed
    assert not allowed([allow("{device}/#")], "$SYS/x", someone)
    assert TopicRules([allow("${user}/#")], "deny").check_publish(someone, "$SYS/x").allowed
    assert TopicRules([allow("x/{device}")], "deny").check_publish(someone, "x/$SYS").allowed
    assert not denied([deny("${user}/#")], "+/x", someone) and denied([deny("${user}/#")], "$SYS/+", someone)


def test_a_value_with_braces_is_not_expanded_again():
    someone = Identity("{user}", user="u1")
    assert TopicRules([allow("a/{device}")], "deny").check_publish(someone, "a/{user}").allowed
    assert not TopicRules([allow("a/{device}")], "deny").check_publish(someone, "a/u1").allowed


@pytest.mark.parametrize(
    ("given", "asked", "is_within"),
    [
        ("a/#", "a", True),
        ("a/#", "a/#", True),
        ("a/#", "a/+/b", True),
        ("a/+", "a/#", False),
        ("a/+/#", "a/#", False),
        ("+/#", "#", True),
        ("#", "+/#", True),
        ("#", "$SYS/#", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/+", True),
        ("+", "#", False),
        ("a/b", "a/+", False),
        ("a/+", "a/b", True),
    ],
)
def test_what_lies_within_a_filter(given, asked, is_within):
    assert allowed([allow(given)], asked) is is_within


@pytest.mark.parametrize("filter", ["", "a#", "#/a", "a/b+", "a/#/b", "x{device}+"])
def test_filters_that_are_none_are_refused_with_their_place(filter):
    with pytest.raises(ValueError, match=r"mqtt\.acl\[1\]\.topics\[1\]: expected"):
        TopicRules([allow("a"), deny("a", filter)])


def test_a_check_does_not_go_through_rules_that_are_not_meant(monkeypatch):
    looked_at: list[int] = []
    ends: list[list[int]] = []
    first = topic_rule_tree._first
    monkeypatch.setattr(topic_rule_tree, "_first", lambda rules, *rest: ends.append(rules) or first(rules, *rest))

    class Counting(TopicRules):
        def _applies(self, index, identity):
            looked_at.append(index)
            return super()._applies(index, identity)

    rules = []
    for number in range(2500):
        rules += [
            allow(f"home/{number}/#", user=f"u{number}"),
            allow("dev/{device}/cmd", device=f"fleet{number}-*"),
            deny(f"site/{number}/+/secret"),
            allow(f"tenant/{number}/#", attributes={"tenant": f"t{number}"}),
        ]
    compiled = Counting(rules, "deny")
    someone = Identity("fleet77-5", user="u2000", attributes={"tenant": "t3"})
    assert compiled.check_publish(someone, "home/2000/x") == Decision(True, 8000, 2)
    assert compiled.check_publish(someone, "dev/fleet77-5/cmd") == Decision(True, 309, 2)
    assert compiled.check_publish(someone, "tenant/3/y") == Decision(True, 15, 2)
    assert compiled.check_publish(someone, "site/2499/x/secret") == Decision(False, 9998, 2)
    assert compiled.check_subscribe(someone, "site/+/x/#") == Decision(False, 2, 2)
    assert compiled.check_subscribe(someone, "#") == Decision(False, 2, 2)
    assert compiled.check_publish(someone, "nothing") == Decision(False, -1, 2)
    assert len(looked_at) <= 8 and len(ends) <= 12


def test_what_is_remembered_of_identities_is_bounded_and_theirs(monkeypatch):
    monkeypatch.setattr(topic_rules, "KNOWN_IDENTITIES", 3)
    rules = TopicRules([allow(f"home/{number}/#", user=f"u{number}") for number in range(10)], "deny")
    for number in (*range(10), *range(10)):
        someone = Identity("d", user=f"u{number}")
        homes = [home for home in range(10) if rules.check_publish(someone, f"home/{home}/x").allowed]
        assert homes == [number]
        assert len(rules._known) <= 3


# ---------------------------------------------------------------- against brute force

LEVELS = ("a", "b", "$s")
FILTERS = all_filters(LEVELS, 3)
# Another literal than all in filters stands for whatever else `+` may be; one level more for whatever `#` may be.
TOPICS = all_topics((*LEVELS, "other", ""), 4)
MATCHED = {filter: frozenset(topic for topic in TOPICS if matches(filter, topic)) for filter in FILTERS}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FILTERS), st.sampled_from(FILTERS))
def test_containment_and_overlap_by_trying_all_topics(given, asked):
    assert allowed([allow(given)], asked) is (MATCHED[asked] <= MATCHED[given])
    assert denied([deny(given)], asked) is bool(MATCHED[asked] & MATCHED[given])


def test_containment_and_overlap_of_all_short_filters():
    short = all_filters(("a", "$s"), 2)
    for given_filter in short:
        allows, denies = TopicRules([allow(given_filter)], "deny"), TopicRules([deny(given_filter)], "allow")
        for asked in short:
            within, apart = MATCHED[asked] <= MATCHED[given_filter], not MATCHED[asked] & MATCHED[given_filter]
            assert allows.check_subscribe(ME, asked).allowed is within, (given_filter, asked)
            assert denies.check_subscribe(ME, asked).allowed is apart, (given_filter, asked)


VALUES = ("a", "b", "$s", "a/b", "+", "")
identities = st.builds(
    Identity,
    st.sampled_from(("a", "b", "other", "$s", "+")),
    user=st.sampled_from(VALUES),
    app=st.sampled_from(("", "a")),
    attributes=st.dictionaries(st.sampled_from(("k", "l")), st.sampled_from(("a", "b"))),
)
templates = st.sampled_from(
    ("{device}", "{user}", "{user}/#", "a/{device}", "+/{user}", "{app}/b", "a/{user}/#", "$s/{app}")
)
rules = st.builds(
    TopicRuleSettings,
    permit=st.sampled_from(("allow", "deny")),
    action=st.sampled_from(("publish", "subscribe", "all")),
    topics=st.lists(st.sampled_from(FILTERS) | templates, min_size=1, max_size=3).map(tuple),
    device=st.sampled_from(("", "", "", "a", "a*", "o*", "b")),
    user=st.sampled_from(("", "", "", "a", "a*", "*")),
    app=st.sampled_from(("", "", "a")),
    attributes=st.just({}) | st.dictionaries(st.sampled_from(("k", "l")), st.sampled_from(("a", "b"))),
    max_qos=st.integers(0, 2),
    retain=st.booleans(),
)


def is_for(wanted: str, value: str) -> bool:
    return not wanted or (value.startswith(wanted[:-1]) if wanted[-1] == "*" else value == wanted)


def naive(rules, identity: Identity, asked: str, action: str) -> int:
    """The first rule that matches, by trying every topic; -1: none."""
    for index, one in enumerate(rules):
        meant = (
            one.action in (action, "all")
            and is_for(one.device, identity.device)
            and is_for(one.user, identity.user)
            and is_for(one.app, identity.app)
            and all(identity.attributes.get(name) == value for name, value in one.attributes.items())
        )
        for filter in one.topics if meant else ():
            expanded = []
            for level in filter.split("/"):
                value = getattr(identity, level[1:-1]) if level[:1] == "{" else level
                fit = level[:1] != "{" or (value and not set(value) & set("/+#") and (expanded or value[0] != "$"))
                expanded.append(value if fit else None)
            if None in expanded:
                continue
            own = MATCHED.get("/".join(expanded))
            if own is None:
                own = frozenset(topic for topic in TOPICS if matches("/".join(expanded), topic))
            if action == "publish" or one.permit == "deny":
                if topics_of(asked) & own:
                    return index
            elif topics_of(asked) <= own:
                return index
    return -1


def topics_of(asked: str) -> frozenset[str]:
    return MATCHED.get(asked) or frozenset((asked,))


@settings(max_examples=150, deadline=None)
@given(st.lists(rules, max_size=12), st.lists(identities, min_size=1, max_size=3), st.data())
def test_compiled_rules_decide_as_the_rules_one_by_one(some, people, data):
    compiled = TopicRules(some, "allow")
    for identity in people:
        for topic in data.draw(st.lists(st.sampled_from(TOPICS), max_size=10)):
            first = naive(some, identity, topic, "publish")
            decision = compiled.check_publish(identity, topic, 1, True)
            assert decision.rule == first
            one = some[first] if first >= 0 else None
            assert decision.allowed is (one is None or (one.permit == "allow" and one.max_qos >= 1 and one.retain))
        for filter in data.draw(st.lists(st.sampled_from(FILTERS), max_size=10)):
            first = naive(some, identity, filter, "subscribe")
            decision = compiled.check_subscribe(identity, filter)
            assert decision.rule == first
            assert decision.allowed is (first < 0 or some[first].permit == "allow")
            assert first < 0 or decision.max_qos == some[first].max_qos
