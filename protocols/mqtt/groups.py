"""The receivers of one topic filter, kept in groups of equal options."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from typing import Generic, TypeVar

from protocols.mqtt.shared import Options, SharedGroup

R = TypeVar("R", bound=Hashable)

FEW_GROUPS = 8
"""So many groups are searched one by one; with more (subscription identifiers make them), there are indexes."""


class Group(Generic[R]):
    """Receivers whose deliveries of a topic are alike."""

    __slots__ = ("identifiers", "no_local", "place", "qos", "receivers", "retain_as_published")

    def __init__(
        self,
        qos: int,
        no_local: bool,
        retain_as_published: bool,
        identifiers: tuple[int, ...],
        receivers: Collection[R],
    ) -> None:
        self.qos = qos
        """Highest QoS that the receivers may get."""
        self.no_local = no_local
        """The publisher itself does not get the message (section 3.8.3.1)."""
        self.retain_as_published = retain_as_published
        """The retain flag stays as it was published."""
        self.identifiers = identifiers
        """Subscription identifiers that go with the message (section 3.3.2.3.8)."""
        self.receivers = receivers
        """Live: whoever goes through them in more than one step takes `list(group.receivers)`."""
        self.place = 0


class LiveGroup(Group[R]):
    """A group that belongs to a filter: receivers come and go."""

    __slots__ = ("members", "options")

    def __init__(self, options: Options) -> None:
        self.options = options
        self.members: dict[R, None] = {}
        identifiers = (options.identifier,) if options.identifier else ()
        super().__init__(options.qos, options.no_local, options.retain_as_published, identifiers, self.members)


class FilterNode(Generic[R]):
    """One topic filter: its own receivers and its shared groups.

    `groups` and `shared` are the same lists for the node's whole life, so that a plan may refer to them.
    """

    __slots__ = ("_by_options", "_by_receiver", "count", "filter", "groups", "shared", "version")

    def __init__(self, filter: str) -> None:
        self.filter = filter
        self.groups: list[Group[R]] = []
        self.shared: list[SharedGroup[R]] = []
        self.count = 0
        """Receivers in all groups."""
        self.version = 0
        """Grows with every change of receivers, options, or the list of shared groups."""
        self._by_options: dict[Options, LiveGroup[R]] | None = None
        self._by_receiver: dict[R, LiveGroup[R]] | None = None

    @property
    def empty(self) -> bool:
        return not (self.count or self.shared)

    def group_of(self, receiver: R) -> LiveGroup[R] | None:
        if self._by_receiver is not None:
            return self._by_receiver.get(receiver)
        for group in self.groups:
            if receiver in group.receivers:
                assert isinstance(group, LiveGroup)
                return group
        return None

    def add(self, receiver: R, options: Options) -> bool:
        """Add it, or give it other options (True)."""
        before = self.group_of(receiver)
        if before is not None:
            if before.options == options:
                return True
            self._leave(before, receiver)
        group = self._group(options)
        group.members[receiver] = None
        if self._by_receiver is not None:
            self._by_receiver[receiver] = group
        self.count += 1
        self.version += 1
        return before is not None

    def remove(self, receiver: R) -> bool:
        group = self.group_of(receiver)
        if group is None:
            return False
        self._leave(group, receiver)
        self.version += 1
        return True

    def add_shared(self, shared: SharedGroup[R]) -> None:
        shared.place = len(self.shared)
        self.shared.append(shared)
        self.version += 1

    def remove_shared(self, shared: SharedGroup[R]) -> None:
        last = self.shared.pop()
        if last is not shared:
            self.shared[shared.place] = last
            last.place = shared.place
        self.version += 1

    def subscribers(self) -> Iterator[tuple[R, Options]]:
        for group in list(self.groups):
            assert isinstance(group, LiveGroup)
            for receiver in list(group.members):
                yield receiver, group.options

    def _group(self, options: Options) -> LiveGroup[R]:
        if self._by_options is not None:
            found = self._by_options.get(options)
            if found is not None:
                return found
        else:
            for candidate in self.groups:
                assert isinstance(candidate, LiveGroup)
                if candidate.options == options:
                    return candidate
        group: LiveGroup[R] = LiveGroup(options)
        group.place = len(self.groups)
        self.groups.append(group)
        if self._by_options is not None:
            self._by_options[options] = group
        elif len(self.groups) > FEW_GROUPS:
            self._make_indexes()
        return group

    def _make_indexes(self) -> None:
        self._by_options = {}
        self._by_receiver = {}
        for group in self.groups:
            assert isinstance(group, LiveGroup)
            self._by_options[group.options] = group
            self._by_receiver.update(dict.fromkeys(group.members, group))

    def _leave(self, group: LiveGroup[R], receiver: R) -> None:
        del group.members[receiver]
        self.count -= 1
        if self._by_receiver is not None:
            del self._by_receiver[receiver]
        if group.members:
            return
        # The last one takes the place: nothing else moves, however many groups identifiers have made.
        last = self.groups.pop()
        if last is not group:
            self.groups[group.place] = last
            last.place = group.place
        if self._by_options is not None:
            del self._by_options[group.options]
