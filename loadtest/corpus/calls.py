"""Bodies of the made-up app's calls: one maker for the question and one for the answer of each operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.corpus.devices import Device
from loadtest.corpus.fields import Cents, Digest, Fields

Maker = Callable[[Device], Fields]


@dataclass(frozen=True)
class Call:
    """An operation, how many of a session's calls it is, and how many percent of them are protobuf."""

    operation: str
    share: int
    protobuf: int
    question: Maker
    answer: Maker


def picture(device: Device) -> str:
    """The address of a picture: a name that says nothing."""
    kind = device.dice.deal("picture", ("webp", "webp", "avif", "jpg"))
    name = (
        f"https://p{device.dice.between('picture/host', 1, 4)}.lantern-img.cn/media/prod/{device.dice.base64(12)}.jpg"
    )
    return f"{name}?process=resize,w_{device.dice.deal('picture/width', (240, 480, 480, 720))}/format,{kind}"


def action(device: Device, page: str, key: str, value: str) -> Fields:
    """What a tap on it does, and how that is counted."""
    dice = device.dice
    return Fields(
        (
            ("actionType", 1, "OPEN_PAGE"),
            (
                "targetUrl",
                2,
                f"lantern://platform/open?page={page}&{key}={value}&source={dice.deal('action', ('home', 'push', 'list'))}",
            ),
            ("needLogin", 3, True),
            (
                "trackId",
                4,
                f"a118.b{dice.between('track/b', 100, 119)}.c{dice.between('track/c', 1, 40)}.d{dice.between('track/d', 1, 9)}",
            ),
        )
    )


def style(device: Device) -> Fields:
    """How it is drawn."""
    dice = device.dice
    return Fields(
        (
            ("titleColor", 1, dice.deal("style/title", ("#1A1A1A", "#1A1A1A", "#333333"))),
            ("backgroundColor", 2, dice.deal("style/background", ("#FFFFFF", "#FFFFFF", "#F5F7FA", "#FFF3E0"))),
            ("cornerRadius", 3, 12),
            ("layout", 4, dice.deal("style/layout", ("two_columns", "two_columns", "single", "banner"))),
        )
    )


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


def spot(device: Device) -> Fields:
    """Where the device is, to some metres."""
    at = device.dice.random
    return Fields(
        (
            ("lat", 1, round(device.latitude + at.gauss(0, 0.04), 5)),
            ("lng", 2, round(device.longitude + at.gauss(0, 0.04), 5)),
            ("acc", 3, device.dice.between("spot/accuracy", 4, 60)),
        )
    )


def day(device: Device, back: int) -> str:
    """A date and a time of the last `back` days."""
    dice = device.dice
    number = dice.random.randrange(back)
    return f"2026-{6 - number // 28 % 6:02d}-{28 - number % 28:02d} {dice.random.randrange(24):02d}:{dice.random.randrange(60):02d}"


def pay(device: Device) -> Fields:
    dice = device.dice
    return Fields(
        (
            ("orderId", 1, device.order()),
            ("payee", 2, device.words.pick(dice, device.words.shops)),
            ("payeeId", 3, "6" + dice.digits(9)),
            ("amount", 4, Cents(dice.cents("pay", 3200))),
            ("currency", 5, "CNY" if device.chinese else "SGD"),
            ("payChannel", 6, dice.deal("pay/method", ("balance", "balance", "debit", "credit", "points"))),
            ("requestNonce", 7, Digest(dice.hex(24))),
            ("securityToken", 8, dice.base64(32)),
            ("place", 9, spot(device)),
            ("couponId", 10, Digest(dice.hex(16)) if dice.share("pay/coupon", 30) else None),
            ("installId", 11, Digest(device.install)),
            ("confirmed", 12, dice.share("pay/confirmed", 85)),
        )
    )


def paid(device: Device) -> Fields:
    dice = device.dice
    fine = dice.share("paid", 90)
    return Fields(
        (
            ("success", 1, fine),
            ("resultCode", 2, "PAID" if fine else dice.deal("paid/code", ("RISK_HOLD", "LIMIT_DAY", "CARD_REFUSED"))),
            ("resultMessage", 3, "" if fine else device.text("paid/message", 2, 5)),
            ("paymentNo", 4, device.serial()),
            ("orderId", 5, device.order()),
            ("gmtPaid", 6, device.now),
            ("balanceAfter", 7, Cents(dice.cents("paid/balance", 90_000))),
            ("pointsEarned", 8, dice.between("paid/points", 0, 60)),
            ("receiptDigest", 9, Digest(dice.hex(32))),
            ("gift", 10, _gift(device) if dice.share("paid/gift", 35) else None),
        )
    )


def _gift(device: Device) -> Fields:
    dice = device.dice
    return Fields(
        (
            ("title", 1, device.text("gift/title", 2, 4)),
            ("value", 2, Cents(dice.cents("gift", 500))),
            ("until", 3, device.now + 86_400_000 * dice.between("gift/days", 1, 14)),
            ("image", 4, picture(device)),
        )
    )


