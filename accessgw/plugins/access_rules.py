"""Filter `access-rules`: who may call what; refusals have status 23.

    [[filters]]
    name = "access-rules"
    [filters.settings]
    default = "deny"
    rules = [
      { action = "allow", operations = ["feed.*"] },
      { action = "allow", operations = ["payments.*"], users = ["*"], apps = ["wallet"] },
      { action = "deny", operations = ["*"], attributes = { region = ["xx"] } },
    ]

The first rule of which everything fits decides; without one, `default` (allow when absent). `users`
with `*` means anybody signed in. Ordinary HTTP requests are matched by `paths`, prefixes; a rule with
neither `operations` nor `paths` covers both kinds. The gateway's own gw.* operations are operations too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from accessgw.core.interfaces import Filter, Refused
from accessgw.model.calls import Call
from accessgw.plugins.settings import expect_keys, expect_table, expect_texts
from accessgw.policy.routing import comparable_path
from protocols.mmtp.statuses import Status

_KEYS = ("action", "operations", "paths", "users", "apps", "attributes")


@dataclass(slots=True, frozen=True)
class Rule:
    """One rule; empty conditions always hold."""

    allow: bool
    operations: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def fits(self, call: Call) -> bool:
        """Whether everything that the rule asks for is so."""
        identity = call.identity
        return (
            self._fits_target(call)
            and (not self.users or identity.user in self.users or (bool(identity.user) and "*" in self.users))
            and (not self.apps or identity.app in self.apps)
            and all(identity.attributes.get(name, "") in values for name, values in self.attributes.items())
        )

    def _fits_target(self, call: Call) -> bool:
        if not self.operations and not self.paths:
            return True
        if call.http_method:
            path = comparable_path(call.http_target)
            if path is None:
                # Nobody can say what it means: a rule that allows must not fit, a rule that denies must.
                return bool(self.paths) and not self.allow
            return any(path.startswith(prefix) for prefix in self.paths)
        return any(
            pattern == call.operation or (pattern.endswith("*") and call.operation.startswith(pattern[:-1]))
            for pattern in self.operations
        )


class AccessRules(Filter):
    """The rules in their order."""

    def __init__(self, rules: tuple[Rule, ...], allow_by_default: bool) -> None:
        self._rules = rules
        self._allow_by_default = allow_by_default

    def call(self, call: Call) -> None:
        """Raises Refused(FORBIDDEN)."""
        for rule in self._rules:
            if rule.fits(call):
                allowed = rule.allow
                break
        else:
            allowed = self._allow_by_default
        if not allowed:
            what = call.operation or call.http_target
            raise Refused(Status.FORBIDDEN, f"{what} is not allowed for {call.identity.device or 'this client'}")


def make(settings: dict[str, Any]) -> AccessRules:
    """The filter. Raises ValueError that begins with the key that is wrong."""
    expect_keys("", settings, ("default", "rules"))
    default = settings.get("default", "allow")
    if default not in ("allow", "deny"):
        raise ValueError(f'default: expected "allow" or "deny", got {default!r}')
    rules = settings.get("rules", [])
    if not isinstance(rules, list | tuple):
        raise ValueError(f"rules: expected a list, got {rules!r}")
    return AccessRules(tuple(_rule(f"rules[{index}]", rule) for index, rule in enumerate(rules)), default == "allow")


def _rule(path: str, value: Any) -> Rule:
    table = expect_table(path, value)
    expect_keys(path, table, _KEYS)
    action = table.get("action")
    if action not in ("allow", "deny"):
        raise ValueError(f'{path}.action: expected "allow" or "deny", got {action!r}')
    texts = {
        key: expect_texts(f"{path}.{key}", table[key])
        for key in ("operations", "paths", "users", "apps")
        if key in table
    }
    for index, pattern in enumerate(texts.get("operations", ())):
        if "*" in pattern[:-1]:
            raise ValueError(f'{path}.operations[{index}]: expected "*" at the end only, got {pattern!r}')
    attributes = {
        name: expect_texts(f"{path}.attributes.{name}", values)
        for name, values in expect_table(f"{path}.attributes", table.get("attributes", {})).items()
    }
    return Rule(allow=action == "allow", attributes=attributes, **texts)
