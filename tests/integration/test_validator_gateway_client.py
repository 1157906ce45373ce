"""What a validator makes of gateways that answer strangely: refused with a reason, bounded, and never believed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from tests.validator_world import DOMAIN, SALT, LaneMaker

from steelyard.errors import BadMessage, BadSignature, PeerError, SteelyardError, Unauthorized, Unavailable
from steelyard.gateway.calls_view import fields_of
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Handshake
from steelyard.protocol.signing import SigningKey
from steelyard.validator import gateway_client
from steelyard.validator.gateway_client import GatewayClient, ShownBatch

GATEWAY, VALIDATOR = SigningKey(b"\x11" * 32), SigningKey(b"\x55" * 32)
RECEIPT = b"\x0c" * 32


class StrangeGateway:
    """Opens sessions as the law says, unless told otherwise, and answers everything else with `reply`."""

    def __init__(self) -> None:
        self.account, self.signer = GATEWAY.account, GATEWAY
        self.status, self.reply, self.asked, self.sessions = 200, b"{}", 0, 0
        self.expires_after = 10**6

    @asynccontextmanager
    async def running(self) -> AsyncIterator[GatewayClient]:
        """Listen, and give a validator's client of it."""
        app = web.Application()
        app.router.add_get("/v1/checks/nonce", self._nonce)
        app.router.add_post("/v1/checks/session", self._session)
        app.router.add_get("/v1/checks/{rest:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        client = GatewayClient(f"http://127.0.0.1:{port}/", GATEWAY.account, VALIDATOR, DOMAIN)
        try:
            yield client
        finally:
            await client.aclose()
            await runner.cleanup()

    async def _nonce(self, request: web.Request) -> web.Response:
        return web.json_response({"gateway": "0x" + self.account.hex(), "nonce": "0x" + "0a" * 32})

    async def _session(self, request: web.Request) -> web.Response:
        body = await request.json()
        ours, theirs = b"\x0a" * 32, bytes.fromhex(body["nonce"][2:])
        message = Handshake(self.account, VALIDATOR.account, ours, theirs, ZERO32)
        signature = self.signer.sign(DOMAIN.digest(message.struct_hash()))
        self.sessions += 1
        return web.json_response({"token": f"chk-{self.sessions}", "signature": "0x" + signature.hex()})

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked % self.expires_after == 0:
            return web.json_response({"error": {"code": "invalid_session", "message": "expired"}}, status=401)
        return web.Response(status=self.status, body=self.reply, content_type="application/json")


def ask(gateway: StrangeGateway, question: Callable[[GatewayClient], Awaitable[Any]]) -> Any:
    """Ask a running gateway one thing."""

    async def story() -> Any:
        async with gateway.running() as client:
            return await question(client)

    return asyncio.run(story())


def batch_json(shown: ShownBatch, **changes: Any) -> dict[str, Any]:
    """A batch as a gateway shows it."""
    calls = [{"order": fields_of(order), "receipt": fields_of(receipt)} for order, receipt in shown.calls]
    signed = shown.signed
    fields = {"cursor": shown.cursor, "batch": fields_of(signed.batch), "signature": "0x" + signed.signature.hex()}
    return fields | {"calls": calls} | changes


def refused(gateway: StrangeGateway, question: Callable[[GatewayClient], Awaitable[Any]]) -> SteelyardError:
    """What asking ends with."""
    with pytest.raises(SteelyardError) as caught:
        ask(gateway, question)
    return caught.value


def test_batch_that_is_shown_well_is_read_back_whole() -> None:
    """Every field survives the way through JSON, and the next cursor is the gateway's."""
    shown = LaneMaker().add("one", "two words")
    gateway = StrangeGateway()
    gateway.reply = json.dumps({"data": [batch_json(shown)], "next": 7}).encode()
    [read], following = ask(gateway, lambda client: client.fetch_batches(0))
    assert (read.cursor, read.signed, tuple(read.calls), following) == (1, shown.signed, shown.calls, 7)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"data": {}, "next": 1}',
        b'{"data": [], "next": "1"}',
        b'{"data": [], "next": 4}',
        b'{"data": [null], "next": 9}',
        b'{"data": [{"cursor": 1, "calls": []}], "next": 9}',
        b'{"data": [{"cursor": 1, "calls": [null]}], "next": 9}',
        json.dumps({"data": [batch_json(LaneMaker().add("a"), signature="0xzz")], "next": 9}).encode(),
        json.dumps({"data": [batch_json(LaneMaker().add("a"), batch={"seq": -1})], "next": 9}).encode(),
        json.dumps({"data": [batch_json(LaneMaker().add("a"), calls=[{"order": {}}])], "next": 9}).encode(),
        json.dumps({"data": [batch_json(LaneMaker().add("a"), cursor="1")], "next": 9}).encode(),
        b"[" * 5000,
    ],
)
def test_malformed_feed_is_refused_as_the_gateways_fault(reply: bytes) -> None:
    """Never a crash, never a batch: a PeerError in one line that names the gateway."""
    gateway = StrangeGateway()
    gateway.reply = reply
    error = refused(gateway, lambda client: client.fetch_batches(5))
    assert isinstance(error, PeerError)
    assert "http://127.0.0.1" in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("name", "value"), [("api", None), ("api", 7), ("body", "*"), ("content", 1), ("salt", "0x1"), ("salt", None)]
)
def test_malformed_texts_are_refused(name: str, value: Any) -> None:
    """Each field alone."""
    text = base64.b64encode(b"x").decode()
    good = {"api": "chat.completions", "body": text, "content": text, "salt": "0x" + SALT.hex()}
    gateway = StrangeGateway()
    gateway.reply = json.dumps(good).encode()
    assert ask(gateway, lambda client: client.fetch_call(RECEIPT)).body == b"x"
    gateway.reply = json.dumps(good | {name: value}).encode()
    assert isinstance(refused(gateway, lambda client: client.fetch_call(RECEIPT)), BadMessage)


