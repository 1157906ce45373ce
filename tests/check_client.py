"""A validator's hands in tests of the gateway: opens a session as the law says, and asks."""

from __future__ import annotations

import os
from typing import Any

from tests.gateway_world import DOMAIN, GATEWAY_KEY, World

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Handshake
from steelyard.protocol.signing import SigningKey, require_signer

VALIDATOR = SigningKey(b"\x55" * 32)


def unhex(text: str) -> bytes:
    """Return the bytes of a 0x string."""
    return bytes.fromhex(text[2:])


async def ask_nonce(world: World, validator: bytes = VALIDATOR.account) -> bytes:
    """Return a nonce of the gateway's."""
    status, answer, _ = await world.get(f"/checks/nonce?validator=0x{validator.hex()}")
    assert (status, answer["gateway"]) == (200, "0x" + GATEWAY_KEY.account.hex())
    return unhex(answer["nonce"])


def session_body(peer_nonce: bytes, key: SigningKey = VALIDATOR, own: bytes = b"\x0a" * 32) -> dict[str, str]:
    """Return what opens a session."""
    message = Handshake(key.account, GATEWAY_KEY.account, own, peer_nonce, ZERO32)
    return {
        "validator": "0x" + key.account.hex(),
        "nonce": "0x" + own.hex(),
        "peer_nonce": "0x" + peer_nonce.hex(),
        "signature": "0x" + key.sign(DOMAIN.digest(message.struct_hash())).hex(),
    }


async def open_session(world: World, key: SigningKey = VALIDATOR) -> str:
    """Return a token, after the gateway's own half was checked."""
    world.chain.validators.add(key.account)
    own, peer = os.urandom(32), await ask_nonce(world, key.account)
    status, answer, _ = await world.post("/checks/session", session_body(peer, key, own))
    assert status == 200, answer
    theirs = Handshake(GATEWAY_KEY.account, key.account, peer, own, ZERO32)
    require_signer(DOMAIN.digest(theirs.struct_hash()), unhex(answer["signature"]), GATEWAY_KEY.account, "handshake")
    return str(answer["token"])


async def batches(world: World, token: str, after: int = 0, limit: int = 50) -> tuple[list[Any], int]:
    """Return a page of the feed and the next cursor."""
    status, answer, _ = await world.get(f"/checks/batches?after={after}&limit={limit}", token)
    assert status == 200, answer
    return answer["data"], answer["next"]
