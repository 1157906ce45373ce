"""protocol/ids.py: how ids look outside."""

from __future__ import annotations

import pytest

from steelyard.errors import BadRequest
from steelyard.protocol.hashing import keccak
from steelyard.protocol.ids import format_call, format_hex, parse_account, parse_call, parse_hash, service_id


def test_ids_written_and_read_come_back_equal() -> None:
    """Every public form reads back to the same bytes."""
    assert parse_call(format_call(b"\x01" * 16)) == b"\x01" * 16
    assert parse_account(format_hex(b"\xab" * 20).upper().replace("0X", "0x")) == b"\xab" * 20
    assert parse_hash(format_hex(b"\xcd" * 32)) == b"\xcd" * 32
    assert service_id("smollm2-135m:alice/legal@3") == keccak(b"smollm2-135m:alice/legal@3")


@pytest.mark.parametrize("text", ["", "Upper", "a b", "-x", "x" * 65, "né", "a\n"])
def test_service_name_malformed_is_refused_with_its_value(text: str) -> None:
    """A name outside the alphabet or the length names itself in the error."""
    with pytest.raises(BadRequest, match="service name"):
        service_id(text)


@pytest.mark.parametrize("parse", [parse_call, parse_account, parse_hash])
@pytest.mark.parametrize("text", ["", "0x", "call_zz", "0x12", "0x" + "g" * 40, "call_" + "0" * 31, "x" * 10_000])
def test_id_malformed_is_refused_shortly(parse: object, text: str) -> None:
    """What is no id is a BadRequest whose message stays short."""
    with pytest.raises(BadRequest) as caught:
        parse(text)  # type: ignore[operator]
    assert len(str(caught.value)) < 200
