"""Sessions come onto streams and leave them: their places, what they are told of a stream, cursors for the store."""

from __future__ import annotations

from twisted.logger import Logger

from accessgw.core.delivery import HISTORY_LOST, TRUNCATED, Delivery, Opening, Place
from accessgw.core.interfaces.stores import StreamStore
from accessgw.core.streams import Stream, StreamTable
from accessgw.model.counters import PushCounters
from accessgw.model.pushes import Cursor
from protocols.mmtp.nothing import NOTHING

log = Logger()

MAX_PLACES = 1024
"""Streams on one connection (MMTP specification, Limits: aliases)."""


class Places:
    """Opens, keeps and closes the places of connected sessions."""

    def __init__(self, store: StreamStore, table: StreamTable, counters: PushCounters) -> None:
        self._store = store
        self._table = table
        self._counters = counters
        self.dirty: dict[Delivery, None] = {}
        """Sessions whose cursors moved since they were saved."""

    def open(self, delivery: Delivery, stream: Stream, opening: Opening) -> Place | None:
        """Put the session on the stream where `opening` says. None when it has too many streams."""
        assert delivery.link is not None
        place = delivery.places.get(stream.alias)
        if place is not None:
            if place.closing:
                place.closing = False
                self._table.aliases.release(stream.key)
                place.stream = stream
                place.sent = max(place.sent, opening.position) if place.epoch == stream.epoch else place.sent
                stream.add(place)
            return place
        if len(delivery.places) >= MAX_PLACES:
            log.warn(
                "device {device} has too many streams; {stream} is left out", device=delivery.device, stream=stream.key
            )
            return None
        place = Place(delivery, stream, opening.position, opening.saved)
        if not delivery.places:
            delivery.places = {}
        delivery.places[stream.alias] = place
        stream.add(place)
        if opening.note:
            self.note(place, opening.note, opening.position)
        self.touch(place)
        return place

    def close(self, place: Place) -> None:
        """The session left the stream; late acknowledgements still count."""
        delivery, stream = place.delivery, place.stream
        if place.index < 0:
            return
        stream.remove(place)
        delivery.forget(place)
        if place.inflight or place.stale:
            place.closing = True
            self._table.aliases.take(stream.key)
        else:
            del delivery.places[stream.alias]
        self._table.close_if_unused(stream)

    def vacate(self, place: Place) -> None:
        """The last acknowledgement of a place that was closed has come."""
        delivery, stream = place.delivery, place.stream
        self.save(delivery)
        del delivery.places[stream.alias]
        self._table.aliases.release(stream.key)

    def leave(self, delivery: Delivery) -> None:
        """The connection is gone: save how far it came, and take it off every stream."""
        if delivery.places:
            self.save(delivery)
        if self.dirty:
            self.dirty.pop(delivery, None)
        places, delivery.places = delivery.places, NOTHING
        for place in places.values():
            if place.closing:
                self._table.aliases.release(place.stream.key)
            else:
                place.stream.remove(place)
                self._table.close_if_unused(place.stream)

    def restart(self, place: Place) -> None:
        """The stream lost its history while the session was on it."""
        stream = place.stream
        place.epoch = stream.epoch
        place.stale = [*place.stale, *place.inflight]
        place.inflight = []
        place.saved = -1
        self.move(place, stream.floor, HISTORY_LOST)

    def move(self, place: Place, floor: int, note: str) -> None:
        """What was before is not there any more: go on from `floor`, and tell the device why."""
        place.sent = floor
        if place.introduced:
            place.wire = floor
        self.note(place, note, floor)
        self.touch(place)

    def note(self, place: Place, note: str, position: int) -> None:
        """Tell the device something about the stream, which goes on from `position`."""
        link = place.delivery.link
        assert link is not None
        stream = place.stream
        link.stream_note(stream.alias, stream.key, note, stream.epoch, position)
        if place.introduced:
            link.introduce(stream.alias, stream.key, stream.epoch, position)
        if note == TRUNCATED:
            self._counters.truncated += 1

    # --- cursors

    def touch(self, place: Place) -> None:
        """Its cursor may have moved."""
        if place.cursor > place.saved:
            self.dirty[place.delivery] = None

    def save(self, delivery: Delivery) -> None:
        """Hand the cursors that moved to the store, which writes them behind."""
        moved = []
        for place in delivery.places.values():
            if (cursor := place.cursor) > place.saved:
                place.saved = cursor
                moved.append(Cursor(place.stream.key, place.epoch, cursor))
        if moved:
            self._store.save_cursors(delivery.device, moved)