def test_call_or_evidence_that_is_not_kept_is_nothing() -> None:
    """404 is no error: the check abstains."""
    gateway = StrangeGateway()
    gateway.status, gateway.reply = 404, b'{"error": {"code": "not_kept", "message": "no"}}'
    assert ask(gateway, lambda client: client.fetch_call(RECEIPT)) is None
    assert ask(gateway, lambda client: client.fetch_evidence(RECEIPT)) is None


@pytest.mark.parametrize(
    ("status", "reply", "code"),
    [
        (503, b'{"error": {"code": "link_down", "message": "later"}}', "link_down"),
        (504, b'{"error": {"code": "evidence_timeout", "message": "slow"}}', "evidence_timeout"),
        (500, b"<html>", "http_error"),
        (429, b"[]", "http_error"),
    ],
)
def test_gateway_that_refuses_is_asked_again_later(status: int, reply: bytes, code: str) -> None:
    """Unavailable, with the gateway's code where it has one."""
    gateway = StrangeGateway()
    gateway.status, gateway.reply = status, reply
    error = refused(gateway, lambda client: client.fetch_evidence(RECEIPT))
    assert isinstance(error, Unavailable)
    assert error.code == code


def test_expired_session_is_opened_anew_once() -> None:
    """A token that was refused is replaced without a word; one that is refused twice is told."""
    gateway = StrangeGateway()
    gateway.reply, gateway.expires_after = b'{"data": [], "next": 0}', 2

    async def twice(client: GatewayClient) -> Any:
        await client.fetch_batches(0)
        return await client.fetch_batches(0)

    assert ask(gateway, twice) == ([], 0)
    assert gateway.sessions == 2
    gateway.expires_after = 1
    assert isinstance(refused(gateway, lambda client: client.fetch_batches(0)), Unauthorized)


def test_gateway_that_is_another_one_is_refused() -> None:
    """Another account than the registry's, or one whose key it doesn't have."""
    other = StrangeGateway()
    other.account = VALIDATOR.account
    assert "is gateway 0x" in refused(other, lambda client: client.fetch_batches(0)).message
    liar = StrangeGateway()
    liar.signer = VALIDATOR
    assert isinstance(refused(liar, lambda client: client.fetch_batches(0)), BadSignature)


def test_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, whatever a gateway sends."""
    monkeypatch.setattr(gateway_client, "MAX_ANSWER_BYTES", 1 << 20)
    gateway = StrangeGateway()
    gateway.reply = b'{"data": "' + b"x" * (2 << 20) + b'"}'
    assert "more than" in refused(gateway, lambda client: client.fetch_batches(0)).message


def test_gateway_that_is_gone_is_unavailable() -> None:
    """Nobody listens."""

    async def story() -> None:
        async with StrangeGateway().running() as client:
            pass
        away = GatewayClient(client.url, GATEWAY.account, VALIDATOR, DOMAIN)
        try:
            with pytest.raises(Unavailable, match="does not answer"):
                await away.fetch_batches(0)
        finally:
            await away.aclose()

    asyncio.run(story())
