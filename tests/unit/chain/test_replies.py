"""Answers of nodes: their envelopes, their errors in every dialect, revert data wherever it hides."""

from __future__ import annotations

import json
from typing import Any

import pytest
from eth_abi import encode

from steelyard.chain.replies import RpcError, build_error, parse_replies, parse_reply
from steelyard.chain.reverts import build_reverted, explain_revert
from steelyard.chain.transport import EndpointFailed
from steelyard.errors import Reverted
from steelyard.protocol.hashing import keccak
from steelyard.protocol.pricing import NANO_PER_YARD as YARD

ACCOUNT = b"\x11" * 20
DEEP = b'{"result":' + b"[" * 5_000


def revert_data(signature: str, *values: Any) -> bytes:
    types = signature[signature.index("(") + 1 : -1].split(",")
    return keccak(signature.encode())[:4] + encode([t for t in types if t], values)


TOO_POOR = revert_data("ERC20InsufficientBalance(address,uint256,uint256)", ACCOUNT, 5, 10)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("already known", "already_known"),  # geth
        ("transaction already imported", "already_known"),  # anvil
        ("AlreadyKnown", "already_known"),  # nethermind
        ("known transaction: 0x12", "already_known"),
        ("nonce too low: next nonce 5, tx nonce 4", "nonce_too_low"),
        ("Nonce is too low", "nonce_too_low"),
        ("replacement transaction underpriced", "replacement_underpriced"),
        ("transaction underpriced: gas tip cap 1, minimum needed 2", "fee_too_low"),
        ("max fee per gas less than block base fee: maxFeePerGas: 1, baseFee: 875000000", "fee_too_low"),
        ("insufficient funds for gas * price + value: balance 0, tx cost 21000", "insufficient_gas_funds"),
        ("query returned more than 10000 results", "rpc_range_too_large"),
        ("exceed maximum block range: 5000", "rpc_range_too_large"),
        ("One of the blocks specified in filter (fromBlock, toBlock or blockHash) cannot be found", "block_unknown"),
        ("header not found", "block_unknown"),
        ("exceeds block gas limit", "gas_limit_too_high"),
        ("something quite new", "rpc_error"),
    ],
)
def test_build_error_known_words_have_a_stable_code(message: str, code: str) -> None:
    """The words that nodes use are told apart, so that a sender knows what to do."""
    error = build_error(RpcError(-32000, message), "eth_sendRawTransaction", ["0x"])
    assert error.code == code
    assert message in error.message


@pytest.mark.parametrize(
    "data",
    [
        "0x" + TOO_POOR.hex(),  # geth, anvil, ours
        {"data": "0x" + TOO_POOR.hex(), "message": "x"},  # hardhat
        {"0x12": 3, "result": "0x" + TOO_POOR.hex()},
        "Reverted 0x" + TOO_POOR.hex(),  # nethermind, parity
    ],
)
def test_build_error_revert_data_is_decoded_wherever_it_stands(data: Any) -> None:
    """A custom error comes out with its name, values and an advice, whatever the node wraps it in."""
    error = build_error(RpcError(3, "execution reverted", data), "eth_call", [{"to": "0xabc", "data": "0x"}, "latest"])
    assert isinstance(error, Reverted)
    assert error.data == TOO_POOR
    assert error.reason == f"ERC20InsufficientBalance(sender=0x{ACCOUNT.hex()}, balance=5, needed=10)"
    assert "eth_call to 0xabc" in error.message
    assert error.message == (
        f"the chain refused eth_call to 0xabc: 0x{ACCOUNT.hex()} holds 0.000000005 YARD (5 nano) and needs "
        "0.00000001 YARD (10 nano): 0.000000005 YARD (5 nano) is missing, fund it first (ERC20InsufficientBalance)"
    )


