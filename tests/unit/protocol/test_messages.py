"""protocol/messages.py and signing.py against the vectors and eth-account's generic encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steelyard.errors import BadMessage, BadSignature
from steelyard.protocol import messages, signing
from steelyard.protocol.messages import Message, Order, Receipt
from steelyard.protocol.signing import Domain, SigningKey

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "messages.json").read_text())
CASES = VECTORS["cases"]
DOMAIN = Domain(VECTORS["domain"]["chain_id"], bytes.fromhex(VECTORS["domain"]["salt"][2:]))


def build_message(case: dict[str, Any]) -> Message:
    """Return the message of a vector."""
    kind: type[Message] = getattr(messages, case["message"])
    values = [bytes.fromhex(v[2:]) if isinstance(v, str) else v for v in case["values"].values()]
    return kind(*values)


def ids(case: dict[str, Any]) -> str:
    """Name a case after its message."""
    return str(case["message"])


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_message_struct_hash_equals_generic_encoder(case: dict[str, Any]) -> None:
    """Every message hashes as eth-account's encoder hashes it, by the written-out and by the generic way."""
    message = build_message(case)
    assert case["type"] == message.TYPE
    assert "0x" + message.struct_hash().hex() == case["struct_hash"]
    assert Message.struct_hash(message) == message.struct_hash()


@pytest.mark.parametrize("case", [c for c in CASES if "digest" in c], ids=ids)
def test_message_signature_equals_generic_signer(case: dict[str, Any]) -> None:
    """Digest and signature of every signed message equal eth-account's, and recover to the signer."""
    digest = DOMAIN.digest(build_message(case).struct_hash())
    assert "0x" + digest.hex() == case["digest"]
    key = SigningKey(bytes.fromhex(VECTORS["secrets"][case["signer"]][2:]))
    assert "0x" + key.account.hex() == VECTORS["accounts"][case["signer"]]
    assert "0x" + key.sign(digest).hex() == case["signature"]
    assert signing.recover_account(digest, bytes.fromhex(case["signature"][2:])) == key.account


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_message_with_any_field_changed_hashes_otherwise(case: dict[str, Any]) -> None:
    """No field can be changed without changing the hash."""
    message = build_message(case)
    seen = {message.struct_hash()}
    for kind, name in type(message).fields():
        value = getattr(message, name)
        if isinstance(value, bytes):
            other: Any = bytes((value[0] ^ 1,)) + value[1:]
        else:
            other = value - 1 if value else value + 1
        seen.add(msgspec.structs.replace(message, **{name: other}).struct_hash())
        assert kind
    assert len(seen) == 1 + len(type(message).fields())


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_message_over_the_wire_comes_back_equal(case: dict[str, Any]) -> None:
    """A message survives msgpack where its numbers fit 64 bits; larger totals are refused by the encoder, never cut."""
    message = build_message(case)
    if any(
        isinstance(getattr(message, name), int) and getattr(message, name) >= 1 << 64
        for _, name in type(message).fields()
    ):
        with pytest.raises(OverflowError):
            msgspec.msgpack.encode(message)
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message)) == message


def test_check_fields_outside_their_type_names_the_field() -> None:
    """A field that is too long, too short, negative or too large is refused by name."""
    order = build_message(next(c for c in CASES if c["message"] == "Order"))
    for name, value in (("call_id", b"x" * 15), ("gateway", b"x" * 21), ("max_cost", -1), ("price_in", 1 << 64)):
        with pytest.raises(BadMessage, match=name):
            msgspec.structs.replace(order, **{name: value}).check_fields()
    order.check_fields()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s[:64],
        lambda s: s + b"\x00",
        lambda s: s[:64] + b"\x1d",
        lambda s: s[:64] + b"\x00",
        lambda s: b"\x00" * 64 + b"\x1b",
        lambda s: b"\xff" * 32 + s[32:],
        lambda s: (
            s[:32]
            + (
                0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - int.from_bytes(s[32:64], "big")
            ).to_bytes(32, "big")
            + bytes((55 - s[64],))
        ),
    ],
    ids=["short", "long", "v29", "v0", "zero", "r-too-large", "high-s"],
)
def test_signature_malformed_is_refused(spoil: Any) -> None:
    """A signature that isn't canonical is a BadSignature, whatever is wrong with it."""
    key = SigningKey(b"\x01" * 32)
    digest = DOMAIN.digest(b"\x02" * 32)
    with pytest.raises(BadSignature):
        signing.require_signer(digest, spoil(key.sign(digest)), key.account, "test")


def test_signature_compact_form_expands_to_the_same() -> None:
    """EIP-2098's form keeps v, for both of its values."""
    key = SigningKey(b"\x03" * 32)
    seen = set()
    for number in range(16):
        signature = key.sign(DOMAIN.digest(number.to_bytes(32, "big")))
        seen.add(signature[64])
        assert signing.expand_signature(*signing.compact_signature(signature)) == signature
    assert seen == {27, 28}


def test_domain_with_another_salt_or_chain_refuses_old_signatures() -> None:
    """A signature for one deployment or chain is nobody's in another."""
    key = SigningKey(b"\x04" * 32)
    digest = DOMAIN.digest(b"\x05" * 32)
    signature = key.sign(digest)
    for other in (Domain(DOMAIN.chain_id + 1, DOMAIN.salt), Domain(DOMAIN.chain_id, b"\x06" * 32)):
        with pytest.raises(BadSignature):
            signing.require_signer(other.digest(b"\x05" * 32), signature, key.account, "old message")


def test_signing_key_printed_shows_the_account_alone() -> None:
    """A key that ends in a log or a traceback gives nothing away."""
    key = SigningKey(b"\x07" * 32)
    assert "07" * 8 not in repr(key)
    assert repr(key) == f"SigningKey(0x{key.account.hex()})"


def test_order_tag_is_known_again_only_with_the_key() -> None:
    """A tag holds for one order and one key, and comes back from the key alone."""
    key = SigningKey(b"\x08" * 32)
    secret = key.derive_secret(messages.TAG_PURPOSE)
    tag = messages.order_tag(secret, b"\x01" * 32)
    assert messages.is_own_tag(SigningKey(b"\x08" * 32).derive_secret(messages.TAG_PURPOSE), b"\x01" * 32, tag)
    assert not messages.is_own_tag(secret, b"\x02" * 32, tag)
    assert not messages.is_own_tag(SigningKey(b"\x09" * 32).derive_secret(messages.TAG_PURPOSE), b"\x01" * 32, tag)


def test_order_and_receipt_fields_match_the_specification() -> None:
    """The page that is law spells every type exactly as the code does."""
    page = (Path(__file__).parents[3] / "docs" / "spec" / "messages.md").read_text()
    for message in (*messages.SIGNED_MESSAGES, Order, Receipt):
        assert message.TYPE in page.replace("\n", "")
