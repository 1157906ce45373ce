"""The embedded chain's port as clients and browsers meet it: errors, batches, limits, origins, WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from steelyard.chain.embedded.server import RunningChain, open_chain
from steelyard.chain.embedded.settings import ChainSettings
from steelyard.chain.transaction import Transaction
from steelyard.protocol.signing import SigningKey

T = TypeVar("T")
KEY = SigningKey(b"\x01" * 32)
ADDRESS = "0x" + KEY.account.hex()
HASH = "0x" + "22" * 32
PROBE = json.loads((Path(__file__).parents[1] / "vectors" / "embedded_probe.json").read_text())["probe"]


class Client:
    """A chain in this process, and an HTTP session towards it."""

    def __init__(self, running: RunningChain, session: aiohttp.ClientSession) -> None:
        self.running, self.session, self.url = running, session, running.rpc_url
        self._nonce = 0

    async def ask(self, method: str, *params: Any) -> dict[str, Any]:
        """Return the whole answer to one request."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        async with self.session.post(self.url, json=body) as response:
            assert response.status == 200
            answer: dict[str, Any] = await response.json()
        return answer

    async def result(self, method: str, *params: Any) -> Any:
        """Return a result."""
        answer = await self.ask(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    def sign(self, to: bytes | None = b"\x07" * 20, data: bytes = b"", *, gas: int = 500_000) -> str:
        """Return the account's next transaction."""
        unsigned = Transaction(
            chain_id=31415, nonce=self._nonce, max_priority_fee_wei=1, max_fee_wei=10**10, gas=gas, to=to, data=data
        )
        self._nonce += 1
        return "0x" + unsigned.sign(KEY).raw.hex()

    async def deploy(self) -> bytes:
        """Deploy the probe and return its address."""
        tx_hash = await self.result("eth_sendRawTransaction", self.sign(None, bytes.fromhex(PROBE["init"][2:])))
        return bytes.fromhex((await self.result("eth_getTransactionReceipt", tx_hash))["contractAddress"][2:])


def run(tmp_path: Path, story: Callable[[Client], Awaitable[T]], **settings: Any) -> T:
    """Run a story against a fresh chain without heartbeat."""

    @asynccontextmanager
    async def opened() -> Any:
        chain = ChainSettings(db=tmp_path / "chain.sqlite", heartbeat_s=0, fund=(KEY.account,), **settings)
        async with open_chain(chain) as running, aiohttp.ClientSession() as session:
            yield Client(running, session)

    async def main() -> T:
        async with opened() as client:
            return await story(client)

    return asyncio.run(main())


def test_wallet_that_connects_gets_all_it_asks(tmp_path: Path) -> None:
    """The calls of a browser wallet between adding the network and showing a sent transaction, page origin included."""

    async def story(client: Client) -> None:
        page = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
        async with client.session.options(client.url, headers=page) as preflight:
            assert preflight.status == 204
            assert preflight.headers["Access-Control-Allow-Origin"] == "*"
            assert preflight.headers["Access-Control-Allow-Headers"] == "Content-Type"
        assert await client.result("eth_chainId") == hex(31415)
        assert await client.result("net_version") == "31415"
        assert await client.result("eth_syncing") is False
        assert await client.result("eth_accounts") == []
        assert "steelyard/" in await client.result("web3_clientVersion")
        assert int(await client.result("eth_getBalance", ADDRESS, "latest"), 16) == 10_000 * 10**18
        assert await client.result("eth_getCode", "0x" + "07" * 20, "latest") == "0x"
        assert (await client.result("eth_getBlockByNumber", "latest", False))["baseFeePerGas"]
        assert len((await client.result("eth_feeHistory", "0x5", "latest", [10, 20, 30]))["baseFeePerGas"]) == 2
        transfer = {"from": ADDRESS, "to": "0x" + "07" * 20, "value": "0x1", "maxFeePerGas": hex(10**10)}
        assert await client.result("eth_estimateGas", transfer) == hex(21_000)
        tx_hash = await client.result("eth_sendRawTransaction", client.sign())
        assert (await client.result("eth_getTransactionByHash", tx_hash))["blockNumber"] == "0x1"
        receipt = await client.result("eth_getTransactionReceipt", tx_hash)
        assert (receipt["status"], receipt["logs"], receipt["contractAddress"]) == ("0x1", [], None)
        assert await client.result("eth_getTransactionCount", ADDRESS, "pending") == "0x1"
        assert await client.result("eth_getUncleCountByBlockNumber", "latest") == "0x0"
        header = await client.result("eth_getHeaderByNumber", "0x1")
        assert header["hash"] == receipt["blockHash"]
        assert "transactions" not in header
        assert (await client.result("eth_getRawTransactionByHash", tx_hash)).startswith("0x02")
        pending = await client.result("eth_getBlockByNumber", "pending", True)
        assert (pending["number"], pending["hash"], pending["transactions"]) == ("0x2", None, [])
        assert (
            await client.result("web3_sha3", "0x")
            == "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
        )

    run(tmp_path, story)


def test_what_is_not_there_is_null_or_said(tmp_path: Path) -> None:
    """Unknown blocks and transactions are null where the specification says so, an error with the head elsewhere."""

    async def story(client: Client) -> None:
        for method, params in (
            ("eth_getBlockByNumber", ["0x99", False]),
            ("eth_getBlockByHash", [HASH, True]),
            ("eth_getTransactionByHash", [HASH]),
            ("eth_getTransactionReceipt", [HASH]),
            ("eth_getBlockReceipts", ["0x99"]),
            ("eth_getBlockTransactionCountByNumber", ["0x99"]),
            ("eth_getTransactionByBlockNumberAndIndex", ["0x0", "0x0"]),
            ("eth_getTransactionByBlockHashAndIndex", [HASH, "0x0"]),
            ("eth_getRawTransactionByHash", [HASH]),
            ("eth_getHeaderByHash", [HASH]),
        ):
            assert await client.result(method, *params) is None, method
        for method, params in (
            ("eth_getBalance", [ADDRESS, "0x99"]),
            ("eth_call", [{"to": ADDRESS}, HASH]),
            ("eth_getLogs", [{"blockHash": HASH}]),
        ):
            error = (await client.ask(method, *params))["error"]
            assert error["code"] == -32000
            assert "header not found" in error["message"] or "unknown block" in error["message"]

    run(tmp_path, story)


def test_wrong_parameters_are_32602_by_name(tmp_path: Path) -> None:
    """Missing, superfluous and malformed parameters of any method are invalid params, never an internal error."""
    wrong: list[tuple[str, list[Any]]] = [
        ("eth_chainId", [1]),
        ("eth_getBalance", []),
        ("eth_getBalance", ["0x12"]),
        ("eth_getBalance", [ADDRESS, "newest"]),
        ("eth_getBalance", [ADDRESS, "latest", "more"]),
        ("eth_getStorageAt", [ADDRESS, "zero"]),
        ("eth_getBlockByNumber", ["latest", "yes"]),
        ("eth_getTransactionByHash", ["0x1234"]),
        ("eth_sendRawTransaction", ["nothex"]),
        ("eth_sendRawTransaction", [None]),
        ("eth_call", ["0x"]),
        ("eth_call", [{"to": ADDRESS}, "latest", {ADDRESS: {"balance": "0x1"}}]),
        ("eth_estimateGas", [{"gas": "much"}]),
        ("eth_getLogs", [{"topics": "0x"}]),
        ("eth_getLogs", [{"fromBlock": "0x5", "toBlock": "0x1"}]),
        ("eth_newFilter", []),
        ("eth_getFilterChanges", [5]),
        ("eth_feeHistory", ["0x1"]),
        ("eth_feeHistory", ["0x1", "latest", [50, 10]]),
        ("eth_feeHistory", ["0x1", "latest", [101]]),
        ("eth_feeHistory", ["0x1", "latest", ["x"]]),
    ]

    async def story(client: Client) -> None:
        for method, params in wrong:
            answer = await client.ask(method, *params)
            assert answer.get("error", {}).get("code") == -32602, (method, params, answer)
        for method in ("evm_increaseTime", "evm_mine", "eth_sign", "eth_subscribe", "debug_traceCall"):
            assert (await client.ask(method))["error"]["code"] == -32601, method
        assert (await client.ask("eth_getFilterChanges", "0x12"))["error"]["message"] == "filter not found"
        assert (await client.ask("eth_sendRawTransaction", "0x02"))["error"]["code"] == -32000

    run(tmp_path, story)


def test_http_limits_and_origins(tmp_path: Path) -> None:
    """Bodies are bounded, foreign hosts and origins are refused, and each refusal says why."""

    async def story(client: Client) -> None:
        session, url = client.session, client.url
        async with session.post(url, data=b"[" + b" " * 5_000 + b"]") as large:
            assert large.status == 413
            assert "at most 4096 bytes" in (await large.json())["error"]["message"]
        async with session.post(url, data=b"{") as broken:
            assert (broken.status, (await broken.json())["error"]["code"]) == (200, -32700)
        async with session.post(url, json={"jsonrpc": "2.0", "method": "eth_chainId"}) as notification:
            assert (notification.status, await notification.read()) == (204, b"")
        async with session.get(url) as page:
            assert page.status == 405
            assert "POST JSON-RPC here" in await page.text()
        async with session.get(url + "/elsewhere") as missing:
            assert missing.status == 404
        request = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}
        async with session.post(url, json=request, headers={"Host": "evil.example:80"}) as rebound:
            assert rebound.status == 403
            assert "localhost" in (await rebound.json())["error"]["message"]
        for host in ("localhost:1", "127.0.0.1", "[::1]:5", "dapp.localhost"):
            async with session.post(url, json=request, headers={"Host": host}) as local:
                assert local.status == 200, host
        async with session.post(url, json=request, headers={"Origin": "https://good.example"}) as good:
            assert good.headers["Access-Control-Allow-Origin"] == "https://good.example"
        async with session.post(url, json=request, headers={"Origin": "https://evil.example"}) as evil:
            assert "Access-Control-Allow-Origin" not in evil.headers
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url, origin="https://evil.example")

    run(tmp_path, story, max_body_bytes=4_096, cors_origins=("https://good.example",))


