"""What anyone who paid for a call may see of it: order, receipt, batch, Merkle proof and voucher.

1. A call belongs to the key that made it; to any other key but an administrator's it does not exist.
2. All that is needed to check the proof offline is here: the salt opens the hashes, the proof leads from the receipt to
   the root that the provider signed, and the voucher's head is that batch's, or a later one's.
3. Why its provider was asked, and nobody else, is shown as the choice noted it (why.py).
4. Numbers that a double can't hold exactly (lane id, sampler seed) are decimal strings; bytes are 0x hex.

Law: docs/spec/gateway.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from steelyard.errors import BadRequest, NotFound
from steelyard.gateway.access import Account
from steelyard.gateway.settlement import DONE, PRIVATE_SUFFIX
from steelyard.gateway.why import show_why
from steelyard.protocol.ids import format_call, format_hex, parse_call
from steelyard.protocol.lanes import SignedVoucher
from steelyard.protocol.merkle import build_proof
from steelyard.protocol.messages import FinishReason, Grade, Message, Order, Receipt
from steelyard.storage.calls import CallRow, find_call, list_calls
from steelyard.storage.database import Database
from steelyard.storage.lanes import find_place, last_voucher
from steelyard.storage.writer import GroupWriter

MAX_PAGE = 200
_AS_TEXT = frozenset({"lane_id", "sampler_seed"})

_decode_order = msgspec.msgpack.Decoder(Order).decode
_decode_receipt = msgspec.msgpack.Decoder(Receipt).decode


class CallsView:
    """Reads calls for the API.

    Args:
        admin_key_ids: keys that may see every call. name_of: a service's name by its id, or "".
    """

    def __init__(
        self,
        database: Database,
        writer: GroupWriter,
        admin_key_ids: frozenset[str],
        name_of: Callable[[bytes], str],
    ) -> None:
        self._database = database
        self._writer = writer
        self._admins = admin_key_ids
        self._name_of = name_of

    async def show(self, account: Account, public_id: str) -> dict[str, Any]:
        """Return one call with all its proofs; raises NotFound unless it is the key's own, BadRequest for no id."""
        call_id = parse_call(public_id)
        await self._writer.flush()
        rows = await find_call(self._database, call_id)
        is_mine = account.key_id in self._admins or any(row.key_id == account.key_id for row in rows)
        if not rows or not is_mine:
            raise NotFound(
                f"this key has no call {public_id!r} that has ended: GET /v1/calls lists its calls",
                code="call_not_found",
                param="id",
            )
        best = max(reversed(rows), key=lambda row: (row.status.startswith(DONE), row.receipt_hash is not None))
        shown = {"object": "steelyard.call", **self._summary(best), **await load_proofs(self._database, best)}
        shown["attempts"] = [
            self._summary(row) | ({} if row.receipt_hash is None else await load_proofs(self._database, row))
            for row in rows
            if row is not best
        ]
        shown["why"] = show_why([(row.provider, row.status.removesuffix(PRIVATE_SUFFIX), row.why) for row in rows])
        return shown

    async def list(self, account: Account, query: dict[str, str]) -> dict[str, Any]:
        """Return a page of the key's calls, newest first; `limit` (1 to 200) and `before` (Unix ms) steer it."""
        limit = read_number(query, "limit", 50, 1, MAX_PAGE)
        before_ms = read_number(query, "before", 0, 0, 2**62) or None
        key_id = None if account.key_id in self._admins and query.get("all") == "true" else account.key_id
        await self._writer.flush()
        rows = await list_calls(self._database, key_id=key_id, before_ms=before_ms, limit=limit + 1)
        return {
            "object": "list",
            "data": [{"object": "steelyard.call", **self._summary(row)} for row in rows[:limit]],
            "has_more": len(rows) > limit,
        }

    def _summary(self, row: CallRow) -> dict[str, Any]:
        status = row.status.removesuffix(PRIVATE_SUFFIX)
        return {
            "id": format_call(row.call_id),
            "status": status,
            "is_private": status != row.status,
            "model": self._name_of(row.service_id),
            "service_id": format_hex(row.service_id),
            "provider": format_hex(row.provider),
            "order_hash": format_hex(row.order_hash),
            "receipt_id": None if row.receipt_hash is None else format_hex(row.receipt_hash),
            "cost_nano": row.cost_nano,
            "charged_nano": _charged_nano(row),
            "is_charged": row.key_id is not None,
            "created_ms": row.created_ms,
            "finished_ms": row.finished_ms,
        }


async def load_proofs(database: Database, row: CallRow) -> dict[str, Any]:
    """Return a call's order and receipt, and what proves them: salt, signed batch, Merkle proof, voucher; by rule 4."""
    order = _decode_order(row.order_bytes)
    receipt = None if row.receipt_bytes is None else _decode_receipt(row.receipt_bytes)
    shown: dict[str, Any] = {
        "grade": Grade(order.grade).name.lower().replace("_", "-"),
        "salt": None if row.salt is None else format_hex(row.salt),
        "order": fields_of(order),
        "receipt": None if receipt is None else fields_of(receipt),
        "finish_reason": None if receipt is None else FinishReason(receipt.finish_reason).name.lower(),
        "batch": None,
        "voucher": None,
    }
    place = await find_place(database, order.lane, row)
    if place is None:
        return shown
    stored, leaf_index = place
    shown["batch"] = {
        **fields_of(stored.signed.batch),
        "head": format_hex(stored.head),
        "signature": format_hex(stored.signed.signature),
        "leaf_index": leaf_index,
        "proof": [format_hex(step) for step in build_proof(stored.leaves, leaf_index)],
    }
    voucher = await last_voucher(database, order.lane)
    if voucher is not None and voucher.voucher.count >= stored.total_count:
        shown["voucher"] = _voucher_fields(voucher)
    return shown


def fields_of(message: Message) -> dict[str, Any]:
    """Return a message's fields for JSON, by rule 4."""
    return {name: _plain(name, getattr(message, name)) for name in message.__struct_fields__}


def _charged_nano(row: CallRow) -> int:
    if row.charged_nano is not None:
        return row.charged_nano
    return 0 if row.key_id is None else row.cost_nano


def _voucher_fields(signed: SignedVoucher) -> dict[str, Any]:
    return {**fields_of(signed.voucher), "signature": format_hex(signed.signature)}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return format_call(value) if name == "call_id" else format_hex(value)
    return str(value) if name in _AS_TEXT else value


def read_number(query: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return a whole number of a query (untrusted), or the default; raises BadRequest naming it."""
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text[:20]) <= high:
        raise BadRequest(f"`{name}` is {text[:40]!r}: it is a whole number from {low} to {high}", param=name)
    return int(text)
