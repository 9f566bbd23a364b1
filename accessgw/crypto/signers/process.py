"""The gateway's side of a signer process: asks over its socket, and asks again when the process has been replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from accessgw.core.interfaces.tls import SigningFailed
from accessgw.crypto.signers.libcrypto import PublicKey
from accessgw.crypto.signers.link import Link, LinkFactory
from accessgw.crypto.signers.watchdog import Watchdog
from accessgw.model.counters import TlsCounters
from accessgw.model.words import counted
from protocols.errors import LocalError
from protocols.signing import (
    UNKNOWN_KEY,
    KeysOffered,
    SignatureMade,
    SignatureRefused,
    SigningEvent,
    check_request,
)

_log = Logger()

NAME = "process"
FIRST_RETRY, LONGEST_RETRY = 0.05, 1.0
"""Seconds between attempts to connect; doubled after each."""


@dataclass(slots=True)
class _Request:
    key: str
    algorithm: int
    data: bytes
    deadline: float
    deferred: Deferred[bytes]
    parked: bool = False
    """The signer does not have the key yet: its files are replaced a moment after ours."""


class ProcessSigner:
    """A Signer by a signer process at a Unix socket.

    Requests outlive its connection: those that are not answered are sent again once it is back, until their time is
    over. Signatures of RSA are verified, which is cheap, and keeps a fault of the signer from giving the key away;
    those of ECDSA are as long as they should be, and the client's to verify.
    """

    def __init__(
        self,
        path: str,
        keys: Mapping[str, PublicKey],
        counters: TlsCounters,
        reactor: Any,
        *,
        timeout: float,
        waiting: int = 4096,
        patient: bool = True,
        grace: float = 0.0,
        hang_after: float = 0.0,
        hung: Callable[[], None] | None = None,
    ) -> None:
        """`keys`: those that will be asked for, by id. `timeout`: seconds for a signature. `patient`: what is asked while
        there is no connection, or no such key yet, waits for it; otherwise it fails at once. `grace`: seconds after
        start(), or a hang, for which it is no news that nobody is there, since the process is only starting. `hung`:
        called when a process that is connected has said nothing for `hang_after` seconds though something was asked (0:
        never); its connection is left then, and made anew."""
        self._path = path
        self._keys = keys
        self._before: Mapping[str, PublicKey] = {}
        """Those of hand-shakes that began before the last change."""
        self._counters = counters
        self._reactor = reactor
        self._timeout = timeout
        self._bound = waiting
        self._patient = patient
        self._grace = grace
        self._quiet_until = 0.0
        self._requests: dict[int, _Request] = {}
        """By id; the oldest first, so the first is over first."""
        self._last = 0
        self._awaited: Set[str] = frozenset()
        """Of these, that the process lacks them is no news: their certificates are not in force."""
        self._has: frozenset[str] = frozenset(keys)
        """The keys of the process; until it names them, all."""
        self._link: Link | None = None
        """Once greeted."""
        self._watched: Link | None = None
        """Greeted or not."""
        self._connector: Any = None
        self._retry = FIRST_RETRY
        self._retrying: Any = None
        self._sweep: Any = None
        self._flushing = False
        self._stopped = False
        self._told = ""
        """The last trouble in the log: not every attempt is a line."""
        self._mute = False
        """It was logged that it is connected and lets requests run out of time."""
        self._parked = 0
        """Requests that are parked."""
        self._away_since = 0.0
        self._hang_after = hang_after
        self._hung = hung
        self._watchdog = Watchdog(hang_after if hung is not None else 0.0, reactor, self._silent)

    @property
    def connected(self) -> bool:
        """Whether the process can be asked now."""
        return self._link is not None

    @property
    def away(self) -> float:
        """Seconds for which the process could not be asked; 0 when it can be."""
        return 0.0 if self.connected else self._reactor.seconds() - self._away_since

    def status(self) -> dict[str, Any]:
        """For people: where it is asked, whether it can be, else for how long it could not, and how many wait for it."""
        return {
            "path": self._path,
            "connected": self.connected,
            "away": round(self.away, 1),
            "waiting": len(self._requests),
        }

    @property
    def lacks_keys(self) -> bool:
        """Whether the process, when it last said which keys it has, did not name all of ours."""
        return not self._keys.keys() <= self._has

    @property
    def wanted(self) -> Set[str]:
        """Ids of the keys that are asked for, or will be."""
        return self._keys.keys()

    def has(self, key: str) -> bool:
        """Whether the process has this key, by what it last said."""
        return key in self._has

    def start(self) -> None:
        """Connect, now and whenever the connection is lost."""
        self._away_since = self._reactor.seconds()
        self._quiet_until = self._away_since + self._grace
        self._connect()

    def stop(self) -> None:
        """Let go; what is outstanding fails."""
        self._stopped = True
        self._watchdog.stop()
        for call in (self._retrying, self._sweep):
            if call is not None and call.active():
                call.cancel()
        if self._connector is not None:
            self._connector.disconnect()
        for id in list(self._requests):
            self._fail(id, "the gateway is stopping")

    def replace_keys(self, keys: Mapping[str, PublicKey], awaited: Set[str] = frozenset()) -> None:
        """Those of the certificates in force from now on, and the `awaited` ones of certificates that come into force
        once the process has them."""
        if keys.keys() != self._keys.keys():
            self._before = self._keys
        self._keys = keys
        self._awaited = awaited

    def sign(self, key: str, algorithm: int, data: bytes) -> Deferred[bytes]:
        """See core.interfaces.tls.Signer."""
        reason = self._unready(key, algorithm, data)
        if reason:
            self._counters.signer_failures += 1
            return fail(SigningFailed(reason))
        self._last = id = (self._last + 1) & 0xFFFFFFFF
        deferred: Deferred[bytes] = Deferred(_forget)
        request = _Request(key, algorithm, data, self._reactor.seconds() + self._timeout, deferred)
        if self._link is not None:
            self._link.wire.request(id, key, algorithm, data)
            self._watchdog.asked()
            self._flush_soon()
        self._requests[id] = request
        self._counters.signer_waiting += 1
        if self._sweep is None:
            self._sweep = self._reactor.callLater(self._timeout, self._expire)
        return deferred

    # ---------------------------------------------------------------- requests

    def _unready(self, key: str, algorithm: int, data: bytes) -> str:
        """Why a request cannot be taken; empty when it can."""
        if self._stopped:
            return "the gateway is stopping"
        if len(self._requests) >= self._bound:
            return "too many signatures wait"
        if self._link is None and not self._patient:
            return f"no signer at {self._path}"
        try:
            check_request(key, algorithm, data)
        except LocalError as error:
            return str(error)
        return ""

    def _flush_soon(self) -> None:
        """At the end of this turn: requests of one turn travel together."""
        if not self._flushing:
            self._flushing = True
            self._reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._link is not None:
            self._link.flush()

    def _expire(self) -> None:
        self._sweep = None
        now = self._reactor.seconds()
        for id, request in list(self._requests.items()):
            if request.deadline > now:
                self._sweep = self._reactor.callLater(request.deadline - now, self._expire)
                return
            if request.parked:
                self._fail(id, f"{self._path} has no key {request.key}")
                continue
            reason = f"no signature within {self._timeout:g} s from {self._path}"
            if self._link is not None and not self._mute:
                self._mute = True
                _log.error("the signer is connected and does not answer: {reason}", reason=reason)
            self._fail(id, reason)

    def _take(self, id: int) -> _Request | None:
        request = self._requests.pop(id, None)
        if request is not None:
            self._counters.signer_waiting -= 1
            self._parked -= request.parked
        return request

    def _fail(self, id: int, reason: str) -> None:
        request = self._take(id)
        if request is None:
            return
        self._counters.signer_failures += 1
        if not request.deferred.called:
            request.deferred.errback(SigningFailed(reason))

    def _made(self, id: int, signature: bytes) -> None:
        if self._mute:
            self._mute = False
            _log.info("the signer at {path} answers again", path=self._path)
        request = self._requests.get(id)
        if request is None:
            return  # it came too late
        key = self._keys.get(request.key) or self._before.get(request.key)
        # A key that is not known any more is not our matter.
        if key is not None and not key.is_signature(signature, request.data):
            _log.error("the signer at {path} made a wrong signature with key {key}", path=self._path, key=request.key)
            self._fail(id, "the signer made a wrong signature")
            return
        self._take(id)
        self._counters.signatures[NAME] = self._counters.signatures.get(NAME, 0) + 1
        if not request.deferred.called:
            request.deferred.callback(signature)

    # ---------------------------------------------------------------- the connection

    def _connect(self) -> None:
        self._retrying = None
        self._connector = self._reactor.connectUNIX(self._path, LinkFactory(self), timeout=self._timeout)

    def connected_to(self, link: Link) -> Any:
        """`link` is there, and owes us its greeting. The end of our patience, a delayed call: who takes connections and
        says nothing is left after a while, since another may have its place by then."""
        self._watched = link
        self._watchdog.asked()
        return self._reactor.callLater(self._timeout, link.give_up, f"it says nothing for {self._timeout:g} s")

    def heard(self) -> None:
        """It lives: all that it said at once has been taken."""
        self._watchdog.heard(len(self._requests) > self._parked)

    def _silent(self) -> None:
        link = self._watched
        if self._hung is None or link is None:
            return
        asked = counted(len(self._requests) - self._parked, "signature")
        _log.error(
            "the signer at {path} is connected and has answered nothing for {after:g} s ({asked} asked for): "
            "ending it, another is started",
            path=self._path,
            after=self._hang_after,
            asked=asked,
        )
        # that it is away now is no news; that the next one is there will be, or that it does not come
        self._told = "it hung"
        self._quiet_until = self._reactor.seconds() + self._grace
        self._hung()
        link.give_up(self._told)

    def greeted(self, link: Link) -> None:
        """The signer has said HELLO on `link`: ask for all that is outstanding."""
        self._retry = FIRST_RETRY
        self._quiet_until = 0.0
        self._link = link
        self._parked = 0
        for id, request in list(self._requests.items()):
            request.parked = False
            if request.deferred.called:
                self._take(id)  # nobody wants it any more: this process is not asked, and owes nothing
            else:
                link.wire.request(id, request.key, request.algorithm, request.data)
        link.flush()
        if self._told:
            self._told = ""
            _log.info("the signer at {path} is there again", path=self._path)

    def happened(self, event: SigningEvent) -> None:
        """An event of the connection."""
        if isinstance(event, SignatureMade):
            self._made(event.id, event.signature)
        elif isinstance(event, SignatureRefused):
            request = self._requests.get(event.id)
            awaited = request is not None and event.code == UNKNOWN_KEY and request.key in self._keys
            if request is not None and awaited and self._patient:
                self._parked += not request.parked
                request.parked = True
            else:
                self._fail(event.id, f"the signer refuses: {event.message}")
        elif isinstance(event, KeysOffered):
            self._offered(event.keys)

    def _offered(self, keys: frozenset[str]) -> None:
        self._has = keys
        for key in self._keys.keys() - keys - self._awaited:
            _log.error(
                "the signer at {path} has no key for {chain} (id {key})",
                path=self._path,
                chain=self._keys[key].chain,
                key=key,
            )
        for id, request in self._requests.items():
            if request.parked and request.key in keys and self._link is not None:
                request.parked = False
                self._parked -= 1
                self._link.wire.request(id, request.key, request.algorithm, request.data)
        self._flush()

    def lost(self, reason: str) -> None:
        """There is no connection, or none any more."""
        if self._link is not None:
            self._away_since = self._reactor.seconds()
        self._link = self._watched = None
        self._watchdog.stop()
        if self._stopped:
            return
        if reason != self._told and self._reactor.seconds() >= self._quiet_until:
            self._told = reason
            _log.warn("no signer at {path}, trying again: {reason}", path=self._path, reason=reason)
        self._retrying = self._reactor.callLater(self._retry, self._connect)
        self._retry = min(2 * self._retry, LONGEST_RETRY)


def _forget(_: Deferred[bytes]) -> None:
    """Cancelled: the signature is dropped when it comes."""
