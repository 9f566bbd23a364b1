"""Who is connected: admission of devices, takeover by generation, and sessions that survive their connections."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from accessgw.core.authentication import AdmissionRefused, AuthenticatorChain
from accessgw.core.begun import begun
from accessgw.core.filters import FilterChain
from accessgw.core.interfaces import Refused
from accessgw.core.interfaces.clock import Clock, Timer, Timers
from accessgw.core.interfaces.pushes import PushService
from accessgw.core.interfaces.sessions import Link, PresenceSink
from accessgw.core.interfaces.tls import Revocations
from accessgw.core.introductions import Introduction, check_introduction
from accessgw.core.registry import FIRST, DeviceSession, SessionRegistry
from accessgw.core.revoked_connections import why_revoked
from accessgw.model.counters import SessionCounters
from accessgw.model.identity import ConnectionInfo, Generation, Identity
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import SessionSettings
from protocols.mmtp.statuses import Status

log = Logger()


class SessionManager:
    """Admits devices and keeps their sessions."""

    def __init__(
        self,
        settings: SessionSettings,
        *,
        chain: AuthenticatorChain,
        filters: FilterChain,
        pushes: PushService,
        presence: PresenceSink,
        timers: Timers,
        clock: Clock,
        wall: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        counters: SessionCounters,
    ) -> None:
        self.registry = SessionRegistry()
        self.revocations: Revocations | None = None
        """Asked for a session without a connection, and for a device that had to wait until it was admitted; whoever is
        connected is looked at by RevokedConnections."""
        self._settings = settings
        self._chain = chain
        self._filters = filters
        self._pushes = pushes
        self._presence = presence
        self._timers = timers
        self._clock = clock
        self._wall = wall
        self._random_bytes = random_bytes
        self._counters = counters
        self._expiring = False

    # ---------------------------------------------------------------- admission

    def admit(self, introduction: Introduction, link: Link) -> Deferred[DeviceSession]:
        """Authenticate, ask the filters, take over, and give the link its session.

        Fails with AdmissionRefused. Cancel it when the connection is lost first: the session is then
        as if the device had not come.
        """
        return Deferred.fromCoroutine(self._admit(introduction, link.info, link))

    def enter(self, introduction: Introduction, link: Link) -> DeviceSession | Deferred[DeviceSession]:
        """As admit, but the session itself when nobody had to be waited for; AdmissionRefused may be raised then."""
        check_introduction(introduction)
        identity = introduction.proven or self._chain.ask(introduction.credentials)
        if isinstance(identity, Identity) and not self._filters.ask_connections:
            return self._enter(introduction, self._identified(introduction, identity, link.info), link, link.info)
        return begun(self._admit(introduction, link.info, link, identity))

    def identify(self, introduction: Introduction, info: ConnectionInfo) -> Identity | Deferred[Identity]:
        """As enter, but only who it is, and that it may come in: nothing is taken over, and there is no session."""
        check_introduction(introduction)
        identity = introduction.proven or self._chain.ask(introduction.credentials)
        if isinstance(identity, Identity) and not self._filters.ask_connections:
            return self._identified(introduction, identity, info)
        return begun(self._identify(introduction, info, identity))

    def is_proven(self, identity: Identity, authenticators: object) -> bool:
        """Whether what `authenticators` (see below) said a moment ago holds: they are in force, and it has not ended."""
        expires = identity.expires_at
        return authenticators is self._chain.authenticators and (expires is None or self._wall() < expires)

    @property
    def authenticators(self) -> object:
        """Stands for those that are in force now."""
        return self._chain.authenticators

    def admit_short(self, introduction: Introduction, info: ConnectionInfo) -> Deferred[DeviceSession]:
        """As admit, for a short connection: there is no link, and a live one of the same identity stays."""
        return Deferred.fromCoroutine(self._admit(introduction, info, None))

    async def _admit(
        self,
        introduction: Introduction,
        info: ConnectionInfo,
        link: Link | None,
        asked: Identity | Deferred[Identity | None] | None = None,
    ) -> DeviceSession:
        """`asked`: what was heard of the authenticators already."""
        return self._enter(introduction, await self._identify(introduction, info, asked), link, info)

    async def _identify(
        self,
        introduction: Introduction,
        info: ConnectionInfo,
        asked: Identity | Deferred[Identity | None] | None = None,
    ) -> Identity:
        check_introduction(introduction)
        began = self._wall()
        if isinstance(asked, Identity):
            identity = asked
        else:
            identity = introduction.proven or await self._chain.require(introduction.credentials, asked)
        identity = _described(introduction, identity)
        try:
            await self._filters.connection(identity, info)
        except Refused as error:
            reason = CloseReason.INTERNAL if error.status == Status.INTERNAL else CloseReason.FORBIDDEN
            raise AdmissionRefused(error.status, reason, str(error)) from None
        self._refuse_revoked(identity, info, began)
        return identity

    def _identified(self, introduction: Introduction, identity: Identity, info: ConnectionInfo) -> Identity:
        """As _identify, where nobody has to be waited for."""
        self._refuse_revoked(identity, info, self._wall())
        return _described(introduction, identity)

    def _refuse_revoked(self, identity: Identity, info: ConnectionInfo, began: float) -> None:
        """Until now nobody could know the connection by its device."""
        if self.revocations is not None:
            since = info.proved_at or began
            why = why_revoked(self.revocations, identity.device, info.fingerprint, info.serials, since)
            if why:
                raise AdmissionRefused(Status.REVOKED, CloseReason.REVOKED, why)

    def _enter(
        self, introduction: Introduction, identity: Identity, link: Link | None, info: ConnectionInfo
    ) -> DeviceSession:
        """The session of who was admitted. Raises AdmissionRefused."""
        # Nothing waits from here on: two admissions of one device cannot interleave.
        existing = self.registry.by_device(identity.device)
        generation = introduction.generation
        if generation is None:
            generation = FIRST if existing is None else existing.generation
        if existing is not None and existing.link is not None:
            self._compete(existing, identity, generation, link)
        if existing is not None and existing.identity != identity and not _same_person(existing.identity, identity):
            # Another user, app or strength: nothing of the old session may reach the new one.
            self._end(existing, CloseReason.REPLACED, Status.REPLACED)
            existing = None
        session = existing if existing is not None else self._new(identity)
        session.identity = identity
        session.certificate = (info.fingerprint, info.serials) if info.fingerprint else None
        if introduction.generation is not None and not session.id:
            self.registry.name(session, self._random_bytes(16).hex(), self._random_bytes(32))
        if session.token_timer is not None or identity.expires_at is not None:
            self._watch_token(session)
        if link is not None:
            self._connect(session, link, generation)
        elif session.link is None:
            self._park(session)
        return session

    def _compete(self, existing: DeviceSession, identity: Identity, generation: Generation, link: Link | None) -> None:
        """Raises AdmissionRefused when the live connection stays in force."""
        if link is None:
            # A short request takes nothing over; its HELLO has no place in the order of connections.
            if _same_person(existing.identity, identity):
                return
            message = "another identity is connected from this device"
        elif generation >= existing.generation:
            return
        else:
            message = f"generation {tuple(generation)} is older than {tuple(existing.generation)}"
        self._counters.stale_generations += 1
        raise AdmissionRefused(Status.REPLACED, CloseReason.STALE_GENERATION, message)

    def _new(self, identity: Identity) -> DeviceSession:
        if len(self.registry) >= self._settings.max_sessions:
            oldest = self.registry.longest_parked()
            if oldest is None:
                raise AdmissionRefused(Status.OVERLOAD, CloseReason.OVERLOAD, "too many sessions", 5.0)
            self._forget(oldest)
        session = DeviceSession(identity, self._wall())
        self.registry.add(session)
        self._counters.sessions += 1
        return session

    def _connect(self, session: DeviceSession, link: Link, generation: Generation) -> None:
        old = session.link
        if old is not None:
            # The race of one device's own attempts ends here too: of equal generations the newest stays.
            self._unlink(session, CloseReason.REPLACED)
            self._counters.replaced += 1
            old.close(CloseReason.REPLACED, Status.REPLACED)
        self.registry.unpark(session)
        session.link = link
        session.generation = generation
        session.connected_at = self._wall()
        self._counters.welcomed += 1
        self._counters.connected += 1
        self._presence.connected(session)

    # ---------------------------------------------------------------- the end of links and sessions

    def disconnected(self, session: DeviceSession, link: Link, reason: CloseReason) -> None:
        """The link is gone. A link that was taken over has been forgotten already."""
        if session.link is not link:
            return
        self._unlink(session, reason)
        if self.registry.by_device(session.identity.device) is not session:
            return
        if reason is CloseReason.REVOKED:
            # What it was proved by is worthless: its key must not go on serving short connections.
            self._forget(session)
        else:
            self._park(session)

    def close_device(self, device: str, reason: CloseReason = CloseReason.OPERATOR) -> bool:
        """End the connection of a device; its session stays. False when it is not connected."""
        session = self.registry.by_device(device)
        if session is None or session.link is None:
            return False
        session.link.close(reason, status_of(reason))
        return True

    def revoke(self, device: str) -> bool:
        """Forget the session of a device and its key, and end its connection. False when there is none."""
        session = self.registry.by_device(device)
        if session is None:
            return False
        self._end(session, CloseReason.REVOKED, Status.REVOKED)
        return True

    def logout(self, session: DeviceSession) -> None:
        """Forget this session and its key at the device's own wish, and end its connection."""
        if self.registry.by_device(session.identity.device) is session:
            self._end(session, CloseReason.LOGOUT, Status.REVOKED)

    def by_id(self, id: str) -> DeviceSession | None:
        """The session with this id, while the proof that it stands on is valid."""
        session = self.registry.by_id(id)
        if session is None:
            return None
        expires = session.identity.expires_at
        if expires is not None and self._wall() >= expires:
            self._expired(session)
            return None
        if self.revocations is not None:
            fingerprint, serials = session.certificate or (b"", ())
            proved = max(session.created_at, session.connected_at)
            if why_revoked(self.revocations, session.identity.device, fingerprint, serials, proved):
                self._end(session, CloseReason.REVOKED, Status.REVOKED)
                return None
        return session

    def _unlink(self, session: DeviceSession, reason: CloseReason) -> None:
        self._pushes.detach(session)
        session.link = None
        self._counters.connected -= 1
        self._presence.disconnected(session, reason)

    def _end(self, session: DeviceSession, reason: CloseReason, status: int) -> None:
        link = session.link
        if link is not None:
            self._unlink(session, reason)
        self._forget(session)
        if link is not None:
            link.close(reason, status)

    def _forget(self, session: DeviceSession) -> None:
        if isinstance(session.token_timer, _TokenWatch):
            session.token_timer.cancel()
        session.token_timer = None
        if self.registry.by_device(session.identity.device) is session:
            self.registry.remove(session)
            self._counters.sessions -= 1

    # ---------------------------------------------------------------- time

    def _park(self, session: DeviceSession) -> None:
        session.disconnected_at = self._clock.seconds()
        self.registry.park(session)
        if not self._expiring:
            self._expiring = True
            self._timers.schedule(self._settings.expiry, self._expire)

    def _expire(self) -> None:
        """Forget what has been disconnected for too long: a bounded batch, so that the reactor is not held."""
        now = self._clock.seconds()
        for _ in range(200):
            oldest = self.registry.longest_parked()
            if oldest is None:
                self._expiring = False
                return
            left = oldest.disconnected_at + self._settings.expiry - now
            if left > 0:
                self._timers.schedule(left, self._expire)
                return
            self._counters.expired += 1
            self._forget(oldest)
        self._clock.callLater(0, self._expire)

    def _watch_token(self, session: DeviceSession) -> None:
        if session.token_timer is not None and isinstance(session.token_timer, _TokenWatch):
            session.token_timer.cancel()
        expires = session.identity.expires_at
        session.token_timer = None if expires is None else _TokenWatch(self, session, expires)

    def _expired(self, session: DeviceSession) -> None:
        self._counters.expired += 1
        self._end(session, CloseReason.AUTH_EXPIRED, Status.AUTH)


