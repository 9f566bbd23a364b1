"""Every session of this worker: found by device, user and session id; the disconnected ones in order of age."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from accessgw.core.interfaces.sessions import Link
from accessgw.model.identity import Generation, Identity, Serials
from protocols.mmtp.short_auth import CounterWindow

FIRST = Generation(0, 0)


class DeviceSession:
    """What the gateway knows of one device; outlives its connections."""

    __slots__ = (
        "certificate",
        "connected_at",
        "created_at",
        "delivery",
        "disconnected_at",
        "generation",
        "id",
        "identity",
        "link",
        "mac_key",
        "replay",
        "token_timer",
        "zstd",
    )

    def __init__(self, identity: Identity, created_at: float) -> None:
        self.id = ""
        """Empty while it has only connected with protocols that have no word for it."""
        self.mac_key = b""
        """Key of the tags of short connections, 32 bytes; none without an id."""
        self.identity = identity
        self.certificate: tuple[bytes, Serials] | None = None
        """Fingerprint and serials (ConnectionInfo) of the one that its last proof came with."""
        self.link: Link | None = None
        self.delivery: object = None
        self.generation = FIRST
        """Of the connection that holds, or last held, the session."""
        self.created_at = created_at
        """Wall-clock second."""
        self.connected_at = 0.0
        """Wall-clock second of the last connection, 0.0 before the first."""
        self.disconnected_at = 0.0
        """Seconds of the worker's clock; meaningful without a link only."""
        self.replay: CounterWindow | None = None
        """Counters of short connections that were used; made at the first."""
        self.token_timer: object = None
        self.zstd = False
        """The last WELCOME named the capability."""


class SessionRegistry:
    """Indexes of sessions. All operations but the listing are O(1)."""

    def __init__(self) -> None:
        self._by_device: dict[str, DeviceSession] = {}
        self._by_id: dict[str, DeviceSession] = {}
        self._by_user: dict[str, dict[str, DeviceSession]] = {}
        # In order of disconnection, which with one common expiry is also the order of expiry.
        self._parked: OrderedDict[str, DeviceSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_device)

    @property
    def connected(self) -> int:
        """Sessions with a link."""
        return len(self._by_device) - len(self._parked)

    def add(self, session: DeviceSession) -> None:
        """A new session, without a link yet. There must be none of the same device."""
        device, user = session.identity.device, session.identity.user
        if device in self._by_device:
            raise ValueError(f"device {device!r} has a session already")
        self._by_device[device] = session
        if user:
            self._by_user.setdefault(user, {})[device] = session

    def name(self, session: DeviceSession, id: str, mac_key: bytes) -> None:
        """A registered session gets its id and its key, once."""
        session.id, session.mac_key = id, mac_key
        self._by_id[id] = session

    def remove(self, session: DeviceSession) -> None:
        """Forget it; nothing happens when it is not the device's session any more."""
        device, user = session.identity.device, session.identity.user
        if self._by_device.get(device) is not session:
            return
        del self._by_device[device]
        self._by_id.pop(session.id, None)
        self._parked.pop(device, None)
        devices = self._by_user.get(user)
        if devices is not None:
            devices.pop(device, None)
            if not devices:
                del self._by_user[user]

    def park(self, session: DeviceSession) -> None:
        """It lost its link (or never had one) just now."""
        self._parked[session.identity.device] = session
        self._parked.move_to_end(session.identity.device)

    def unpark(self, session: DeviceSession) -> None:
        """It has a link."""
        self._parked.pop(session.identity.device, None)

    def longest_parked(self) -> DeviceSession | None:
        """The session that has been without a link for the longest time."""
        for session in self._parked.values():
            return session
        return None

    def by_device(self, device: str) -> DeviceSession | None:
        """The session of a device."""
        return self._by_device.get(device)

    def by_id(self, id: str) -> DeviceSession | None:
        """The session with this id."""
        return self._by_id.get(id)

    def of_user(self, user: str) -> list[DeviceSession]:
        """Sessions of every device on which the user is signed in."""
        return list(self._by_user.get(user, {}).values())

    def any_of_user(self, user: str) -> DeviceSession | None:
        """One of the user's sessions."""
        return next(iter(self._by_user.get(user, {}).values()), None)

    def page(
        self, user: str = "", connected: bool | None = None, after: str = "", limit: int = 100
    ) -> list[DeviceSession]:
        """Up to `limit` sessions with a device id greater than `after`, in order of device id."""
        if user:
            candidates: Iterator[DeviceSession] = iter(self._by_user.get(user, {}).values())
        else:
            candidates = iter(self._by_device.values())
        wanted = (
            s
            for s in candidates
            if s.identity.device > after and (connected is None or (s.link is not None) == connected)
        )
        return heapq.nsmallest(limit, wanted, key=lambda s: s.identity.device)
