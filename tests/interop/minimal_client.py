"""A small MMTP device, written from docs/spec/mmtp.md and the standard library alone, to prove that it can be done."""

import hashlib
import hmac
import http.client
import io
import re
import secrets
import socket
import ssl
import sys
import time
from types import SimpleNamespace
from typing import Any

PING, PONG, ACK, REQUEST, RESPONSE, DATA, RESET, PUSH = range(8)
HELLO, WELCOME, SETTINGS, DICT, TABLE, WINDOW, GOAWAY, EXT = range(8, 16)
MAX_FRAME, MAX_OPEN, CALL_WINDOW, CONNECTION_WINDOW = 2, 8, 10, 12
DEFAULTS = {MAX_FRAME: 262144, MAX_OPEN: 64, CALL_WINDOW: 65536, CONNECTION_WINDOW: 262144}
PROTOCOL, FRAME_SIZE, DICTIONARY_MISS, CANCELLED, HISTORY_LOST = 1, 2, 5, 12, 2
# HPACK's static table from entry 15 on: those before begin with ":", as no name in a RESPONSE does. Then the bits of its
# Huffman codes for the bytes 0 to 255 and the end mark, one base-36 digit each: the code is canonical.
NAMES = """accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow
authorization cache-control content-disposition content-encoding content-language content-length content-location
content-range content-type cookie date etag expect expires from host if-match if-modified-since if-none-match if-range
if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization range referer
refresh retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate"""
LENGTHS = """dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad6777777777777777777777787
8djde6f56565666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllml
nmnnkmmmnmmnqqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu"""
STATIC = [(":", "")] * 14 + [(name, "gzip, deflate" if name == "accept-encoding" else "") for name in NAMES.split()]
HUFFMAN: dict[str, int] = {}  # code -> byte
for bits, byte in sorted((int(digit, 36), byte) for byte, digit in enumerate(LENGTHS.replace("\n", ""))):
    HUFFMAN[f"{sum(1 << 30 - len(code) for code in HUFFMAN):030b}"[:bits]] = byte


class MmtpError(Exception):
    """(status of section 11.2, text): what refused or ended the connection."""


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def sized(data: bytes | str, hpack: bool = False) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return (b"\x7f" + varint(len(data) - 127) if hpack and len(data) > 126 else varint(len(data))) + data


def write_fields(*pairs: tuple[int, bytes | str | int]) -> bytes:
    return b"".join(varint(key) + sized(varint(value) if isinstance(value, int) else value) for key, value in pairs)


