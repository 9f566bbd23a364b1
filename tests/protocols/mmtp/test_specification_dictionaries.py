"""Executes the vectors of docs/spec/mmtp.md for dictionaries, minis, DICT frames and transfers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocols.errors import RemoteError
from protocols.mmtp import Limits, Status
from protocols.mmtp import dict_frames as frames
from protocols.mmtp.bundles import MAX_DICTIONARIES, Bundle
from protocols.mmtp.dictionaries import KINDS, MAX_CLASSES, MAX_CONTENT, MIN_CONTENT, Dictionary
from protocols.mmtp.digests import digest_of
from protocols.mmtp.history import MAX_HISTORY, History, compress_after
from protocols.mmtp.mini import MAX_MINI
from protocols.mmtp.transfers import MAX_CHUNK, MAX_PACKED, MIN_CHUNK, Incoming
from tests.protocols.mmtp.dialogue import SPECIFICATION, blocks


def vectors(kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for block in blocks(kind) for line in block.splitlines() if line.strip()]
    assert found, kind
    return found


CONTENTS = {
    v["name"]: Dictionary(v["id"], bytes.fromhex(v["content"]), v["classes"])
    for v in vectors("dictionary")
    if "name" in v
}


def test_there_are_both_types_of_dictionaries() -> None:
    assert {dictionary.content[:4].hex() == "37a430ec" for dictionary in CONTENTS.values()} == {True, False}


@pytest.mark.parametrize("vector", vectors("dictionary"), ids=lambda v: v.get("name", "bundle"))
def test_dictionary(vector: dict[str, Any]) -> None:
    if "name" in vector:
        CONTENTS[vector["name"]].check()
        assert CONTENTS[vector["name"]].digest.hex() == vector["digest"]
        return
    bundle = Bundle(CONTENTS[name] for name in vector["bundle"])
    assert bundle.digest.hex() == vector["digest"]
    for key, name in vector["lookups"].items():
        assert bundle.for_class(key[0], key[1:]) is (CONTENTS[name] if name else None), key


@pytest.mark.parametrize("vector", vectors("mini"), ids=lambda v: v["name"])
def test_mini(vector: dict[str, Any]) -> None:
    dictionary = CONTENTS[vector["dictionary"]] if vector["dictionary"] else None
    history = History(MAX_HISTORY)
    history.append(vector["history"].encode())
    body = bytes.fromhex(vector["body"])
    if "status" in vector:
        with pytest.raises(RemoteError) as caught:
            history.decompress(body, dictionary, Limits())
        assert Status(caught.value.code).name == vector["status"]
        return
    expected = vector["expands"].encode()
    assert history.decompress(body, dictionary, Limits()) == expected
    packed = compress_after(expected, dictionary, history.tail)
    assert packed is not None
    assert history.decompress(packed, dictionary, Limits()) == expected


@pytest.mark.parametrize("vector", vectors("dict"), ids=lambda v: f"{v['kind']} {v['hex']}")
def test_dict_frame(vector: dict[str, Any]) -> None:
    kind, id, payload = vector["kind"], vector["id"], bytes.fromhex(vector["hex"])
    digest = bytes.fromhex(vector.get("digest", ""))
    end = len(payload)
    if kind == "offer":
        sizes = vector["size"], vector["packed_size"]
        offer = frames.DictOffer(id, digest, *sizes, tuple(vector["classes"]), vector["base"], vector["delta_size"])
        assert frames.encode_offer(offer) == payload
        assert frames.decode_offer(payload, 0, end) == offer
    elif kind == "want":
        assert frames.encode_want(id, vector["base"]) == payload
        assert frames.decode_want(payload, 0, end) == (id, vector["base"])
    elif kind == "chunk":
        data = bytes.fromhex(vector["data"])
        assert frames.encode_chunk(id, vector["offset"], data) == payload
        assert frames.decode_chunk(payload, 0, end) == (id, vector["offset"], data)
    elif kind == "have":
        assert frames.encode_have(id, digest) == payload
        assert frames.decode_have(payload, 0, end) == (id, digest)
    elif kind == "retire":
        assert frames.encode_retire(id) == payload
        assert frames.decode_retire(payload, 0, end) == id
    else:
        assert kind == "use"
        assert (frames.encode_use(id) if id else frames.encode_drop(vector["class"])) == payload
        assert frames.decode_use(payload, 0, end) == (id, vector["class"])


def test_every_kind_of_dict_frame_is_there() -> None:
    text = SPECIFICATION.read_text().partition("### 8.4")[2]
    for kind in frames.DictKind:
        assert f"| {kind.value} | {kind.name.lower()} |" in text
        assert kind.name.lower() in {vector["kind"] for vector in vectors("dict")}


@pytest.mark.parametrize("vector", vectors("transfer"), ids=lambda v: v["name"])
def test_transfer(vector: dict[str, Any]) -> None:
    packed = bytes.fromhex(vector["packed"])
    base = bytes.fromhex(vector["base"]) or None
    incoming = Incoming(1, len(packed), vector["size"], bytes.fromhex(vector["digest"]), base)
    for offset in range(0, len(packed), MAX_CHUNK):
        incoming.chunk(offset, packed[offset : offset + MAX_CHUNK])
    if "status" in vector:
        with pytest.raises(RemoteError) as caught:
            incoming.complete()
        assert Status(caught.value.code).name == vector["status"]
    else:
        content = bytes.fromhex(vector["content"])
        assert incoming.complete() == content
        assert digest_of(content).hex() == vector["digest"]


def test_the_limits_are_those_of_the_text() -> None:
    text = " ".join(SPECIFICATION.read_text().partition("### 8.1")[2].partition("## 9.")[0].split())
    for statement in (
        f"n is 2 to {MAX_MINI - 1}",
        f"1 to {MAX_HISTORY} bytes",
        f"a content of {MIN_CONTENT} to {MAX_CONTENT} bytes",
        f"up to {MAX_CLASSES} classes",
        f"at most {MAX_DICTIONARIES} dictionaries",
        f"each but the last has {MIN_CHUNK} to {MAX_CHUNK} bytes",
        f"At most {MAX_PACKED} bytes in chunks, {MAX_CONTENT} of content",
    ):
        assert statement in text, statement
    assert [f"| `{kind}` |" in text for kind in KINDS] == [True] * 3
