"""A device of the made-up app: an identity that stays, and the headers of its calls."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from loadtest.corpus.dice import Dice
from loadtest.corpus.fields import as_it_is, renamed, with_underscores
from loadtest.corpus.vocabulary import Vocabulary

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
OPERATION = ":op"
"""The name of a call: MMTP's own pseudo-header; peers carry it as their protocol names a method."""

Headers = list[tuple[str, str]]

_ANDROID = (
    ("PJX110", "1264x2780", "13"),
    ("V2324A", "1260x2800", "14"),
    ("ALN-AL00", "1212x2616", "12"),
    ("23127PN", "1200x2670", "14"),
    ("SM-S921B", "1080x2340", "15"),
    ("XT2401-2", "1220x2712", "14"),
)
_APPLE = (("iPhone16,1", "1179x2556", "17.5"), ("iPhone14,7", "1170x2532", "16.7"), ("iPhone17,2", "1320x2868", "18.1"))
CHANNELS = ("huawei-store", "mi-appstore", "oppo-market", "vivo-market", "honor-store", "samsung-gx")
CARRIERS = ("46000", "46001", "46011", "46015")
SYSTEMS = tuple(sorted({f"android {row[2]}" for row in _ANDROID} | {f"ios {row[2]}" for row in _APPLE}))
_CITIES = (
    ("320500", 31.2990, 120.5853),
    ("350200", 24.4798, 118.0894),
    ("500103", 29.5630, 106.5516),
    ("430100", 28.2282, 112.9388),
    ("610100", 34.3416, 108.9398),
    ("210200", 38.9140, 121.6147),
)
_NETWORKS = ("wifi", "wifi", "wifi", "5g", "5g", "4g")


@dataclass(frozen=True)
class Model:
    """What is sold under one name."""

    name: str
    screen: str
    system: str


class Device:
    """One phone with one user, whose clock goes on."""

    def __init__(self, dice: Dice, words: Vocabulary) -> None:
        self.dice = dice
        self.words = words
        self.apple = dice.share("device/apple", 30)
        self.model = Model(*dice.deal(f"device/model/{self.apple}", _APPLE if self.apple else _ANDROID))
        self.chinese = dice.share("device/chinese", 90)
        spellings = (as_it_is, as_it_is, with_underscores, as_it_is if words.training else renamed)
        self.names = dice.deal("device/names", spellings)
        self.id = dice.hex(32)
        self.user = "8" + dice.digits(10)
        self.print = dice.base64(48)
        """What the risk engine knows the device by: stable, and long."""
        self.install = dice.hex(16)
        self.version = dice.deal("device/version", ("7.42.0", "7.42.1", "7.41.6", "7.40.3"))
        self.build = "7" + dice.digits(7)
        self.channel = "apple-store" if self.apple else dice.deal("device/channel", CHANNELS)
        self.carrier = dice.deal("device/carrier", CARRIERS)
        self.network = dice.deal("device/network", _NETWORKS)
        self.city, self.latitude, self.longitude = dice.deal("device/city", _CITIES)
        self.now = 1_750_000_000_000 + dice.random.randrange(90 * 86_400_000)
        """Milliseconds since 1970."""
        self.sequence = dice.random.randrange(1_000, 9_000)
        self.peers = [("8" + dice.digits(10), words.person(dice), dice.hex(24)) for _ in range(6)]
        """Whom the user chats with: number, name, picture."""
        self.rooms = [dice.hex(16) for _ in self.peers]
        self.orders = [self._order() for _ in range(4)]

    def _order(self) -> str:
        return f"L{26000000 + self.dice.between('device/day', 101, 928)}{self.dice.digits(11)}"

    def wait(self) -> None:
        """Until the next event: seconds, now and then minutes."""
        self.now += int(self.dice.random.expovariate(1 / self.dice.deal("device/pause", (400, 1500, 4000, 9000)))) + 15

    def serial(self, back: int = 0) -> str:
        """A number as services give it out: the time in its high bits, `back` milliseconds ago, then who made it."""
        return str(self.now - back - 1_288_834_974_657 << 22 | self.dice.random.getrandbits(22))

    def text(self, name: str, low: int, high: int) -> str:
        """A sentence of low..high phrases in the user's language."""
        return self.words.sentence(self.dice, self.dice.between(name, low, high), self.chinese)

    def notice(self, name: str) -> str:
        """What a service tells: a text of its editors with this case's names and figures filled in."""
        dice, words = self.dice, self.words
        templates = words.templates if self.chinese else words.english_templates
        return words.pick(dice, templates).format(
            shop=words.pick(dice, words.shops),
            person=words.person(dice)[0] + ("师傅" if self.chinese else ""),
            street=words.pick(dice, words.streets),
            number=dice.digits(4),
            minutes=dice.between(name + "/minutes", 3, 59),
            amount=f"{dice.cents(name + '/amount', 2600) / 100:.2f}",
            clock=f"{dice.random.randrange(24):02d}:{dice.random.randrange(60):02d}",
        )

    def order(self) -> str:
        """Most often one that was mentioned before."""
        if self.dice.share("device/order", 25):
            self.orders[self.dice.random.randrange(4)] = self._order()
        return self.dice.random.choice(self.orders)

    def request_headers(self, operation: str, content_type: str, body: bytes) -> Headers:
        """The 21 of a call, the operation first; no credential is among them, a session has shown its own before."""
        dice = self.dice
        self.sequence += 1
        if dice.share("device/roams", 5):
            self.network = dice.deal("device/network", _NETWORKS)
        model, system = self.model, "iOS" if self.apple else "Android"
        language = "zh-CN" if self.chinese else "en-SG"
        return [
            (OPERATION, operation),
            ("content-type", content_type),
            ("accept-language", language),
            (
                "user-agent",
                f"Lantern/{self.version} ({system} {model.system}; {model.name}; {language}) Core/3.18 Build/cn",
            ),
            ("accept-encoding", "gzip, deflate"),
            ("cache-control", "no-cache"),
            ("x-app", "lantern"),
            ("x-build", self.build),
            ("x-carrier", self.carrier),
            ("x-channel", self.channel),
            ("x-os", f"{system.lower()} {model.system}"),
            ("x-model", model.name),
            ("x-screen", model.screen),
            ("x-device-id", self.id),
            ("x-install", self.install),
            ("x-device-print", self.print),
            ("x-timezone", "Asia/Shanghai" if self.chinese else "Asia/Singapore"),
            ("x-network", self.network),
            ("x-time", str(self.now)),
            ("x-trace-id", dice.hex(32)),
            ("x-sign", hashlib.md5(body + str(self.now).encode() + self.id.encode()).hexdigest()),
        ]

    def response_headers(self, content_type: str, trace: str) -> Headers:
        """Those of the answer to a call with that trace id."""
        dice = self.dice
        return [
            ("content-type", content_type),
            ("x-result", dice.deal("answer/result", ("0",) * 19 + ("4101",))),
            ("x-zone", f"east-{int(self.user[-1]) % 4}"),
            ("x-server-time", str(self.now + dice.between("answer/cost", 12, 300))),
            ("x-trace-id", trace),
        ]
