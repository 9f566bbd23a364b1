"""The made-up app's calls and their bodies: one maker for the question and one for the answer of each operation.

Those of trade are in a module of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.corpus.devices import Device
from loadtest.corpus.fields import Cents, Digest, Fields
from loadtest.corpus.parts import action, picture, spot, style
from loadtest.corpus.trade import entries, paid, pay, place_order, placed, statement, track, tracked

Maker = Callable[[Device], Fields]


@dataclass(frozen=True)
class Call:
    """An operation, how many of a session's calls it is, and how many percent of them are protobuf."""

    operation: str
    share: int
    protobuf: int
    question: Maker
    answer: Maker


def answered(device: Device, data: Fields) -> Fields:
    """What every answer is wrapped in."""
    return Fields(
        (
            ("success", 1, True),
            ("resultCode", 2, "SUCCESS"),
            ("resultMessage", 3, "操作成功" if device.chinese else "OK"),
            ("serverTime", 4, device.now + 30),
            ("data", 5, data),
        )
    )


def search(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("q", 1, words.pick(dice, words.items)[: dice.between("search/letters", 2, 5)]),
            ("city", 2, device.city),
            ("page", 3, dice.deal("search/page", (1, 1, 1, 2, 3))),
            ("sort", 4, dice.deal("search/sort", ("near", "best", "best", "price"))),
            ("session", 5, Digest(dice.hex(16))),
        )
    )


def found(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("total", 1, dice.random.randrange(2000)),
            ("session", 2, Digest(dice.hex(16))),
            (
                "shops",
                3,
                [
                    Fields(
                        (
                            ("id", 1, "6" + dice.digits(9)),
                            ("name", 2, words.pick(dice, words.shops) + f"（{words.pick(dice, words.streets)}店）"),
                            ("score", 3, round(dice.between("shop/score", 36, 50) / 10, 1)),
                            ("monthlySales", 4, dice.cents("shop/sold", 600)),
                            ("distanceMeters", 5, dice.cents("shop/meters", 1500)),
                            ("tags", 6, [words.pick(dice, words.tags) for _ in range(dice.between("shop/tags", 0, 2))]),
                            ("coverImage", 7, picture(device)),
                            ("businessStatus", 8, dice.deal("shop/open", ("OPEN", "OPEN", "OPEN", "RESTING"))),
                            ("deliverable", 9, dice.share("shop/deliver", 80)),
                            ("action", 10, action(device, "shop", "shopId", dice.digits(9))),
                        )
                    )
                    for _ in range(dice.between("shops", 3, 8))
                ],
            ),
        )
    )


def feed(device: Device) -> Fields:
    dice = device.dice
    return Fields(
        (
            ("tab", 1, dice.deal("feed/tab", ("follow", "nearby", "pick", "pick"))),
            ("cursor", 2, dice.base64(15)),
            ("size", 3, 6),
            ("seen", 4, [Digest(dice.hex(12)) for _ in range(dice.between("feed/seen", 0, 4))]),
            ("network", 5, device.network),
            ("at", 6, spot(device)),
        )
    )


def cards(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("cursor", 1, dice.base64(15)),
            (
                "cards",
                2,
                [
                    Fields(
                        (
                            ("id", 1, Digest(dice.hex(12))),
                            ("type", 2, dice.deal("card/type", ("note", "note", "video", "shop", "live"))),
                            ("title", 3, device.text("card/title", 2, 5)),
                            (
                                "author",
                                4,
                                Fields(
                                    (
                                        ("id", 1, "8" + dice.digits(10)),
                                        ("nickName", 2, words.person(dice)),
                                        ("avatarUrl", 3, picture(device)),
                                    )
                                ),
                            ),
                            ("coverImage", 5, picture(device)),
                            ("likeCount", 6, dice.cents("card/likes", 300)),
                            ("liked", 7, dice.share("card/liked", 10)),
                            ("action", 8, action(device, words.pick(dice, words.pages), "cardId", dice.base64(9))),
                            ("style", 9, style(device)),
                            ("commentCount", 10, dice.cents("card/comments", 40)),
                            (
                                "recommendReason",
                                11,
                                dice.deal("card/reason", ("FOLLOWED", "NEARBY", "POPULAR", "POPULAR")),
                            ),
                        )
                    )
                    for _ in range(dice.between("cards", 3, 7))
                ],
            ),
        )
    )


def say(device: Device) -> Fields:
    dice = device.dice
    peer = dice.random.randrange(6)
    return Fields(
        (
            ("room", 1, Digest(device.rooms[peer])),
            ("to", 2, device.peers[peer][0]),
            ("localId", 3, Digest(dice.hex(32))),
            ("kind", 4, "text"),
            ("text", 5, device.text("say", 1, 8)),
            ("replyTo", 6, Digest(dice.hex(24)) if dice.share("say/reply", 20) else None),
            ("at", 7, device.now),
        )
    )


