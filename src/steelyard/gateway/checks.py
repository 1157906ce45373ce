"""The routes of validators: sessions, the feed of batches, a call's texts, and evidence relayed from its provider.

1. Every batch of this gateway's lanes is in the feed, with orders and receipts: hashes and numbers, private calls too,
   since a batch's root stands over all of them.
2. Texts are shown of calls that are kept, in a signed batch and not private; why one isn't shown can't be told from the
   answer. Evidence spells the answer, so it is relayed for the same calls and no others.
3. What is relayed is the provider's; the gateway neither reads nor vouches for it.

Law: docs/spec/gateway.md, section 9.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from steelyard.errors import BadRequest, NotFound, Unavailable
from steelyard.gateway.calls_view import fields_of, read_number
from steelyard.gateway.check_sessions import CheckSessions, read_hex
from steelyard.gateway.check_store import CheckStore, KeptCall
from steelyard.gateway.consents import Consents
from steelyard.gateway.relay_checks import Disagreement
from steelyard.gateway.replies import Receive, Reply, error_reply, json_reply
from steelyard.gateway.request_bodies import read_body
from steelyard.link.port import ProviderLink
from steelyard.protocol.ids import format_hex, parse_account, parse_hash
from steelyard.protocol.messages import Order, Receipt
from steelyard.storage.batch_feed import FedBatch, find_cursor, load_feed
from steelyard.storage.calls import known_orders
from steelyard.storage.database import Database
from steelyard.storage.lanes import find_place

CHECKS = "/v1/checks/"
MAX_PAGE = 100
_MAX_BODY_BYTES = 4_096

_decode_order = msgspec.msgpack.Decoder(Order).decode
_decode_receipt = msgspec.msgpack.Decoder(Receipt).decode


class CheckPages:
    """Answers `/v1/checks/…`.

    Args:
        consents: to demands on chain. account: the gateway's own. find_link: the link of a provider that is up, or
            None. clock: monotonic seconds. disagreements: what cross-checks of relayed answers found (relay_checks.py).
    """

    def __init__(
        self,
        database: Database,
        store: CheckStore,
        sessions: CheckSessions,
        consents: Consents,
        *,
        account: bytes,
        find_link: Callable[[bytes], ProviderLink | None],
        clock: Callable[[], float],
        disagreements: Callable[[], Iterable[Disagreement]] = tuple,
    ) -> None:
        self._database = database
        self._store = store
        self._sessions = sessions
        self._consents = consents
        self._account = account
        self._find_link = find_link
        self._clock = clock
        self._disagreements = disagreements

    async def answer(
        self, method: str, path: str, query: bytes, headers: dict[bytes, bytes], receive: Receive
    ) -> Reply:
        """Answer one request; raises a Refusal or ChainError."""
        name = path.removeprefix(CHECKS)
        kind, _, receipt = name.partition("/")
        wanted = "POST" if name == "session" or kind == "consents" else "GET"
        if method != wanted:
            error = BadRequest(f"{method} {path[:200]} is not served: use {wanted}", code="method_not_allowed")
            return error_reply(error, status=405, headers=((b"allow", wanted.encode()),))
        values = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
        if name == "nonce":
            validator = parse_account(values.get("validator", ""), "validator")
            nonce = self._sessions.make_nonce(validator)
            return json_reply({"gateway": format_hex(self._account), "nonce": format_hex(nonce)})
        if name == "session":
            return await self._open_session(await read_body(receive, headers, _MAX_BODY_BYTES))
        if name not in ("batches", "disagreements") and (kind not in ("calls", "evidence", "consents") or not receipt):
            raise NotFound(f"there is no route {method} {path[:200]!r}: see docs/spec/gateway.md", code="unknown_url")
        validator = self._sessions.admit(headers.get(b"authorization"))
        if name == "batches":
            return json_reply(await self._batches(values))
        if name == "disagreements":
            return json_reply({"object": "list", "data": [msgspec.to_builtins(one) for one in self._disagreements()]})
        receipt_hash = parse_hash(receipt, "receipt_id")
        kept = self._store.find(receipt_hash, self._clock())
        if kind == "consents":
            return await self._consent(validator, receipt_hash, kept)
        return await (self._call(receipt_hash, kept) if kind == "calls" else self._evidence(receipt_hash, kept))

    async def _open_session(self, body: bytes) -> Reply:
        try:
            fields = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body is no JSON object: {error}", code="invalid_json") from error
        opened = await self._sessions.open(
            read_hex(fields.get("validator"), "validator", 20),
            read_hex(fields.get("nonce"), "nonce", 32),
            read_hex(fields.get("peer_nonce"), "peer_nonce", 32),
            read_hex(fields.get("signature"), "signature", 65),
        )
        return json_reply(
            {"token": opened.token, "expires_ms": opened.expires_ms, "signature": format_hex(opened.signature)}
        )

    async def _batches(self, values: dict[str, str]) -> dict[str, Any]:
        after = read_number(values, "after", 0, 0, 2**62)
        limit = read_number(values, "limit", 50, 1, MAX_PAGE)
        fed = await load_feed(self._database, self._account, after=after, limit=limit)
        shown = [_show_batch(one) for one in fed]
        return {"object": "list", "data": shown, "next": fed[-1].cursor if fed else after}

    async def _consent(self, validator: bytes, receipt_hash: bytes, kept: KeptCall | None) -> Reply:
        if kept is None or await self._cursor(receipt_hash, kept) is None:
            raise _not_kept(receipt_hash)
        return json_reply({"consent": format_hex(self._consents.sign(validator, receipt_hash))})

    async def _call(self, receipt_hash: bytes, kept: KeptCall | None) -> Reply:
        cursor = None if kept is None else await self._cursor(receipt_hash, kept)
        if kept is None or cursor is None:
            raise _not_kept(receipt_hash)
        request = kept.request
        return json_reply(
            {
                "api": request.api,
                "body": base64.b64encode(request.body).decode(),
                "content": base64.b64encode(kept.content).decode(),
                "prefix": base64.b64encode(request.prefix).decode(),
                "salt": format_hex(request.salt),
                "order": fields_of(request.order),
                "receipt": fields_of(kept.receipt),
                "batch_cursor": cursor,
            }
        )

    async def _cursor(self, receipt_hash: bytes, kept: KeptCall) -> int | None:
        """The number in the feed of the batch that proves a call, or None while there is none."""
        order = kept.request.order
        key = (order.call_id, kept.receipt.order_hash)
        row = (await known_orders(self._database, [key])).get(kept.receipt.order_hash)
        if row is None or row.receipt_hash != receipt_hash:
            return None
        place = await find_place(self._database, order.lane, row)
        return None if place is None else await find_cursor(self._database, order.lane, place[0].signed.batch.seq)

    async def _evidence(self, receipt_hash: bytes, kept: KeptCall | None) -> Reply:
        evidence = None
        if kept is not None:
            provider = kept.request.order.provider
            link = self._find_link(provider)
            if link is None:
                self._consents.note(kept.receipt, receipt_hash, None)
                raise Unavailable(
                    f"provider {format_hex(provider)} is not linked now: try again in a few seconds",
                    code="link_down",
                    retry_after_s=5.0,
                )
            try:
                evidence = await link.fetch_evidence(receipt_hash)
                self._consents.note(kept.receipt, receipt_hash, evidence)
            except Unavailable as error:
                if error.code != "evidence_busy":
                    self._consents.note(kept.receipt, receipt_hash, None)
                if error.code == "evidence_timeout":
                    return error_reply(error, status=504)
                raise
        if evidence is None:
            raise NotFound(
                f"there is no evidence to be had for receipt {format_hex(receipt_hash)} here: its provider shows none, "
                "or the call isn't kept",
                code="no_evidence",
                param="receipt_id",
            )
        return json_reply({"evidence": base64.b64encode(evidence).decode()})


def _not_kept(receipt_hash: bytes) -> NotFound:
    return NotFound(
        f"the texts of receipt {format_hex(receipt_hash)} are not kept here: calls are kept for a while after their "
        "batch, and some not at all",
        code="not_kept",
        param="receipt_id",
    )


def _show_batch(fed: FedBatch) -> dict[str, Any]:
    """A batch with all its calls, or with none where a crash lost the row of one: half of them prove nothing."""
    signed = fed.stored.signed
    rows = () if None in fed.calls else fed.calls
    calls = [
        {
            "receipt_id": format_hex(row.receipt_hash),
            "order": fields_of(_decode_order(row.order_bytes)),
            "receipt": fields_of(_decode_receipt(row.receipt_bytes)),
        }
        for row in rows
        if row is not None and row.receipt_bytes is not None and row.receipt_hash is not None
    ]
    return {
        "cursor": fed.cursor,
        "batch": fields_of(signed.batch),
        "signature": format_hex(signed.signature),
        "calls": calls,
    }
