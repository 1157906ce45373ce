"""web3.py against the embedded chain, and the same story against anvil: a stock client can't tell them apart.

The contract is a small probe (tests/vectors/embedded_probe.json): word 0 of the call data chooses what it does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from tests.chains import CHAIN_KINDS, RunningChain, open_chain
from web3 import AsyncWeb3, HTTPProvider, Web3, WebSocketProvider
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3RPCError
from web3.middleware import SignAndSendRawMiddlewareBuilder
from web3.types import TxParams, TxReceipt

PROBE = json.loads((Path(__file__).parents[1] / "vectors" / "embedded_probe.json").read_text())["probe"]
PROBE_ABI = [
    {
        "type": "event",
        "name": "Said",
        "anonymous": False,
        "inputs": [
            {"name": "speaker", "type": "address", "indexed": True},
            {"name": "value", "type": "uint256", "indexed": False},
        ],
    }
]
SAID = Web3.keccak(text="Said(address,uint256)")
OTHER_TOPIC = Web3.keccak(text="other")
ERROR_STRING = bytes.fromhex(f"08c379a0{32:064x}{5:064x}") + b"empty".ljust(32, b"\0")


def word(value: int) -> bytes:
    """Return a 32-byte word."""
    return value.to_bytes(32, "big")


def emit(topic: bytes, value: int) -> bytes:
    """Return call data that makes the probe emit LOG2(topic, caller) with one word."""
    return word(3) + topic + word(value)


class Story:
    """One chain, one web3 with a signing middleware, one deployed probe."""

    def __init__(self, chain: RunningChain) -> None:
        self.chain = chain
        self.accounts: list[LocalAccount] = [Account.from_key(key.secret) for key in chain.keys]
        self.account = self.accounts[0]
        self.w3 = Web3(HTTPProvider(chain.url))
        self.w3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(self.account), layer=0)
        self.w3.eth.default_account = self.account.address
        receipt = self.mined({"data": PROBE["init"]})
        self.deployment = receipt
        self.probe = receipt["contractAddress"]

    def mined(self, fields: dict[str, Any]) -> TxReceipt:
        """Send a transaction through the middleware (which fills in EIP-1559 fees and gas) and wait for it."""
        tx: TxParams = {"from": self.account.address, **fields}  # type: ignore[typeddict-item]  # free-form
        return self.w3.eth.wait_for_transaction_receipt(self.w3.eth.send_transaction(tx), timeout=10)

    def call_probe(self, data: bytes, **fields: Any) -> bytes:
        """Return what eth_call of the probe gives."""
        return bytes(self.w3.eth.call({"to": self.probe, "data": data, **fields}))

    def signed(self, account: LocalAccount, **fields: Any) -> bytes:
        """Return a raw transaction; whatever isn't given gets a working value."""
        filled: dict[str, Any] = {"chainId": self.chain.chain_id, "gas": 100_000, "value": 0, "to": self.probe}
        filled |= fields
        if "gasPrice" not in filled:
            filled = {"maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9, **filled}
        return bytes(account.sign_transaction(filled).raw_transaction)

    def nonce(self, account: LocalAccount, block: str = "latest") -> int:
        """Return an account's nonce."""
        return self.w3.eth.get_transaction_count(account.address, block)  # type: ignore[arg-type]  # a block name


@pytest.fixture(scope="module", params=CHAIN_KINDS)
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """A fresh chain of each kind with the probe on it."""
    with open_chain(request.param, key_count=12) as chain:
        yield Story(chain)


def test_deployment_by_middleware_gives_code_and_receipt(story: Story) -> None:
    """A contract is deployed with EIP-1559 fees; code, block and transaction read back as sent."""
    receipt, w3 = story.deployment, story.w3
    assert receipt["status"] == 1
    assert receipt["type"] == 2
    assert receipt["cumulativeGasUsed"] >= receipt["gasUsed"] > 21_000
    assert bytes(w3.eth.get_code(story.probe)).hex() == PROBE["runtime"][2:]
    block = w3.eth.get_block(receipt["blockNumber"], full_transactions=True)
    assert block["hash"] == receipt["blockHash"] == w3.eth.get_block(block["hash"])["hash"]
    tx = block["transactions"][0]
    assert tx == w3.eth.get_transaction(receipt["transactionHash"])
    assert tx["gasPrice"] == receipt["effectiveGasPrice"] == block["baseFeePerGas"] + tx["maxPriorityFeePerGas"]
    assert bytes(tx["input"]).hex() == PROBE["init"][2:]
    assert w3.eth.get_block_transaction_count(block["number"]) == 1
    assert w3.eth.get_transaction_by_block(block["hash"], 0)["hash"] == receipt["transactionHash"]


def test_call_reads_what_was_written_at_each_block(story: Story) -> None:
    """A word written is read by eth_call and getStorageAt, and the block before still shows the old one."""
    before = story.w3.eth.block_number
    receipt = story.mined({"to": story.probe, "data": word(1) + word(7) + word(42)})
    assert story.call_probe(word(2) + word(7)) == word(42)
    assert bytes(story.w3.eth.get_storage_at(story.probe, 7)) == word(42)
    assert bytes(story.w3.eth.call({"to": story.probe, "data": word(2) + word(7)}, before)) == word(0)
    assert bytes(story.w3.eth.call({"to": story.probe, "data": word(2) + word(7)}, receipt["blockNumber"])) == word(42)


def test_call_that_reverts_carries_its_data(story: Story) -> None:
    """A reason becomes ContractLogicError's message, a custom error's data comes back whole, an empty one too."""
    with pytest.raises(ContractLogicError, match="execution reverted: empty"):
        story.call_probe(word(4) + ERROR_STRING)
    with pytest.raises(ContractLogicError) as custom:
        story.call_probe(word(4) + bytes.fromhex("deadbeef01"))
    assert custom.value.data == "0xdeadbeef01"
    with pytest.raises(ContractLogicError, match="execution reverted"):
        story.call_probe(word(4))
    with pytest.raises(ContractLogicError, match="execution reverted: empty"):
        story.w3.eth.estimate_gas({"to": story.probe, "data": word(4) + ERROR_STRING})


def test_reverted_transaction_is_mined_with_status_zero(story: Story) -> None:
    """A transaction that reverts still takes its nonce and its gas, and leaves no log."""
    balance = story.w3.eth.get_balance(story.account.address)
    receipt = story.mined({"to": story.probe, "data": word(4), "gas": 100_000})
    assert receipt["status"] == 0
    assert receipt["logs"] == []
    paid = balance - story.w3.eth.get_balance(story.account.address)
    assert paid == receipt["gasUsed"] * receipt["effectiveGasPrice"]


def test_estimate_is_enough_and_close(story: Story) -> None:
    """An estimate suffices, also where a callee gets 63/64 only, and is at most five percent above the need."""
    for data in (word(1) + word(50) + word(1), word(8) + word(7) + word(20) + word(1000), emit(bytes(SAID), 1)):
        gas = story.w3.eth.estimate_gas({"from": story.account.address, "to": story.probe, "data": data})
        receipt = story.mined({"to": story.probe, "data": data, "gas": gas})
        assert receipt["status"] == 1
        assert gas <= receipt["gasUsed"] * 1.05


def test_transfer_of_each_type_moves_coin(story: Story) -> None:
    """Legacy, access-list and dynamic-fee transactions are all mined, and shown with their type."""
    sender, receiver = story.accounts[1], Account.create()
    access = [{"address": story.probe, "storageKeys": ["0x" + "00" * 32]}]
    legacy: dict[str, Any] = {"gasPrice": story.w3.eth.gas_price}
    for type_id, extra in enumerate((legacy, {**legacy, "accessList": access, "type": 1}, {})):
        raw = story.signed(sender, nonce=story.nonce(sender), to=receiver.address, value=10**15, **extra)
        tx_hash = story.w3.eth.send_raw_transaction(raw)
        receipt = story.w3.eth.wait_for_transaction_receipt(tx_hash, timeout=10)
        tx = story.w3.eth.get_transaction(tx_hash)
        assert (receipt["status"], receipt["type"], tx["type"]) == (1, type_id, type_id)
        assert tx["from"] == sender.address
        if type_id == 1:
            assert tx["accessList"][0]["address"] == story.probe
    assert story.w3.eth.get_balance(receiver.address) == 3 * 10**15


def test_nonce_gap_waits_and_is_mined_when_it_closes(story: Story) -> None:
    """A later nonce is taken in and waits; the missing one brings both into blocks."""
    sender = story.accounts[2]
    nonce = story.nonce(sender)
    late = story.w3.eth.send_raw_transaction(story.signed(sender, nonce=nonce + 1, data=emit(bytes(SAID), 2)))
    waiting = story.w3.eth.get_transaction(late)
    assert waiting.get("blockNumber") is None
    with pytest.raises(TransactionNotFound):
        story.w3.eth.get_transaction_receipt(late)
    assert story.nonce(sender) == nonce
    first = story.w3.eth.send_raw_transaction(story.signed(sender, nonce=nonce, data=emit(bytes(SAID), 1)))
    receipts = [story.w3.eth.wait_for_transaction_receipt(tx_hash, timeout=10) for tx_hash in (first, late)]
    assert [receipt["status"] for receipt in receipts] == [1, 1]
    places = [(receipt["blockNumber"], receipt["transactionIndex"]) for receipt in receipts]
    assert places == sorted(places)
    assert story.nonce(sender) == nonce + 2


def test_transaction_that_cannot_be_mined_is_refused_in_known_words(story: Story) -> None:
    """A used nonce, no money, and too little gas are refused with the words that libraries look for."""
    sender = story.accounts[3]
    story.w3.eth.send_raw_transaction(story.signed(sender, nonce=0, to=story.account.address))
    refusals = {
        "nonce too low": story.signed(sender, nonce=0, to=story.account.address, value=1),
        "(?i)insufficient funds": story.signed(Account.create(), nonce=0, to=story.account.address, value=1),
        "intrinsic gas too low|gas too low": story.signed(sender, nonce=1, to=story.account.address, gas=20_999),
    }
    for words, raw in refusals.items():
        with pytest.raises(Web3RPCError, match=words):
            story.w3.eth.send_raw_transaction(raw)


def test_get_logs_filters_by_address_topics_and_blocks(story: Story) -> None:
    """Address lists, topic lists with OR and null, block ranges and block hashes choose the same logs as everywhere."""
    second = story.mined({"data": PROBE["init"]})["contractAddress"]
    emitted = [
        story.mined({"to": to, "data": emit(bytes(topic), value)})
        for to, topic, value in ((story.probe, SAID, 1), (second, SAID, 2), (story.probe, OTHER_TOPIC, 3))
    ]
    first, last = emitted[0]["blockNumber"], emitted[2]["blockNumber"]
    caller = "0x" + story.account.address[2:].lower().rjust(64, "0")
    span = {"fromBlock": first, "toBlock": last}

    def values(**query: Any) -> list[int]:
        return [int.from_bytes(log["data"], "big") for log in story.w3.eth.get_logs({**span, **query})]  # type: ignore[typeddict-item]  # free-form

    assert values() == [1, 2, 3]
    assert values(address=story.probe) == [1, 3]
    assert values(address=[story.probe, second]) == [1, 2, 3]
    assert values(topics=[SAID]) == [1, 2]
    assert values(topics=[[SAID, OTHER_TOPIC]]) == [1, 2, 3]
    assert values(topics=[None, caller]) == [1, 2, 3]
    assert values(topics=[OTHER_TOPIC, caller], address=second) == []
    assert values(topics=[None, None, caller]) == []
    assert values(toBlock=first) == [1]
    by_hash = story.w3.eth.get_logs({"blockHash": emitted[1]["blockHash"]})
    assert [log["transactionHash"] for log in by_hash] == [emitted[1]["transactionHash"]]
    assert by_hash[0] == emitted[1]["logs"][0]


def test_contract_event_is_decoded_from_receipt_and_logs(story: Story) -> None:
    """web3's own event decoding works on receipts and on getLogs."""
    contract = story.w3.eth.contract(story.probe, abi=PROBE_ABI)
    receipt = story.mined({"to": story.probe, "data": emit(bytes(SAID), 77)})
    (event,) = contract.events.Said().process_receipt(receipt)
    assert event["args"] == {"speaker": story.account.address, "value": 77}
    found = contract.events.Said().get_logs(from_block=receipt["blockNumber"], argument_filters={"value": 77})
    assert [one["transactionHash"] for one in found] == [receipt["transactionHash"]]


def test_polled_filters_tell_each_change_once(story: Story) -> None:
    """Log and block filters report what came since the last poll, and nothing twice."""
    w3 = story.w3
    first = story.mined({"to": story.account.address})["blockNumber"]  # a block without logs
    logs = w3.eth.filter({"address": story.probe, "topics": [SAID], "fromBlock": first})
    blocks = w3.eth.filter("latest")
    assert logs.get_new_entries() == blocks.get_new_entries() == []
    receipt = story.mined({"to": story.probe, "data": emit(bytes(SAID), 5)})
    story.mined({"to": story.probe, "data": emit(bytes(OTHER_TOPIC), 6)})
    assert [log["transactionHash"] for log in logs.get_new_entries()] == [receipt["transactionHash"]]
    assert receipt["blockHash"] in blocks.get_new_entries()
    assert logs.get_new_entries() == blocks.get_new_entries() == []
    assert receipt["transactionHash"] in [log["transactionHash"] for log in logs.get_all_entries()]
    assert w3.eth.uninstall_filter(logs.filter_id)
    assert not w3.eth.uninstall_filter(logs.filter_id)


def test_fee_methods_let_a_wallet_price_a_transaction(story: Story) -> None:
    """Gas price, tip and fee history agree with the blocks that they speak of."""
    w3 = story.w3
    story.mined({"to": story.probe, "data": emit(bytes(SAID), 5)})
    newest = w3.eth.get_block("latest")
    history = w3.eth.fee_history(2, newest["number"], [25, 75])
    assert history["oldestBlock"] == newest["number"] - 1
    assert history["baseFeePerGas"][1] == newest["baseFeePerGas"]
    assert len(history["baseFeePerGas"]) == 3
    assert history["gasUsedRatio"][1] == pytest.approx(newest["gasUsed"] / newest["gasLimit"], abs=1e-6)
    assert [len(rewards) for rewards in history["reward"]] == [2, 2]
    assert w3.eth.gas_price >= history["baseFeePerGas"][2]
    assert w3.eth.max_priority_fee >= 0


def test_block_receipts_are_the_receipts_one_by_one(story: Story) -> None:
    """eth_getBlockReceipts gives what eth_getTransactionReceipt gives."""
    receipt = story.mined({"to": story.probe, "data": emit(bytes(SAID), 8)})
    rows = story.chain.call("eth_getBlockReceipts", hex(receipt["blockNumber"]))
    alone = story.chain.call("eth_getTransactionReceipt", receipt["transactionHash"].to_0x_hex())
    assert rows == [alone]


def test_time_moves_forward_by_request(story: Story) -> None:
    """evm_increaseTime and evm_mine move block time, which contracts see, and it never goes back."""
    before = story.w3.eth.get_block("latest")["timestamp"]
    story.chain.advance_time(3_600)
    after = story.w3.eth.get_block("latest")["timestamp"]
    assert after >= before + 3_600
    seen = int.from_bytes(story.call_probe(word(6))[:32], "big")
    assert seen >= after
    receipt = story.mined({"to": story.account.address})
    assert story.w3.eth.get_block(receipt["blockNumber"])["timestamp"] >= after


def test_websocket_subscriptions_tell_heads_and_logs(story: Story) -> None:
    """AsyncWeb3 over WebSocket subscribes to new heads and to filtered logs, and unsubscribes."""

    async def listen() -> None:
        url = story.chain.url.replace("http", "ws")
        async with AsyncWeb3(WebSocketProvider(url)) as w3:
            heads = await w3.eth.subscribe("newHeads")
            logs = await w3.eth.subscribe("logs", {"address": story.probe, "topics": [SAID]})
            raw = [
                story.signed(story.accounts[4], nonce=nonce, data=emit(bytes(topic), nonce))
                for nonce, topic in enumerate((OTHER_TOPIC, SAID))
            ]
            hashes = [await w3.eth.send_raw_transaction(one) for one in raw]
            seen: dict[str, list[Any]] = {str(heads): [], str(logs): []}
            async with asyncio.timeout(10):
                async for message in w3.socket.process_subscriptions():
                    seen[message["subscription"]].append(message["result"])
                    if len(seen[str(heads)]) >= 2 and seen[str(logs)]:
                        break
            assert [log["transactionHash"] for log in seen[str(logs)]] == [hashes[1]]
            numbers = [head["number"] for head in seen[str(heads)]]
            assert numbers == sorted(numbers)
            assert await w3.eth.unsubscribe(heads)
            assert await w3.eth.unsubscribe(logs)

    asyncio.run(listen())