def test_build_error_revert_words_without_data_are_kept() -> None:
    """Where a node sends the words alone, they are the reason."""
    error = build_error(RpcError(-32000, "execution reverted: too late"), "eth_call", [{}])
    assert isinstance(error, Reverted)
    assert error.reason == "too late"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (revert_data("Error(string)", "Escrow: voucher expired"), "Escrow: voucher expired"),
        (revert_data("Panic(uint256)", 0x11), "Panic(0x11: arithmetic overflow or underflow)"),
        (revert_data("StillWaiting(uint48)", 99), "StillWaiting(readyAt=99)"),
        (b"", ""),
        (b"\xde\xad\xbe\xef\x01", "0xdeadbeef01"),
        (b"\x08\xc3\x79\xa0\xff", "0x08c379a0ff"),
        (TOO_POOR[:40], "0x" + TOO_POOR[:40].hex()),
    ],
)
def test_explain_revert_any_bytes_give_words(data: bytes, reason: str) -> None:
    """Strings, panics, our errors and damaged bytes all give a reason; nothing raises."""
    assert explain_revert(data)[0] == reason


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            revert_data("ERC20InsufficientBalance(address,uint256,uint256)", ACCOUNT, 2_050 * YARD, 3_000 * YARD),
            f"0x{ACCOUNT.hex()} holds 2,050 YARD and needs 3,000 YARD: 950 YARD is missing, fund it first "
            "(ERC20InsufficientBalance)",
        ),
        (
            revert_data("NotActive(address,uint8)", ACCOUNT, 1),
            f"0x{ACCOUNT.hex()} has too little stake as provider: run steelyard stake provider AMOUNT first "
            "(NotActive)",
        ),
        (
            revert_data("InsufficientStake(uint256,uint256)", 5 * YARD, 10 * YARD),
            "the stake is 5 YARD, 10 YARD was wanted (InsufficientStake)",
        ),
        (revert_data("StillWaiting(uint48)", 1_800_000_000), "wait until 2027-01-15 08:00:00 UTC (StillWaiting)"),
        (revert_data("StillWaiting(uint48)", 2**48 - 1), f"wait until Unix time {2**48 - 1} (StillWaiting)"),
        (revert_data("ZeroAmount()"), "ZeroAmount()"),
    ],
)
def test_refusal_is_said_once_and_in_yard(data: bytes, sentence: str) -> None:
    """People read amounts in YARD, roles by name and times as a clock shows them, none of them twice."""
    assert build_reverted(data, "it").message == f"the chain refused it: {sentence}"


@pytest.mark.parametrize(
    "raw", [b"<html>", b"", b"[]", b'"x"', b'{"error": 5}', b"\xff", pytest.param(DEEP, id="deep")]
)
def test_parse_reply_no_json_rpc_is_the_endpoints_failure(raw: bytes) -> None:
    """What isn't JSON-RPC makes the client ask another endpoint."""
    with pytest.raises(EndpointFailed):
        parse_reply(raw)


def test_parse_reply_rate_limit_is_the_endpoints_failure() -> None:
    """An endpoint that asks to slow down rests; the call is surely not done."""
    with pytest.raises(EndpointFailed) as caught:
        parse_reply(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"limit exceeded"}}')
    assert not caught.value.was_sent


def test_parse_replies_any_order_comes_back_in_order() -> None:
    """A batch's answers are matched by id, since a node may shuffle them."""
    raw = json.dumps([{"id": 2, "result": "c"}, {"id": 0, "result": None}, {"id": 1, "error": {"code": 1}}])
    replies = parse_replies(raw.encode(), 3)
    assert [reply.result for reply in replies] == [None, None, "c"]
    assert replies[1].error is not None


@pytest.mark.parametrize(
    "raw", [b'[{"id":0,"result":1}]', b'{"id":null,"error":{"code":-32600,"message":"no batches"}}']
)
def test_parse_replies_missing_answer_is_the_endpoints_failure(raw: bytes) -> None:
    """A short batch is never padded."""
    with pytest.raises(EndpointFailed):
        parse_replies(raw, 2)