def said(device: Device) -> Fields:
    dice = device.dice
    return Fields(
        (("id", 1, Digest(dice.hex(24))), ("seq", 2, dice.random.randrange(90_000)), ("at", 3, device.now + 40))
    )


def knobs(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("have", 1, Digest(dice.hex(16))),
            ("since", 2, device.now - dice.random.randrange(10**9)),
            ("keys", 3, [words.pick(dice, words.knobs) for _ in range(dice.between("knobs/asked", 0, 4))]),
            ("version", 4, device.version),
        )
    )


def known(device: Device) -> Fields:
    dice, words = device.dice, device.words
    values = ("true", "true", "false", "0", "1", "A", "B", "", "", "")
    return Fields(
        (
            ("have", 1, Digest(dice.hex(16))),
            (
                "changed",
                2,
                [
                    Fields(
                        (
                            ("configKey", 1, words.pick(dice, words.knobs)),
                            (
                                "configValue",
                                2,
                                dice.deal("known/value", values) or str(dice.cents("known/number", 900)),
                            ),
                        )
                    )
                    for _ in range(dice.between("known", 14, 44))
                ],
            ),
            ("removed", 3, []),
        )
    )


def events(device: Device) -> Fields:
    dice, words = device.dice, device.words
    at = device.now - 60_000
    some = []
    for _ in range(dice.between("events", 6, 18)):
        at += dice.random.randrange(40, 6000)
        some.append(
            Fields(
                (
                    ("timestamp", 1, at),
                    ("eventType", 2, dice.deal("event", ("view", "view", "tap", "tap", "leave", "net", "slow"))),
                    ("pageName", 3, words.pick(dice, words.pages)),
                    ("durationMs", 4, dice.cents("event/ms", 350)),
                    ("position", 5, dice.between("event/n", 1, 30)),
                    ("network", 6, device.network),
                    ("result", 7, "success"),
                )
            )
        )
    return Fields(
        (
            ("batch", 1, Digest(dice.hex(24))),
            ("user", 2, device.user),
            ("version", 3, device.version),
            ("events", 4, some),
        )
    )


def taken(device: Device) -> Fields:
    return Fields(
        (("success", 1, True), ("batch", 2, Digest(device.dice.hex(24))), ("nextUploadIntervalMs", 3, 30_000))
    )


def near(device: Device) -> Fields:
    dice = device.dice
    return Fields(
        (
            ("at", 1, spot(device)),
            ("radius", 2, dice.deal("near/radius", (500, 1000, 3000))),
            ("kind", 3, dice.deal("near/kind", ("charger", "locker", "bike", "shop"))),
            ("city", 4, device.city),
        )
    )


def spots(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            (
                "spots",
                1,
                [
                    Fields(
                        (
                            ("id", 1, Digest(dice.hex(16))),
                            ("name", 2, words.pick(dice, words.streets) + str(dice.between("spot/number", 1, 99))),
                            ("at", 3, spot(device)),
                            ("availableCount", 4, dice.between("spot/free", 0, 12)),
                            ("serviceStatus", 6, dice.deal("spot/status", ("AVAILABLE", "AVAILABLE", "OCCUPIED"))),
                            ("openHours", 7, "00:00-24:00"),
                            ("price", 5, Cents(dice.cents("spot/price", 150))),
                        )
                    )
                    for _ in range(dice.between("spots", 4, 10))
                ],
            ),
            ("asOf", 2, device.now),
        )
    )


def refused(device: Device) -> Fields:
    """The answer of any operation that failed."""
    dice = device.dice
    return Fields(
        (
            ("success", 1, False),
            ("resultCode", 2, dice.deal("refused", ("BUSY", "NOT_FOUND", "LOGIN_AGAIN", "BAD_INPUT"))),
            ("resultMessage", 3, "系统繁忙，请稍后再试" if device.chinese else "Please try again later"),
            ("traceId", 4, Digest(dice.hex(32))),
            ("retryable", 5, dice.share("refused/retry", 50)),
        )
    )


CALLS = (
    Call("wallet.pay", 3, 30, pay, paid),
    Call("wallet.statement", 2, 20, statement, entries),
    Call("orders.place", 2, 30, place_order, placed),
    Call("orders.track", 2, 35, track, tracked),
    Call("shop.search", 2, 30, search, found),
    Call("feed.page", 2, 30, feed, cards),
    Call("chat.send", 3, 35, say, said),
    Call("settings.fetch", 1, 20, knobs, known),
    Call("events.report", 2, 25, events, taken),
    Call("places.near", 1, 35, near, spots),
)
