"""Bodies of the calls that pay and order: a maker for each question and each answer."""

from __future__ import annotations

from loadtest.corpus.devices import Device
from loadtest.corpus.fields import Cents, Digest, Fields
from loadtest.corpus.parts import day, picture, spot


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