def test_websocket_answers_like_http_and_subscribes(tmp_path: Path) -> None:
    """The same methods and errors over WebSocket; subscriptions tell their events and end."""

    async def story(client: Client) -> None:
        probe = await client.deploy()
        async with client.session.ws_connect(client.running.websocket_url) as socket:

            async def ask(body: Any) -> Any:
                await socket.send_str(body if isinstance(body, str) else json.dumps(body))
                return await socket.receive_json(timeout=5)

            def request(method: str, *params: Any) -> dict[str, Any]:
                return {"jsonrpc": "2.0", "id": 9, "method": method, "params": list(params)}

            assert (await ask("{"))["error"]["code"] == -32700
            assert (await ask([request("eth_chainId"), request("nothing")]))[1]["error"]["code"] == -32601
            assert (await ask(request("eth_subscribe", "syncing")))["error"]["code"] == -32602
            transactions = (await ask(request("eth_subscribe", "newPendingTransactions")))["result"]
            logs = (await ask(request("eth_subscribe", "logs", {"address": ["0x" + probe.hex()]})))["result"]
            emit = (3).to_bytes(32, "big") + bytes(32) + (77).to_bytes(32, "big")
            tx_hash = await client.result("eth_sendRawTransaction", client.sign(probe, emit))
            events = [await socket.receive_json(timeout=5) for _ in range(2)]
            by_id = {event["params"]["subscription"]: event["params"]["result"] for event in events}
            assert by_id[transactions] == tx_hash
            assert int(by_id[logs]["data"], 16) == 77
            assert (await ask(request("eth_unsubscribe", logs)))["result"] is True
            assert (await ask(request("eth_unsubscribe", logs)))["result"] is False
            assert (await ask(request("eth_unsubscribe", transactions)))["result"] is True
            await client.result("eth_sendRawTransaction", client.sign(probe, emit))
            assert (await ask(request("eth_blockNumber")))["result"] == "0x3"
            await socket.send_str(" " * 5_000)
            assert (await socket.receive(timeout=5)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG

    run(tmp_path, story, max_body_bytes=4_096)


def test_websocket_client_that_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber that stops reading is disconnected once its queue is full; the chain goes on."""
    monkeypatch.setattr("steelyard.chain.embedded.subscriptions.MAX_OUTGOING", 8)

    async def story(client: Client) -> None:
        async with client.session.ws_connect(client.running.websocket_url) as socket:
            for _ in range(50):
                await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]})
                await socket.receive(timeout=5)
            await client.result("eth_sendRawTransaction", client.sign())  # 50 events at once, room for 8
            closed = False
            while not closed:
                message = await socket.receive(timeout=5)
                closed = message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert socket.close_code == 1013
        assert not client.running.chain.listeners
        assert await client.result("eth_blockNumber") == "0x1"

    run(tmp_path, story)


def test_log_queries_are_bounded_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many blocks or too many results are refused with what would fit."""
    monkeypatch.setattr("steelyard.chain.embedded.methods.logs.MAX_RESULTS", 2)
    monkeypatch.setattr("steelyard.chain.embedded.methods.logs.MAX_RANGE_BLOCKS", 5)

    async def story(client: Client) -> None:
        probe = await client.deploy()
        for _ in range(5):
            await client.result("eth_sendRawTransaction", client.sign(probe, (3).to_bytes(32, "big") + bytes(64)))
        results = (await client.ask("eth_getLogs", {"fromBlock": "0x2", "toBlock": "latest"}))["error"]
        assert results["code"] == -32005
        assert results["message"] == "query returned more than 2 results: ask for fewer blocks, blocks 2 to 2 fit"
        blocks = (await client.ask("eth_getLogs", {"fromBlock": "earliest"}))["error"]
        assert blocks["code"] == -32005
        assert "block range too large: 0 to 6 is 7 blocks, at most 5 a query" in blocks["message"]
        assert len(await client.result("eth_getLogs", {"fromBlock": "0x3", "toBlock": "0x4"})) == 2
        assert await client.result("eth_getLogs", {"fromBlock": "0x99"}) == []

    run(tmp_path, story)


def test_batch_runs_in_order_and_its_transactions_share_a_block(tmp_path: Path) -> None:
    """Transactions in a row are mined together, what follows sees them, and each error stands in its place."""

    async def story(client: Client) -> None:
        raws = [client.sign() for _ in range(20)]
        calls = [("eth_sendRawTransaction", [raw]) for raw in raws]
        calls += [("eth_sendRawTransaction", [raws[0]]), ("eth_getTransactionCount", [ADDRESS, "latest"])]
        body = [
            {"jsonrpc": "2.0", "id": i, "method": method, "params": params} for i, (method, params) in enumerate(calls)
        ]
        async with client.session.post(client.url, json=body) as response:
            answers = await response.json()
        assert [answer["id"] for answer in answers] == list(range(22))
        assert answers[20]["error"]["message"] == "already known"
        assert answers[21]["result"] == hex(20)
        receipts = [await client.result("eth_getTransactionReceipt", answer["result"]) for answer in answers[:20]]
        assert {receipt["blockNumber"] for receipt in receipts} == {"0x1"}
        assert [int(receipt["transactionIndex"], 16) for receipt in receipts] == list(range(20))
        assert int(receipts[-1]["cumulativeGasUsed"], 16) == 20 * 21_000

    run(tmp_path, story)