class Reader:
    """Takes the parts of a payload, or of all that a socket receives, one after another."""

    def __init__(self, source: Any) -> None:
        self.file: Any = io.BufferedReader(io.BytesIO(source)) if isinstance(source, bytes) else source.makefile("rb")

    def take(self, size: int = -1) -> bytes:
        part: bytes = self.file.read(size)
        if len(part) < size:
            raise ValueError("too short")
        return part

    def varint(self) -> int:
        byte = self.take(1)[0]
        return byte if byte < 128 else byte & 127 | self.varint() << 7

    def sized(self, most: int = 1 << 32) -> bytes:
        if (size := self.varint()) > most:
            raise MmtpError(FRAME_SIZE, "too long")
        return self.take(size)

    def fields(self, odd: Any = (), varints: Any = ()) -> dict[int, Any]:
        """All that is left, as fields: the odd keys that are known, and those whose value is a varint."""
        found: dict[int, Any] = {}
        while self.file.peek(1):
            key, value = self.varint(), self.sized()
            if key % 2 and key not in odd:
                raise ValueError(f"unknown field {key}")
            found[key] = Reader(value).varint() if key in varints else value
        return found

    def hpack_integer(self, first: int, bits: int) -> int:
        value, full = first & (1 << bits) - 1, (1 << bits) - 1
        return value if value < full else full + self.varint()

    def hpack_string(self) -> str:
        data = self.take(self.hpack_integer(first := self.take(1)[0], 7))
        codes = re.findall("|".join(HUFFMAN), "".join(f"{byte:08b}" for byte in data))
        return (bytes(HUFFMAN[code] for code in codes) if first > 127 else data).decode()

    def headers(self, table: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """A header block. `table` need not evict: an encoder names the newest entries only, and they are in front."""
        found = []
        while self.file.peek(1):
            first = self.take(1)[0]
            index = self.hpack_integer(first, 7 if first & 0x80 else 6 if first & 0x40 else 5 if first & 0x20 else 4)
            if first & 0x80:
                found.append(table[index - 1])
            elif first & 0xE0 != 0x20:  # else a table size update
                found.append((table[index - 1][0] if index else self.hpack_string(), self.hpack_string()))
                table[len(STATIC) : len(STATIC)] = found[-1:] if first & 0x40 else []
        return found


class MinimalClient:
    """One device. Cursors and session outlive a connection; calls, pushes and notes are those of the last exchange."""

    def __init__(self, host: str, port: int, device: str, token: str = "", ca: str = "") -> None:
        self.address, self.device, self.token, self.timeout = (host, port), device, token, 10.0
        self.tls = ssl.create_default_context(cafile=ca) if ca else None
        self.boot, self.connections, self.last_close, self.session, self.mac_key = 1, 0, 0, b"", b""
        self.clock, self.counter = 0, int(time.time() * 1000)  # the gateway's clock less ours, in ms; of short requests
        self.cursors: dict[tuple[int, bytes, bytes], bytes] = {}  # (scope, id, biz) -> cursor as in HELLO
        self.settings, self.socket = dict(DEFAULTS), None  # what we are ready to receive

    def close(self) -> None:
        self.socket = self.socket and self.socket.close()

    def begin(self, protocol: str) -> socket.socket:  # forgets the last exchange
        self.close()
        self.calls, self.pushes, self.notes, self.aliases, self.table = [], [], [], {}, list(STATIC)
        self.welcome, self.goaway, self.base = {}, {}, secrets.randbits(64)
        self.peer, self.targets, self.outstanding, self.owed, self.pongs = dict(DEFAULTS), {0: self}, 0, 0, 0
        plain = socket.create_connection(self.address, self.timeout)
        if self.tls is not None:
            self.tls.set_alpn_protocols([protocol])
        return self.tls.wrap_socket(plain, server_hostname=self.address[0]) if self.tls else plain

    def connect(self) -> None:  # MmtpError when WELCOME refuses it
        self.socket = self.begin("mmtp/1")
        self.reader, self.connections = Reader(self.socket), self.connections + 1
        self.hello()
        self.wait(lambda: self.welcome and not self.last_close)  # a gateway that refuses closes

    def hello(self) -> None:
        place, settings = varint(self.boot) + varint(self.connections), write_fields(*sorted(self.settings.items()))
        fields = [(1, 1), (3, self.device), (5, self.token), (7, place), (9, self.base.to_bytes(8, "big"))]
        fields += [*((10, cursor) for cursor in self.cursors.values()), (11, settings), (14, self.last_close)]
        self.send(HELLO, write_fields(*fields))

    def send(self, kind: int, payload: bytes, flags: int = 0) -> None:
        self.socket.sendall(bytes([kind << 4 | flags]) + sized(payload))

    def wait(self, until: Any) -> None:  # until it is true; MmtpError when the connection ends before
        while not until():
            if self.socket is None or not self.reader.file.peek(1):
                self.close()
                raise MmtpError(self.last_close, "the connection has ended")
            try:
                self.receive(self.reader, self.settings[MAX_FRAME])
            except (MmtpError, ValueError, LookupError) as error:
                self.last_close = error.args[0] if isinstance(error, MmtpError) else PROTOCOL
                self.send(GOAWAY, write_fields((1, self.last_close), (2, str(error))))
                self.close()
                raise MmtpError(self.last_close, str(error)) from error

    def receive(self, source: Reader, max_frame: int) -> None:
        kind, flags = divmod(source.take(1)[0], 16)
        part = Reader(source.sized(max_frame) if kind > PONG else b"")
        if kind in (RESPONSE, PUSH) and flags & 6:
            raise MmtpError(DICTIONARY_MISS, "coding")
        if kind == PING:
            self.socket.sendall(b"\x10" if flags else b"")
        elif kind == PONG:
            self.pongs += 1
        elif kind == WELCOME:
            self.welcome = part.fields(odd=(1, 3, 5, 7), varints=(1, 4)) or {1: 0}
            self.last_close = self.welcome.get(1, 0)
            self.session, self.mac_key = self.welcome.get(3, b""), self.welcome.get(5, b"")
            self.clock = self.welcome.get(4, 0) - int(time.time() * 1000)
        elif kind in (RESPONSE, DATA, RESET):
            call = self.targets[part.take(1)[0] + 2]
            said = SimpleNamespace(body=b"") if call.ended else call  # late: only header table and credit matter
            part.take(part.varint() if flags & 8 else 0)
            if kind != DATA:
                said.status, said.was_reset = part.varint(), kind == RESET
            if kind == RESPONSE:
                said.headers = Reader(part.sized()).headers(self.table)
            said.body, said.ended = said.body + (body := part.take()), not flags & 1
            for owner, named in ((self, 0), (call, call.target)):
                owner.owed += len(body)
                if owner.owed >= 16384 and (owner is self or not call.ended):
                    self.send(WINDOW, varint(named) + varint(owner.owed))
                    owner.owed = 0
        elif kind == PUSH:
            alias, fields = part.varint(), Reader(part.sized() if flags & 8 else b"")
            said = fields.fields(odd=(1, 3, 5), varints=(2, 3, 4, 5))
            if 1 in said:
                about = Reader(said[1])
                stream, epoch, seq = (about.varint(), about.sized(), about.sized()), about.varint(), about.varint()
                place = said[1].removesuffix(varint(seq))  # what its cursors begin with
                self.aliases[alias] = SimpleNamespace(stream=stream, epoch=epoch, place=place, next=seq)
                self.notes += [(said[3], stream)] if 3 in said else []
                self.cursors.pop(stream if said.get(3) == HISTORY_LOST else None, None)
            else:
                push = SimpleNamespace(**vars(self.aliases[alias]), body=part.take(), gap=said.get(5, 0))
                push.seq, push.ttl, push.priority = push.next + push.gap, said.get(2), said.get(4, 0)
                push.collapse, self.aliases[alias].next = said.get(6, b""), push.seq + 1
                self.pushes.append(push)
        elif kind == WINDOW:
            self.targets[part.varint()].outstanding -= part.varint()
            self.upload()
        elif kind == GOAWAY:
            self.goaway = part.fields(odd=(1, 3), varints=(1, 3, 6)) or {1: 0}
            self.last_close = self.goaway.get(1, 0)
        elif kind not in (SETTINGS, DICT, TABLE, EXT) or (kind == EXT and flags):
            raise ValueError(f"frame {kind}")
        if kind == SETTINGS or (kind == WELCOME and 7 in self.welcome):
            self.peer |= (part if kind == SETTINGS else Reader(self.welcome[7])).fields(varints=range(2, 20))
            self.send(SETTINGS, b"", flags=1)

    def ack(self, count: int) -> None:  # the oldest of `pushes` are processed
        self.cursors |= {push.stream: push.place + varint(push.seq) for push in self.pushes[:count]}
        del self.pushes[:count]
        self.socket.sendall(bytes([ACK << 4]) + varint(count))

    def ping(self) -> None:
        self.pongs -= 1
        self.socket.sendall(b"\x01")
        self.wait(lambda: self.pongs == 0)

    def start(self, operation: str, body: bytes = b"", headers: Any = (), call_id: int = -1, more: bool = False) -> Any:
        """Open a call; with a call id it repeats one. With `more`, `rest` may grow before each `upload`."""
        if self.goaway or sum(not call.ended for call in self.calls) >= self.peer[MAX_OPEN]:
            raise RuntimeError("no further call may be opened now")
        call = SimpleNamespace(rest=body, more=more, sent_all=False, ended=False, outstanding=0, owed=0, body=b"")
        call.status, call.headers, call.was_reset = None, [], False
        call.id = call_id if call_id >= 0 else (self.base + len(self.calls)) % (1 << 64)
        attributes = write_fields((1, call.id.to_bytes(8, "big")), *([(3, b"")] if call_id >= 0 else []))
        pairs = [(":op", operation), *headers]  # as literals that are never indexed
        block = b"".join(b"\x10" + sized(name, hpack=True) + sized(value, hpack=True) for name, value in pairs)
        call.head = sized(attributes) + sized(block)
        call.target = len(self.calls) % 128 + 2
        self.calls.append(call)
        self.targets[call.target] = call
        self.upload()
        return call

    def call(self, *arguments: Any) -> Any:
        call = self.start(*arguments)
        self.wait(lambda: call.ended)
        return call

    def reset(self, call: Any) -> None:  # the call ends with what the gateway answers to this
        call.sent_all = True
        self.send(RESET, bytes([call.target - 2, CANCELLED]))

    def upload(self) -> None:  # what credit allows, of all calls
        for call in self.calls:
            while not (call.ended or call.sent_all):
                head, kind, flags = (call.head, REQUEST, 8) if call.head else (bytes([call.target - 2]), DATA, 0)
                credit = min(self.peer[CALL_WINDOW] - call.outstanding, self.peer[CONNECTION_WINDOW] - self.outstanding)
                size = max(0, min(len(call.rest), credit, self.peer[MAX_FRAME] - len(head)))
                body, call.rest, call.head = call.rest[:size], call.rest[size:], b""
                call.sent_all = not (call.rest or call.more)
                if kind == DATA and not (size or call.sent_all):
                    break
                call.outstanding, self.outstanding = call.outstanding + size, self.outstanding + size
                self.send(kind, head + body, flags | (not call.sent_all))

    def short(self, *requests: tuple[Any, ...], hello: bool = False, max_pushes: int = 0) -> int:
        """One HTTP request with calls, each the arguments of `start`; the status of the whole."""
        connection, sent = http.client.HTTPConnection(*self.address), bytearray()
        connection.sock = self.begin("http/1.1")
        self.socket = SimpleNamespace(sendall=sent.extend, close=connection.close)
        self.peer = {MAX_FRAME: 1 << 32, MAX_OPEN: 16, CALL_WINDOW: 1 << 32, CONNECTION_WINDOW: 1 << 32}
        cursors = [(2, cursor) for cursor in self.cursors.values() if not hello]
        if hello:
            self.hello()
        for request in requests:
            self.start(*request)
        content, host = sized(write_fields(*cursors, (4, max_pushes))) + sent, "{}:{}".format(*self.address)
        body, self.counter = b"\1\1" + content, self.counter + 1
        if not hello:
            place = self.counter.to_bytes(8, "big") + (int(time.time() * 1000) + self.clock).to_bytes(8, "big")
            signed = sized(host.lower()) + sized(self.session) + place + hashlib.sha256(content).digest()
            body = b"\1\0" + sized(self.session) + place + hmac.digest(self.mac_key, signed, "sha256")[:16] + content
        connection.request("POST", "/mmtp", body, {"content-type": "application/mmtp", "host": host})
        source = Reader((answer := connection.getresponse()).read())
        if answer.status != 200 or source.take(1) != b"\1":
            raise RuntimeError(f"HTTP {answer.status}")
        status, self.about = source.varint(), Reader(source.sized()).fields()
        while source.file.peek(1):
            self.receive(source, 1 << 32)
        return status


def main() -> None:
    host, port, ca, device, token, operation, body = sys.argv[1:]
    client = MinimalClient(host, int(port), device, token, ca)
    client.connect()
    print(client.call(operation, body.encode()).body.decode())


if __name__ == "__main__":
    main()
