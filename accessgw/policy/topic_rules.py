"""Who may publish and subscribe to which MQTT topics: the rules of the ACL, compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from accessgw.model.identity import Identity
from accessgw.model.mqtt_settings import TopicRuleSettings
from accessgw.policy.topic_rule_tree import NONE, RuleTree

KNOWN_IDENTITIES = 8192
"""Identities of which is remembered which rules may be meant for them."""


class Decision(NamedTuple):
    """What the rules say."""

    allowed: bool
    rule: int
    """Its place in the settings; -1 where none matches."""
    max_qos: int = 2
    """Of a subscription that is allowed."""


class _Trees:
    """The rules of those who have one thing in common."""

    __slots__ = ("publish", "subscribe_allow", "subscribe_deny")

    def __init__(self) -> None:
        self.publish: RuleTree | None = None
        self.subscribe_allow: RuleTree | None = None
        self.subscribe_deny: RuleTree | None = None

    def add(self, index: int, rule: TopicRuleSettings) -> None:
        if rule.action != "subscribe":
            self.publish = self.publish or RuleTree()
            _add(self.publish, index, rule)
        if rule.action != "publish" and rule.permit == "allow":
            self.subscribe_allow = self.subscribe_allow or RuleTree()
            _add(self.subscribe_allow, index, rule)
        if rule.action != "publish" and rule.permit == "deny":
            self.subscribe_deny = self.subscribe_deny or RuleTree()
            _add(self.subscribe_deny, index, rule)


class _Meant(NamedTuple):
    """The rules that may be meant for one identity."""

    identity: Identity
    publish: list[RuleTree]
    subscribe_allow: list[RuleTree]
    subscribe_deny: list[RuleTree]


class TopicRules:
    """The rules in their order: the first that matches decides, and `default` where none does.

    A rule is kept with the most telling of its conditions on the identity, so that a check looks only at the rules that
    may be meant for this one; among them the topic leads to those that match.
    """

    def __init__(self, rules: Sequence[TopicRuleSettings], default: Literal["allow", "deny"] = "allow") -> None:
        """Raises ValueError for a topic filter with a wildcard where none may be, with its place in the settings."""
        self._rules = tuple(rules)
        self._default = Decision(default == "allow", -1)
        self._decisions = [Decision(rule.permit == "allow", index, rule.max_qos) for index, rule in enumerate(rules)]
        self._refusals = [Decision(False, index, rule.max_qos) for index, rule in enumerate(rules)]
        # By id: an identity is not hashable, and that of a session stays the same object. It is kept, so that its id is
        # nobody else's meanwhile.
        self._known: dict[int, _Meant] = {}
        self._any = _Trees()
        self._by_device: dict[str, _Trees] = {}
        self._by_user: dict[str, _Trees] = {}
        self._by_app: dict[str, _Trees] = {}
        self._by_attribute: dict[tuple[str, str], _Trees] = {}
        self._by_device_prefix: dict[str, _Trees] = {}
        self._by_user_prefix: dict[str, _Trees] = {}
        common = Counter(pair for rule in rules for pair in rule.attributes.items())
        # Whether more than the condition that it is kept with has to be looked at.
        self._conditional = [False] * len(self._rules)
        for index, rule in enumerate(self._rules):
            self._place(rule, common).add(index, rule)
            conditions = bool(rule.device) + bool(rule.user) + bool(rule.app) + len(rule.attributes)
            self._conditional[index] = conditions > 1
        self._device_lengths = tuple(sorted({len(prefix) for prefix in self._by_device_prefix}))
        self._user_lengths = tuple(sorted({len(prefix) for prefix in self._by_user_prefix}))

    def __len__(self) -> int:
        return len(self._rules)

    def check_publish(self, identity: Identity, topic: str, qos: int = 0, retain: bool = False) -> Decision:
        """Whether a message may be published. A rule that allows less QoS, or not to retain, refuses it."""
        levels = topic.split("/")
        best = NONE
        for tree in self._meant_for(identity).publish:
            best = tree.covering(levels, identity, best, self._applies)
        if best == NONE:
            return self._default
        rule = self._rules[best]
        if rule.permit == "allow" and (qos > rule.max_qos or (retain and not rule.retain)):
            return self._refusals[best]
        return self._decisions[best]

    def check_subscribe(self, identity: Identity, filter: str) -> Decision:
        """Whether a filter (without `$share/{group}/`) may be subscribed to, and with which QoS at most.

        A rule that allows matches when every topic of the filter is within one of its own filters; a rule that denies,
        when any topic is.
        """
        levels = filter.split("/")
        best = NONE
        meant = self._meant_for(identity)
        for tree in meant.subscribe_allow:
            best = tree.covering(levels, identity, best, self._applies)
        for tree in meant.subscribe_deny:
            best = tree.overlapping(levels, identity, best, self._applies)
        return self._default if best == NONE else self._decisions[best]

    def _place(self, rule: TopicRuleSettings, common: Counter[tuple[str, str]]) -> _Trees:
        """Where the rule is kept: with the condition that the fewest identities fulfil."""
        if rule.device and not rule.device.endswith("*"):
            return self._by_device.setdefault(rule.device, _Trees())
        if rule.user and not rule.user.endswith("*"):
            return self._by_user.setdefault(rule.user, _Trees())
        if rule.device:
            return self._by_device_prefix.setdefault(rule.device[:-1], _Trees())
        if rule.user:
            return self._by_user_prefix.setdefault(rule.user[:-1], _Trees())
        if rule.attributes:
            rarest = min(rule.attributes.items(), key=lambda pair: common[pair])
            return self._by_attribute.setdefault(rarest, _Trees())
        if rule.app:
            return self._by_app.setdefault(rule.app, _Trees())
        return self._any

    def _meant_for(self, identity: Identity) -> _Meant:
        known = self._known.get(id(identity))
        if known is not None:
            return known
        if len(self._known) >= KNOWN_IDENTITIES:
            self._known.clear()
        found = self._find(identity)
        meant = self._known[id(identity)] = _Meant(
            identity,
            [trees.publish for trees in found if trees.publish is not None],
            [trees.subscribe_allow for trees in found if trees.subscribe_allow is not None],
            [trees.subscribe_deny for trees in found if trees.subscribe_deny is not None],
        )
        return meant

    def _find(self, identity: Identity) -> list[_Trees]:
        found = [self._any]
        if self._by_device and (trees := self._by_device.get(identity.device)) is not None:
            found.append(trees)
        if self._by_user and (trees := self._by_user.get(identity.user)) is not None:
            found.append(trees)
        if self._by_app and (trees := self._by_app.get(identity.app)) is not None:
            found.append(trees)
        if self._by_attribute:
            for pair in identity.attributes.items():
                if (trees := self._by_attribute.get(pair)) is not None:
                    found.append(trees)
        device, user = identity.device, identity.user
        for length in self._device_lengths:
            if (trees := self._by_device_prefix.get(device[:length])) is not None and length <= len(device):
                found.append(trees)
        for length in self._user_lengths:
            if (trees := self._by_user_prefix.get(user[:length])) is not None and length <= len(user):
                found.append(trees)
        return found

    def _applies(self, index: int, identity: Identity) -> bool:
        """Whether the identity is one that the rule is for."""
        if not self._conditional[index]:
            return True
        rule = self._rules[index]
        if rule.app and rule.app != identity.app:
            return False
        if not _is_named(rule.device, identity.device) or not _is_named(rule.user, identity.user):
            return False
        return all(identity.attributes.get(name) == value for name, value in rule.attributes.items())


def _is_named(wanted: str, value: str) -> bool:
    if wanted.endswith("*"):
        return value.startswith(wanted[:-1])
    return not wanted or wanted == value


def _add(tree: RuleTree, index: int, rule: TopicRuleSettings) -> None:
    for number, topic in enumerate(rule.topics):
        try:
            tree.add(topic, index)
        except ValueError as error:
            raise ValueError(f"mqtt.acl[{index}].topics[{number}]: {error}") from None
