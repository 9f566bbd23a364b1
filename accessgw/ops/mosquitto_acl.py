"""Turns an ACL file of mosquitto into topic rules (mqtt.acl)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from accessgw.config import syntax
from accessgw.ops.mosquitto_conf import Loss, first_word, lines

ACTIONS = {"read": "subscribe", "write": "publish", "readwrite": "all", "deny": "all"}


class AclLine(NamedTuple):
    """One line that grants or denies."""

    line: int
    access: str
    topic: str


@dataclass
class Acl:
    """An ACL file."""

    file: str
    anonymous: list[AclLine] = field(default_factory=list)
    """Before the first `user`: clients without a user name."""
    users: dict[str, list[AclLine]] = field(default_factory=dict)
    patterns: list[AclLine] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)


def parse_acl(text: str, file: str) -> Acl:
    """Read the lines. Raises ImportFailed for what is no text."""
    acl = Acl(file)
    current = acl.anonymous
    for number, line in lines(text, file):
        word, rest = first_word(line)
        if word == "user" and rest:
            current = acl.users.setdefault(rest, [])
        elif word in ("topic", "pattern") and rest:
            access, topic = first_word(rest)
            if access not in ACTIONS or not topic:
                access, topic = "readwrite", rest
            one = AclLine(number, access, topic)
            (acl.patterns if word == "pattern" else current).append(one)
        else:
            expected = "expected user NAME, topic [read|write|readwrite|deny] TOPIC or pattern ... TOPIC"
            acl.losses.append(Loss(file, number, word, expected))
    return acl


def acl_rules(acl: Acl, *, who: str, anonymous: str) -> tuple[list[dict[str, Any]], list[Loss]]:
    """(rules for mqtt.acl, what is lost). Their order is mosquitto's: a user's own lines before the patterns, and what
    denies before what grants; the first that matches decides.

    `who` is what names the client in our rules: `user`, or `device` where certificates do. `anonymous` says whether
    there are clients without a user name: `none`, `all` or `some`.
    """
    losses = list(acl.losses)
    rules: list[dict[str, Any]] = []
    for user, granted in acl.users.items():
        if user.endswith("*"):
            losses += [
                Loss(acl.file, one.line, "topic", f"user {user}: a name that ends in * would be a prefix here")
                for one in granted
            ]
        else:
            rules += _rules(acl.file, granted, losses, {who: user}, who=who, pattern=False)
    own = []
    if anonymous == "all":
        own = acl.anonymous
    elif anonymous == "some":
        # who has no user name cannot be told from the others by a rule: nobody may get more than before
        own = [one for one in acl.anonymous if one.access == "deny"]
        for one in acl.anonymous:
            lost = "denies everyone" if one.access == "deny" else "is left out"
            losses.append(Loss(acl.file, one.line, "topic", f"no rule is for clients without a user name only: {lost}"))
    rules += _rules(acl.file, own, losses, {}, who=who, pattern=False)
    rules += _rules(acl.file, acl.patterns, losses, {}, who=who, pattern=True)
    return rules, losses


def _rules(
    file: str, granted: list[AclLine], losses: list[Loss], identity: dict[str, str], *, who: str, pattern: bool
) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    for one in sorted(granted, key=lambda one: one.access != "deny"):
        topic = _topic(file, one, losses, who, pattern)
        if not topic:
            continue
        permit, action = ("deny" if one.access == "deny" else "allow"), ACTIONS[one.access]
        last = rules[-1] if rules else {}
        if (last.get("permit", ""), last.get("action", "")) == (permit, action):
            last["topics"].append(topic)
        else:
            rules.append({"permit": permit, "action": action, **identity, "topics": [topic]})
    return rules


def _topic(file: str, one: AclLine, losses: list[Loss], who: str, pattern: bool) -> str:
    """The filter as ours writes it; empty when there is none."""
    key = "pattern" if pattern else "topic"
    topic = one.topic
    if "{" in topic and syntax.unknown_topic_placeholder(topic) + _known(topic):
        if one.access != "deny":
            losses.append(Loss(file, one.line, key, "a topic with a part in braces would be read as a placeholder"))
            return ""
        topic = "/".join("+" if "{" in level else level for level in topic.split("/"))
        losses.append(Loss(file, one.line, key, f"parts in braces are placeholders here: {topic} is denied instead"))
    if pattern:
        topic = topic.replace("%c", "{device}").replace("%u", "{" + who + "}")
    if not syntax.is_topic_rule(topic):
        losses.append(Loss(file, one.line, key, f"expected a topic filter, got {one.topic[:60]}"))
        return ""
    return topic


def _known(topic: str) -> str:
    return next((part for part in ("{device}", "{user}", "{app}") if part in topic), "")
