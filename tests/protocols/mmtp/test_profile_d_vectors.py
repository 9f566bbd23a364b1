"""Executes the vectors of docs/spec/mmtp.md, section 7.2."""

from __future__ import annotations

import json

import pytest

from protocols.mmtp.tables import GENERIC, decode_table
from protocols.mmtp.templates import TemplateDecoder, TemplateEncoder, decode_state
from tests.protocols.mmtp.dialogue import SPECIFICATION, blocks

VECTORS = [[json.loads(line) for line in block.splitlines()] for block in blocks("profile-d")]


def test_the_generic_table_is_that_of_the_specification() -> None:
    (written,) = blocks("generic-table")
    assert decode_table(bytes.fromhex(written)) == GENERIC
    assert GENERIC.encoded == bytes.fromhex(written)
    assert f"digest `{GENERIC.digest.hex()}`" in SPECIFICATION.read_text()


def test_there_are_four() -> None:
    assert len(VECTORS) == 4


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector[0]["name"])
def test_vector(vector: list[dict[str, str]]) -> None:
    head, *steps, end = vector
    encoder, decoder = TemplateEncoder(GENERIC), TemplateDecoder(GENERIC)
    encoded = head.get("of") != "decoders"
    for step in steps:
        fields = [(name, value) for name, value in step["fields"]]
        if encoded:
            assert encoder.encode(fields).hex() == step["block"]
        assert decoder.decode(bytes.fromhex(step["block"]), 65536, 64) == fields
    states = [decoder.checkpoint(), decode_state(bytes.fromhex(end["state"]), GENERIC)]
    for state in [*states, encoder.checkpoint()] if encoded else states:
        assert state.encoded.hex() == end["state"]
        assert state.digest.hex() == end["digest"]
