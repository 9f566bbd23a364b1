"""The demo's business: accounts, payments, a feed and readings of sensors, in memory, in English and Chinese."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

MAX_PAYMENTS = 10_000
MAX_READINGS = 100
"""Of one device."""
OPENING_BALANCE = 1_000_000
"""Of every account, in fen (1/100 yuan)."""


class BadRequest(Exception):
    """What the caller sent cannot be done; `status` is the HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Ledger:
    """Payments by call id. Each call of pay() moves money, on purpose without looking whether its call id is
    known: that a call is executed at most once is the gateway's promise, and `executions` shows whether it holds."""

    def __init__(self) -> None:
        self.executions = 0
        self.by_call: OrderedDict[str, int] = OrderedDict()
        """Call id -> how often it was executed."""
        self._payments: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._balances: OrderedDict[str, int] = OrderedDict()

    def pay(self, account: str, call_id: str, request: dict[str, Any], at: float) -> dict[str, Any]:
        """Move money once more. BadRequest for an amount that is none, or more than there is."""
        amount = request.get("amount")
        if not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0:
            raise BadRequest(422, "bad_amount", f"amount: expected a positive number of fen, got {amount!r}")
        balance = self._balances.get(account, OPENING_BALANCE)
        if amount > balance:
            raise BadRequest(409, "insufficient_funds", f"余额不足: {balance} fen left, {amount} asked for")
        self.executions += 1
        self.by_call[call_id] = self.by_call.get(call_id, 0) + 1
        self._balances[account] = balance - amount
        payment: dict[str, Any] = {
            "payment": f"P{self.executions:08d}",
            "call": call_id,
            "account": account,
            "payee": str(request.get("payee", "蓝莓咖啡 Blueberry Coffee")),
            "order": str(request.get("order", "")),
            "amount": amount,
            "currency": "CNY",
            "state": "paid",
            "text": {"en": f"Paid ¥{amount / 100:.2f}", "zh": f"已支付 ¥{amount / 100:.2f}"},
            "paid_at": round(at, 3),
            "balance": self._balances[account],
        }
        self._payments[payment["payment"]] = payment
        for table in (self._payments, self.by_call, self._balances):
            while len(table) > MAX_PAYMENTS:
                table.popitem(last=False)
        return payment

    def query(self, request: dict[str, Any]) -> dict[str, Any]:
        """One payment, by its number or by the call that made it."""
        number, call_id = request.get("payment"), request.get("call")
        if number is not None:
            found = self._payments.get(str(number))
        else:
            found = next((p for p in reversed(self._payments.values()) if p["call"] == call_id), None)
        if found is None:
            raise BadRequest(404, "no_such_payment", f"没有这笔付款: no payment {number or call_id!r}")
        return found

    def balance(self, account: str) -> dict[str, Any]:
        """What an account has left."""
        balance = self._balances.get(account, OPENING_BALANCE)
        return {"account": account, "currency": "CNY", "balance": balance, "text": f"余额 ¥{balance / 100:.2f}"}


class Readings:
    """What sensors measured: the payloads of messages that the gateway hands over. It may hand one over twice; its
    name is (client, epoch, seq)."""

    def __init__(self) -> None:
        self.by_device: OrderedDict[str, list[str]] = OrderedDict()
        """Device -> its readings in order of arrival, the newest MAX_READINGS."""
        self._seen: OrderedDict[tuple[str, int, int], None] = OrderedDict()

    def take(self, messages: list[Any]) -> int:
        """Messages of one POST, as docs/spec/mqtt-services.md has them; how many are new.
        BadRequest for other things."""
        new = 0
        for message in messages:
            try:
                name = (str(message["client"]), int(message["epoch"]), int(message["seq"]))
                device, text = str(message["device"]), str(message["payload"])
            except (TypeError, KeyError, ValueError) as error:
                raise BadRequest(
                    422, "bad_message", f"expected a message of MQTT, {error!r}: {message!r:.200}"
                ) from None
            if name in self._seen:
                continue
            new += 1
            self._seen[name] = None
            readings = self.by_device.setdefault(device, [])
            readings.append(text)
            del readings[:-MAX_READINGS]
        for table in (self._seen, self.by_device):
            while len(table) > MAX_PAYMENTS:
                table.popitem(last=False)
        return new


_FEED: tuple[dict[str, Any], ...] = (
    {"id": "f-1008", "kind": "offer", "title": {"en": "Half-price breakfast until 9:30", "zh": "早餐半价,9:30 截止"},
     "merchant": "豆浆铺 Soy Corner", "city": "杭州", "likes": 1284},
    {"id": "f-1007", "kind": "bill", "title": {"en": "Your electricity bill is ready", "zh": "您的电费账单已出"},
     "merchant": "城市电力 City Power", "city": "上海", "amount": 18640},
    {"id": "f-1006", "kind": "news", "title": {"en": "Line 7 opens two new stations", "zh": "地铁 7 号线新增两站"},
     "merchant": "交通出行 Transit", "city": "深圳", "likes": 903},
    {"id": "f-1005", "kind": "red_packet", "title": {"en": "Li Lei sent you a red packet", "zh": "李雷给您发了一个红包"},
     "from": {"name": "李雷", "user": "u-2041"}, "amount": 888},
    {"id": "f-1004", "kind": "parcel", "title": {"en": "Your parcel is at the locker", "zh": "您的包裹已到快递柜"},
     "merchant": "快递柜 Locker 12", "city": "杭州", "code": "73-118-2"},
    {"id": "f-1003", "kind": "fund", "title": {"en": "Yesterday's earnings: ¥1.27", "zh": "昨日收益:¥1.27"},
     "merchant": "零钱理财 Small Change Fund", "amount": 127},
    {"id": "f-1002", "kind": "offer", "title": {"en": "Second cup free this weekend", "zh": "本周末第二杯免费"},
     "merchant": "蓝莓咖啡 Blueberry Coffee", "city": "成都", "likes": 552},
    {"id": "f-1001", "kind": "news", "title": {"en": "Typhoon warning lifted", "zh": "台风预警解除"},
     "merchant": "天气 Weather", "city": "厦门", "likes": 76},
)  # fmt: skip


def feed(request: dict[str, Any]) -> dict[str, Any]:
    """A page of the feed. BadRequest for a page or size that is none."""
    page, size = request.get("page", 1), request.get("size", 5)
    for name, value in (("page", page), ("size", size)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100:
            raise BadRequest(422, f"bad_{name}", f"{name}: expected 1..100, got {value!r}")
    start = (page - 1) * size
    items = _FEED[start : start + size]
    return {
        "page": page,
        "items": list(items),
        "more": start + size < len(_FEED),
        "title": {"en": "For you", "zh": "为您推荐"},
    }
