"""What validators see of a gateway: proven sessions, the feed, texts that hash, relayed evidence, no private call."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.check_client import VALIDATOR, ask_nonce, batches, open_session, session_body, unhex
from tests.databases import KINDS, open_test_database
from tests.gateway_world import DOMAIN, GATEWAY_KEY, LIMITS, World, open_world, until

from steelyard.chain.proofs import CONSENT_TYPE_HASH
from steelyard.gateway import check_sessions
from steelyard.protocol.call_proof import read_shown
from steelyard.protocol.hashing import address_word, keccak
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Batch, Order, Receipt, content_hash
from steelyard.protocol.signing import SigningKey, require_signer


async def first_batch(world: World, token: str, count: int = 1) -> list[Any]:
    """The feed, once it has so many batches."""
    for _ in range(500):
        shown, _ = await batches(world, token)
        if len(shown) >= count:
            return shown
        await asyncio.sleep(0.01)
    raise AssertionError("no batch came")


@pytest.mark.parametrize("kind", KINDS)
def test_feed_shows_every_batch_with_its_calls_so_that_its_root_is_proven(tmp_path: Path, kind: str) -> None:
    """Orders and receipts give the root that the provider signed, in the order of the leaves, page by page; private
    calls are in it as hashes. On both databases, and the cursors are the same after a restart.
    """

    async def story() -> None:
        async with open_test_database(kind) as database, open_world(tmp_path, nodes=2, database=database) as world:
            token = await open_session(world)
            for number in range(6):
                headers = {"x-steelyard-private": "true"} if number % 2 else {}
                await world.ask(f"hello {number}", extra_headers=headers)
                await asyncio.sleep(0.03)
            shown: list[Any] = []
            async with asyncio.timeout(10):
                while sum(len(one["calls"]) for one in shown) < 6:
                    shown = await first_batch(world, token)
            for one in shown:
                batch = read_shown(Batch, one["batch"], "batch")
                require_signer(DOMAIN.digest(batch.struct_hash()), unhex(one["signature"]), batch.provider, "batch")
                receipts = [read_shown(Receipt, call["receipt"], "receipt") for call in one["calls"]]
                assert merkle_root([receipt.struct_hash() for receipt in receipts]) == batch.receipts_root
                for call, receipt in zip(one["calls"], receipts, strict=True):
                    assert unhex(call["receipt_id"]) == receipt.struct_hash()
                    assert read_shown(Order, call["order"], "order").struct_hash() == receipt.order_hash
            assert [one["cursor"] for one in shown] == list(range(1, len(shown) + 1))
            assert (await batches(world, token, after=1, limit=1))[0] == shown[1:2]
            assert await batches(world, token, after=len(shown)) == ([], len(shown))
            await world.stop_gateway()
            await world.start_gateway()
            assert (await batches(world, await open_session(world)))[0] == shown

    asyncio.run(story())


def test_texts_of_a_call_open_its_hashes(tmp_path: Path) -> None:
    """Body and content, whole or streamed, are those that order and receipt commit to under the salt."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            token = await open_session(world)
            await world.ask("hello there")
            async with world.client() as client:
                messages = [{"role": "user", "content": "a streamed answer of some words"}]
                stream = await client.chat.completions.create(model="echo-1", messages=messages, stream=True)
                async for _ in stream:
                    pass
            calls: list[Any] = []
            async with asyncio.timeout(10):
                while len(calls) < 2:
                    calls = [call for one in await first_batch(world, token) for call in one["calls"]]
            for call in calls:
                status, found, _ = await world.get(f"/checks/calls/{call['receipt_id']}", token)
                assert status == 200, found
                order = read_shown(Order, found["order"], "order")
                receipt = read_shown(Receipt, found["receipt"], "receipt")
                salt, body = unhex(found["salt"]), base64.b64decode(found["body"])
                assert content_hash(salt, body) == order.request_hash
                assert content_hash(salt, base64.b64decode(found["content"])) == receipt.response_hash
                assert (found["order"], found["receipt"]) == (call["order"], call["receipt"])
                assert (found["api"], found["batch_cursor"] >= 1) == ("chat.completions", True)

    asyncio.run(story())


async def refused(world: World, path: str, token: str) -> tuple[int, str]:
    """Status and code of a refusal, in the house's shape."""
    status, answer, _ = await world.get(path, token)
    assert set(answer["error"]) == {"message", "type", "param", "code"}, answer
    return status, answer["error"]["code"]


