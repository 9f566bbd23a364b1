"""Bodies of the made-up app's pushes: one maker for each biz."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.corpus.calls import Maker
from loadtest.corpus.devices import Device
from loadtest.corpus.fields import Cents, Digest, Fields
from loadtest.corpus.parts import action, day, picture, spot, style


@dataclass(frozen=True)
class Notice:
    """A biz, how many of a session's pushes it is, and how many percent of them are protobuf."""

    biz: str
    share: int
    protobuf: int
    body: Maker


def shown(device: Device, category: str, title: str, text: str, link: tuple[str, str]) -> Fields:
    """What every notification has, for the phone that shows it."""
    dice = device.dice
    return Fields(
        (
            ("messageId", 1, Digest(dice.hex(24))),
            ("category", 2, category),
            ("title", 3, title),
            ("content", 4, text),
            ("sound", 5, dice.deal("shown/sound", ("default", "default", "default", "none"))),
            ("badgeCount", 6, dice.between("shown/badge", 0, 40)),
            ("importance", 7, dice.deal("shown/importance", ("HIGH", "HIGH", "DEFAULT"))),
            ("groupKey", 8, f"lantern_{category.lower()}"),
            ("action", 9, action(device, *link, dice.digits(12))),
            ("gmtCreate", 10, device.now),
            ("expireSeconds", 11, dice.deal("shown/expire", (3600, 86400, 86400, 259200))),
        )
    )


def order_state(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("orderId", 1, device.order()),
            (
                "state",
                2,
                dice.deal("push/state", ("paid", "accepted", "cooking", "picked_up", "on_the_way", "arrived", "done")),
            ),
            ("shop", 3, words.pick(dice, words.shops)),
            (
                "notification",
                4,
                shown(
                    device,
                    "ORDER",
                    device.text("push/order/title", 1, 2),
                    device.notice("push/order"),
                    ("order", "orderId"),
                ),
            ),
            (
                "courier",
                6,
                Fields((("name", 1, words.person(dice)), ("phone", 2, f"1{dice.digits(2)}****{dice.digits(4)}"))),
            ),
            ("position", 7, spot(device) if dice.share("push/position", 40) else None),
            ("etaAt", 8, device.now + dice.random.randrange(2_400_000)),
        )
    )


def chat(device: Device) -> Fields:
    """What was said since the last push: at night one message, in a busy room several."""
    dice = device.dice
    room = dice.random.randrange(6)
    messages = []
    for _ in range(dice.deal("push/chat/messages", (1, 1, 1, 2, 3, 4, 6))):
        number, name, avatar = device.peers[room if dice.share("push/chat/other", 75) else dice.random.randrange(6)]
        device.sequence += 1
        messages.append(
            Fields(
                (
                    ("messageId", 1, device.serial(5000)),
                    ("sender", 2, Fields((("userId", 1, number), ("nickName", 2, name), ("avatarUrl", 3, avatar)))),
                    ("messageType", 3, dice.deal("push/chat/kind", ("TEXT",) * 8 + ("IMAGE", "CARD"))),
                    ("content", 4, device.text("push/chat", 1, 8)),
                    ("sequence", 5, device.sequence),
                    ("gmtCreate", 6, device.now - dice.random.randrange(9000)),
                    ("mentioned", 7, dice.share("push/chat/mentioned", 10)),
                )
            )
        )
    return Fields(
        (
            ("conversationId", 1, Digest(device.rooms[room])),
            ("conversationType", 2, dice.deal("push/chat/type", ("SINGLE", "SINGLE", "GROUP"))),
            ("unreadCount", 3, dice.between("push/chat/unread", 1, 30)),
            ("messages", 4, messages),
        )
    )