def _described(introduction: Introduction, identity: Identity) -> Identity:
    """With what the device says of itself beside what its proof says."""
    if not introduction.attributes:
        return identity
    return replace(identity, attributes={**introduction.attributes, **identity.attributes})


class _TokenWatch:
    """Ends a session when the proof that it stands on runs out."""

    __slots__ = ("_expires", "_manager", "_session", "_timer")
    LONGEST = 3600.0
    """The wall clock may be set meanwhile: look again at least this often."""

    def __init__(self, manager: SessionManager, session: DeviceSession, expires: float) -> None:
        self._manager = manager
        self._session = session
        self._expires = expires
        self._timer = self._schedule()

    def cancel(self) -> None:
        self._timer.cancel()

    def _schedule(self) -> Timer:
        left = max(0.0, self._expires - self._manager._wall())
        return self._manager._timers.schedule(min(left, self.LONGEST), self._look)

    def _look(self) -> None:
        if self._manager._wall() >= self._expires:
            self._manager._expired(self._session)
        else:
            self._timer = self._schedule()


_STATUS = {
    CloseReason.PROTOCOL_ERROR: Status.PROTOCOL,
    CloseReason.FLOOD: Status.OVERLOAD,
    CloseReason.AUTH_FAILED: Status.AUTH,
    CloseReason.AUTH_UNAVAILABLE: Status.OVERLOAD,
    CloseReason.AUTH_EXPIRED: Status.AUTH,
    CloseReason.REVOKED: Status.REVOKED,
    CloseReason.LOGOUT: Status.REVOKED,
    CloseReason.FORBIDDEN: Status.FORBIDDEN,
    CloseReason.REPLACED: Status.REPLACED,
    CloseReason.STALE_GENERATION: Status.REPLACED,
    CloseReason.SLOW_READER: Status.SLOW_READER,
    CloseReason.OVERLOAD: Status.OVERLOAD,
    CloseReason.MAX_AGE: Status.DRAINING,
    CloseReason.OPERATOR: Status.DRAINING,
    CloseReason.DRAINING: Status.DRAINING,
    CloseReason.INTERNAL: Status.INTERNAL,
}


def status_of(reason: CloseReason) -> Status:
    """What a GOAWAY says for a reason to close; OK for ends that need no words."""
    return _STATUS.get(reason, Status.OK)


def _same_person(one: Identity, other: Identity) -> bool:
    """Whether a session may go on for another proof.

    The strength belongs to it: a key that was given for a token must never pass for one that was
    given for a certificate.
    """
    return (one.user, one.app, one.strength) == (other.user, other.app, other.strength)