def test_private_old_restarted_and_unbatched_calls_are_told_alike(tmp_path: Path) -> None:
    """Neither texts nor evidence of a private call are shown, and the answer doesn't say why."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            token, node = await open_session(world), world.nodes[0]
            secret, _, headers = await world.post(
                "/chat/completions",
                {"model": "echo-1", "messages": [{"role": "user", "content": "a secret"}]},
                x_steelyard_private="true",
            )
            assert secret == 200
            private = headers["x-steelyard-receipt"]
            await first_batch(world, token)
            node.evidence[unhex(private)] = b"tokens that spell the secret"
            node.batches_by_itself = False
            raw = await world.post(
                "/chat/completions", {"model": "echo-1", "messages": [{"role": "user", "content": "x"}]}
            )
            unbatched = raw[2]["x-steelyard-receipt"]
            answers = []
            for receipt in (private, unbatched, "0x" + "77" * 32):
                status, answer, _ = await world.get(f"/checks/calls/{receipt}", token)
                answers.append((status, answer["error"]["code"], answer["error"]["message"].replace(receipt, "")))
            assert len(set(answers)) == 1
            assert answers[0][:2] == (404, "not_kept")
            assert await refused(world, f"/checks/evidence/{private}", token) == (404, "no_evidence")
            assert node.asked == []
            node.send_batches(world.gateway.catalogue and node.client.link)  # type: ignore[union-attr]
            await first_batch(world, token, 2)
            assert (await world.get(f"/checks/calls/{unbatched}", token))[0] == 200
            world.gateway.settlement.store._keep_s = 0.0
            assert await refused(world, f"/checks/calls/{unbatched}", token) == (404, "not_kept")
            await world.stop_gateway()
            await world.start_gateway()
            token = await open_session(world)
            assert await refused(world, f"/checks/calls/{unbatched}", token) == (404, "not_kept")

    asyncio.run(story())


def test_evidence_is_relayed_as_the_provider_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole; 404 where the provider has none, 504 where it is silent, 503 where it is not linked."""
    monkeypatch.setattr("steelyard.link.provider_link.ASK_S", 0.3)

    async def story() -> None:
        async with open_world(tmp_path) as world:
            token, node = await open_session(world), world.nodes[0]
            answer = await world.ask("hello")
            receipt = answer.steelyard["receipt_id"]  # type: ignore[attr-defined]
            path = f"/checks/evidence/{receipt}"
            assert await refused(world, path, token) == (404, "no_evidence")
            blob = hashlib.sha256(b"blob").digest() * 20_000
            node.evidence[unhex(receipt)] = blob
            status, found, _ = await world.get(path, token)
            assert (status, base64.b64decode(found["evidence"])) == (200, blob)
            node.mute.add(unhex(receipt))
            assert await refused(world, path, token) == (504, "evidence_timeout")
            await node.stop()
            await world.until_linked(node.key.account, is_up=False)
            assert await refused(world, path, token) == (503, "link_down")

    asyncio.run(story())


def test_consent_is_given_only_where_the_relay_failed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never for what is served, unknown or private; after two failures it is this gateway's signature for the asker."""
    monkeypatch.setattr("steelyard.link.provider_link.ASK_S", 0.2)

    async def story() -> None:
        async with open_world(tmp_path) as world:
            token, node = await open_session(world), world.nodes[0]

            async def consent(receipt: str) -> tuple[int, Any]:
                headers = {"authorization": f"Bearer {token}"}
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(f"{world.base_url}/checks/consents/{receipt}", headers=headers) as reply,
                ):
                    return reply.status, await reply.json()

            answer = await world.ask("hello")
            await first_batch(world, token)
            receipt = answer.steelyard["receipt_id"]  # type: ignore[attr-defined]
            status, told = await consent(receipt)
            assert (status, told["error"]["code"]) == (409, "relay_first")
            node.mute.add(unhex(receipt))
            for _ in range(2):
                assert await refused(world, f"/checks/evidence/{receipt}", token) == (504, "evidence_timeout")
            status, told = await consent(receipt)
            assert status == 200
            signed = keccak(CONSENT_TYPE_HASH + address_word(VALIDATOR.account) + unhex(receipt))
            require_signer(DOMAIN.digest(signed), unhex(told["consent"]), GATEWAY_KEY.account, "consent")
            served = world.gateway.settlement.store.find(unhex(receipt), 0.0)
            assert served is not None
            world.gateway.app._checks._consents.note(served.receipt, unhex(receipt), b"")
            assert (await consent(receipt))[0] == 409
            _, _, headers = await world.post(
                "/chat/completions",
                {"model": "echo-1", "messages": [{"role": "user", "content": "a secret"}]},
                x_steelyard_private="true",
            )
            await first_batch(world, token, 2)
            for unknown in (headers["x-steelyard-receipt"], "0x" + "77" * 32):
                status, told = await consent(unknown)
                assert (status, told["error"]["code"]) == (404, "not_kept")
        async with open_world(tmp_path / "none", consents_to_demands=False) as world:
            token, answer = await open_session(world), await world.ask("hello")
            await first_batch(world, token)
            receipt = answer.steelyard["receipt_id"]  # type: ignore[attr-defined]
            assert (await consent(receipt))[1]["error"]["code"] == "no_consent"

    asyncio.run(story())