def account(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("event", 1, dice.deal("push/account", ("debit", "debit", "debit", "credit", "refund", "fee", "login"))),
            ("entryId", 2, device.serial()),
            ("who", 3, words.pick(dice, words.shops)),
            ("amount", 4, Cents(dice.cents("push/amount", 3400))),
            ("balance", 5, Cents(dice.cents("push/balance", 90_000))),
            ("card", 6, f"**** {dice.digits(4)}"),
            ("at", 7, day(device, 2)),
            (
                "notification",
                8,
                shown(
                    device,
                    "ACCOUNT",
                    device.text("push/account/title", 1, 2),
                    device.notice("push/account"),
                    ("bill", "entryId"),
                ),
            ),
            ("trace", 10, Digest(dice.hex(32))),
        )
    )


def offer(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("campaign", 1, f"c{dice.digits(6)}"),
            (
                "notification",
                2,
                shown(
                    device,
                    "OFFER",
                    device.text("push/offer/title", 2, 4),
                    device.notice("push/offer"),
                    ("coupon", "campaignId"),
                ),
            ),
            ("image", 4, picture(device)),
            ("shop", 5, words.pick(dice, words.shops)),
            ("tags", 6, [words.pick(dice, words.tags) for _ in range(dice.between("push/offer/tags", 1, 3))]),
            (
                "coupon",
                7,
                Fields(
                    (
                        ("id", 1, Digest(dice.hex(20))),
                        ("off", 2, Cents(dice.cents("push/off", 800))),
                        ("over", 3, Cents(5000)),
                        ("until", 4, day(device, 20)),
                    )
                ),
            ),
            ("style", 8, style(device)),
            ("silent", 9, dice.share("push/silent", 30)),
        )
    )


def sync(device: Device) -> Fields:
    dice = device.dice
    what = dice.deal("push/sync", ("contacts", "coupons", "rooms", "bills", "favourites"))
    changes = []
    for _ in range(dice.between("push/changes", 2, 9)):
        device.sequence += 1
        changes.append(
            Fields(
                (
                    ("sequence", 1, device.sequence),
                    ("operation", 2, dice.deal("push/op", ("UPSERT", "UPSERT", "UPSERT", "DELETE", "TOUCH"))),
                    ("recordKey", 3, device.serial(10**7)),
                    ("gmtModified", 4, device.now - dice.random.randrange(10**7)),
                    ("summary", 5, device.text("push/note", 1, 4)),
                )
            )
        )
    return Fields(
        (
            ("table", 1, what),
            ("version", 2, device.sequence),
            ("more", 3, dice.share("push/more", 10)),
            ("changes", 4, changes),
        )
    )


def courier(device: Device) -> Fields:
    """The way that the courier has gone since the last push."""
    dice = device.dice
    at = device.now
    trail = []
    for _ in range(dice.between("push/trail", 1, 8)):
        at -= dice.random.randrange(2_000, 9_000)
        trail.append(
            Fields(
                (
                    ("position", 1, spot(device)),
                    ("speed", 2, round(dice.random.uniform(0, 9), 1)),
                    ("heading", 3, dice.random.randrange(360)),
                    ("timestamp", 4, at),
                )
            )
        )
    return Fields(
        (
            ("orderId", 1, device.order()),
            ("distanceMeters", 2, dice.cents("push/left", 900)),
            ("estimatedArrival", 3, device.now + dice.random.randrange(1_200_000)),
            ("trail", 4, trail),
        )
    )


def badge(device: Device) -> Fields:
    dice = device.dice
    return Fields(
        (
            ("chat", 1, dice.between("push/badge/chat", 0, 30)),
            ("bill", 2, dice.between("push/badge/bill", 0, 4)),
            ("coupon", 3, dice.between("push/badge/coupon", 0, 9)),
            ("version", 4, device.sequence * 3 + dice.between("push/badge/version", 0, 9)),
            ("at", 5, device.now),
        )
    )


NOTICES = (
    Notice("order", 10, 15, order_state),
    Notice("chat", 25, 20, chat),
    Notice("account", 7, 15, account),
    Notice("offer", 4, 15, offer),
    Notice("sync", 24, 15, sync),
    Notice("courier", 10, 30, courier),
    Notice("badge", 20, 15, badge),
)