def statement(device: Device) -> Fields:
    dice = device.dice
    return Fields(
        (
            ("account", 1, device.user),
            ("month", 2, f"2026-{dice.between('statement/month', 1, 6):02d}"),
            ("after", 3, Digest(dice.hex(16))),
            ("limit", 4, 20),
            ("direction", 5, dice.deal("statement/direction", ("all", "all", "out", "in"))),
        )
    )


def entries(device: Device) -> Fields:
    dice = device.dice
    kinds = ("food", "food", "ride", "shop", "transfer", "utility", "health", "refund")
    return Fields(
        (
            ("next", 1, Digest(dice.hex(16))),
            ("more", 2, dice.share("entries/more", 70)),
            ("spent", 3, Cents(dice.cents("entries/spent", 240_000))),
            (
                "entries",
                4,
                [
                    Fields(
                        (
                            ("entryId", 1, device.serial(dice.random.randrange(10**10))),
                            ("merchantName", 2, device.words.pick(dice, device.words.shops)),
                            ("categoryCode", 3, dice.deal("entries/kind", kinds)),
                            ("amount", 4, Cents(dice.cents("entry", 2800))),
                            ("gmtCreate", 5, day(device, 150)),
                            ("status", 6, dice.deal("entries/state", ("SETTLED",) * 9 + ("PENDING",))),
                            ("currency", 7, "CNY" if device.chinese else "SGD"),
                            (
                                "iconUrl",
                                8,
                                f"https://p1.lantern-img.cn/icons/category/{dice.deal('entries/icon', kinds)}_v3.png",
                            ),
                            ("detailable", 9, True),
                        )
                    )
                    for _ in range(dice.between("entries", 5, 17))
                ],
            ),
        )
    )


def place_order(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("shopId", 1, "6" + dice.digits(9)),
            (
                "lines",
                2,
                [
                    Fields(
                        (
                            ("sku", 1, dice.digits(11)),
                            ("name", 2, words.pick(dice, words.items)),
                            ("count", 3, dice.deal("line/count", (1, 1, 1, 2, 3))),
                            ("price", 4, Cents(dice.cents("line", 1900))),
                        )
                    )
                    for _ in range(dice.between("lines", 1, 4))
                ],
            ),
            ("address", 3, _address(device)),
            ("remark", 4, device.text("order/remark", 1, 3) if dice.share("order/remark?", 50) else ""),
            ("slot", 5, dice.deal("order/slot", ("now", "now", "now", "18:00-18:30", "19:00-19:30", "12:00-12:30"))),
            ("draft", 6, Digest(dice.hex(24))),
            ("cutlery", 7, dice.share("order/cutlery", 20)),
        )
    )


def _address(device: Device) -> Fields:
    dice, words = device.dice, device.words
    street = words.pick(dice, words.streets)
    return Fields(
        (
            (
                "text",
                1,
                f"{street}{dice.between('address/house', 1, 400)}号{dice.between('address/door', 101, 2404)}室",
            ),
            ("contact", 2, words.person(dice)),
            ("phone", 3, f"1{dice.digits(2)}****{dice.digits(4)}"),
            ("at", 4, spot(device)),
        )
    )


def placed(device: Device) -> Fields:
    dice = device.dice
    return Fields(
        (
            ("orderId", 1, device.order()),
            ("state", 2, "accepted"),
            ("total", 3, Cents(dice.cents("placed", 5200))),
            ("deliveryFee", 4, Cents(dice.cents("placed/fee", 450))),
            ("etaMinutes", 5, dice.between("placed/eta", 18, 65)),
            ("payToken", 6, dice.base64(18)),
            ("createdAt", 7, device.now),
        )
    )


def track(device: Device) -> Fields:
    return Fields(
        (
            ("orderId", 1, device.order()),
            ("since", 2, device.now - device.dice.random.randrange(600_000)),
            ("map", 3, True),
        )
    )


def tracked(device: Device) -> Fields:
    dice, words = device.dice, device.words
    return Fields(
        (
            ("orderId", 1, device.order()),
            ("state", 2, dice.deal("tracked/state", ("cooking", "picked_up", "on_the_way", "on_the_way", "arrived"))),
            (
                "courier",
                3,
                Fields(
                    (
                        ("id", 1, "9" + dice.digits(7)),
                        ("name", 2, words.person(dice)),
                        ("avatarUrl", 3, picture(device)),
                        ("score", 4, dice.between("courier/score", 88, 100)),
                    )
                ),
            ),
            ("position", 4, spot(device)),
            ("etaAt", 5, device.now + dice.random.randrange(2_400_000)),
            (
                "steps",
                6,
                [
                    Fields(
                        (
                            ("at", 1, device.now - dice.random.randrange(3_000_000)),
                            ("description", 2, device.notice("step")),
                            (
                                "nodeType",
                                3,
                                dice.deal(
                                    "step/type", ("SHOP_ACCEPTED", "COURIER_ASSIGNED", "PICKED_UP", "ON_THE_WAY")
                                ),
                            ),
                        )
                    )
                    for _ in range(dice.between("steps", 2, 5))
                ],
            ),
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