def test_session_is_for_staked_validators_that_prove_their_account(tmp_path: Path) -> None:
    """Each way in that is not a validator's own fresh signature is refused by name, and no token opens anything."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            other = SigningKey(b"\x56" * 32)

            async def opened(body: Any) -> tuple[int, str]:
                status, answer, _ = await world.post("/checks/session", body)
                return status, answer.get("error", {}).get("code", "")

            peer = await ask_nonce(world)
            assert await opened(session_body(peer)) == (403, "not_a_validator")
            world.chain.validators.add(VALIDATOR.account)
            assert await opened(session_body(peer)) == (401, "invalid_nonce")  # it was used
            peer = await ask_nonce(world)
            stolen = session_body(peer) | {"signature": session_body(peer, other)["signature"]}
            assert await opened(stolen) == (401, "invalid_signature")
            assert await opened(session_body(peer, other)) == (401, "invalid_nonce")  # made for somebody else
            assert await opened(session_body(b"\x01" * 32)) == (401, "invalid_nonce")
            for field, value in (
                ("validator", "0x12"),
                ("nonce", 5),
                ("peer_nonce", "zz"),
                ("signature", "0x" + "g" * 130),
            ):
                status, answer, _ = await world.post("/checks/session", session_body(peer) | {field: value})
                assert (status, answer["error"]["param"]) == (400, field)
            assert await opened(b"[]") == (400, "invalid_json")
            assert await opened(b"{" * 5000) == (413, "request_too_large")
            assert await opened(session_body(peer)) == (200, "")
            assert (await world.get("/checks/nonce?validator=me"))[0] == 400
            for token in ("", "chk-" + "0" * 64, world.secret):
                assert await refused(world, "/checks/batches", token or "x") == (401, "invalid_session")

    asyncio.run(story())


def test_session_ends_in_time_and_beyond_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fifth session of a validator ends its first; the second half of an hour needs another handshake."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            tokens = [await open_session(world) for _ in range(check_sessions.SESSIONS_EACH + 1)]
            found = [(await world.get("/checks/batches", token))[0] for token in tokens]
            assert found == [401, *[200] * check_sessions.SESSIONS_EACH]
            clock = world.gateway.sessions._clock_ms
            monkeypatch.setattr(world.gateway.sessions, "_clock_ms", lambda: clock() + check_sessions.SESSION_S * 1000)
            assert await refused(world, "/checks/batches", tokens[-1]) == (401, "invalid_session")
            old = await ask_nonce(world)
            later = check_sessions.SESSION_S * 1000 + check_sessions.NONCE_S * 1000 + 1
            monkeypatch.setattr(world.gateway.sessions, "_clock_ms", lambda: clock() + later)
            status, answer, _ = await world.post("/checks/session", session_body(old))
            assert (status, answer["error"]["code"]) == (401, "invalid_nonce")

    asyncio.run(story())


def test_wrong_questions_get_errors_in_the_house_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown routes, methods, ids and numbers are named; too many requests wait."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            token = await open_session(world)
            for path, expected in (
                ("/checks/nothing", (404, "unknown_url")),
                ("/checks/calls/", (404, "unknown_url")),
                ("/checks/calls/0x12", (400, "invalid_request")),
                ("/checks/evidence/me", (400, "invalid_request")),
                ("/checks/batches?after=-1", (400, "invalid_request")),
                ("/checks/batches?limit=101", (400, "invalid_request")),
                ("/checks/session", (405, "method_not_allowed")),
            ):
                assert await refused(world, path, token) == expected, path
            status, answer, headers = await world.post("/checks/batches", {})
            assert (status, answer["error"]["code"], headers["allow"]) == (405, "method_not_allowed", "GET")
            bucket = world.gateway.sessions._buckets[VALIDATOR.account]
            bucket._tokens = -1e6  # it refills while we ask
            assert await refused(world, "/checks/batches", token) == (429, "rate_limit_exceeded")

    asyncio.run(story())


def test_texts_are_bounded_by_bytes_and_a_gateway_may_keep_none(tmp_path: Path) -> None:
    """What is kept never exceeds its bound; at zero nothing is, and calls are served as ever."""

    async def story() -> None:
        async with open_world(tmp_path, checks_keep_bytes=10_000) as world:
            for _ in range(12):
                await world.ask("x" * 900)
            store = world.gateway.settlement.store
            assert 0 < store.size_bytes <= 10_000
            assert 1 <= len(store) < 12
        async with open_world(tmp_path / "none", checks_keep_bytes=0) as world:
            await world.ask("hello")
            assert len(world.gateway.settlement.store) == 0

    asyncio.run(story())


def test_link_of_a_provider_that_is_back_is_used(tmp_path: Path) -> None:
    """Evidence is asked for over the link that is up now, not over the one that the call went by."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            token, node = await open_session(world), world.nodes[0]
            answer = await world.ask("hello")
            receipt = answer.steelyard["receipt_id"]  # type: ignore[attr-defined]
            node.evidence[unhex(receipt)] = b"still here"
            await node.stop()
            await world.until_linked(node.key.account, is_up=False)
            node.dial(world.running.address.link_url, LIMITS)
            await world.until_linked(node.key.account)
            await until(lambda: world.gateway.catalogue.find_link(node.key.account) is not None)
            status, found, _ = await world.get(f"/checks/evidence/{receipt}", token)
            assert (status, base64.b64decode(found["evidence"])) == (200, b"still here")

    asyncio.run(story())
