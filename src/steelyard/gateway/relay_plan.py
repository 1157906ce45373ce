"""What is to be done for one JSON-RPC body: what is known already, what must be bought, and how both become one answer.

1. One body is one order at most. Items that the gateway itself refuses, or has an answer to, are left out of it and put
   back at their places.
2. A body with nothing to leave out goes to the provider as it came, and its answer comes back as it came.
3. A notification (no id) has no answer; a body of nothing else is answered with nothing.

Pure but for the cache it looks into. Law: docs/spec/relay.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steelyard.gateway.relay_cache import CachedAnswer, RelayCache, cache_key
from steelyard.gateway.relay_shapes import read_answered, split_batch
from steelyard.gateway.replies import Header
from steelyard.services.port import Request
from steelyard.services.rpc.catalogue import Family, find_family
from steelyard.services.rpc.messages import (
    INVALID_REQUEST,
    BadRpc,
    RpcItem,
    RpcPayload,
    build_response,
    join_responses,
)

if TYPE_CHECKING:
    from steelyard.gateway.listing import Listing
    from steelyard.services.rpc.pinning import Pin

API = "rpc"


@dataclass(slots=True)
class Plan:
    """How one body is answered.

    Attributes:
        request, body: what is bought; None and b"" if nothing is.
        slots: one for each item that has an answer: the answer, or None where the bought one comes; empty: it is the
            bought one as it comes. keys: under which the bought answers are kept, None where they aren't.
        hits: how many answers came from the cache. source: whose the one answer is, of a body with a single request.
        oldest: the lowest block that a bought request names by its number. is_safe: what is bought changes nothing.
    """

    request: Request | None
    body: bytes
    is_batch: bool
    slots: list[bytes | None]
    keys: list[bytes | None]
    hits: int
    source: CachedAnswer | None
    oldest: int | None = None
    is_safe: bool = False

    def join(self, bought: bytes) -> bytes:
        """Return the whole answer; `bought` is a provider's, checked by its shape."""
        if not self.slots:
            return bought
        parts = iter(split_batch(bought) if bought and self.is_batch else [bought])
        return join_responses([next(parts) if slot is None else slot for slot in self.slots], is_batch=self.is_batch)

    def keepable(self, bought: bytes) -> list[tuple[bytes, bytes]]:
        """Return (key, result) of each bought answer that may be kept."""
        if not any(self.keys):
            return []
        answered = read_answered(bought, is_batch=self.is_batch)
        return [(key, bytes(one.result)) for key, one in zip(self.keys, answered, strict=True) if key and one.result]


def family_of(listing: Listing) -> Family | None:
    """Return the methods of the chain that a listing sells."""
    manifest = listing.manifest
    return find_family(manifest.chain, manifest.family)


def make_plan(
    listing: Listing,
    body: bytes,
    cache: RelayCache | None,
    *,
    height: Callable[[], int | None],
    max_items: int,
    now_s: float,
) -> Plan:
    """Return what is to be done for a body.

    Args:
        body: untrusted. cache: None to know and keep nothing. height: the newest block that is believed in, None if
            unknown. now_s: monotonic.

    Raises:
        BadRpc: no JSON, no request, or more items than `max_items`.
    """
    request = listing.service.parse(API, body)
    payload: RpcPayload = request.payload
    items = payload.items
    if len(items) > max_items:
        raise BadRpc(
            f"the batch has {len(items)} requests, this gateway takes {max_items}: split it",
            INVALID_REQUEST,
            code="batch_too_large",
        )
    family = family_of(listing)
    pins = [None if family is None or item.error else family.pin(item.method, item.params_raw) for item in items]
    keys = [_key(listing, family, item, pin, height) for item, pin in zip(items, pins, strict=True)]
    if cache is None:
        keys = [None] * len(items)
    found = [cache.find(key, now_s) if cache is not None and key else None for key in keys]
    answers = [_known(item, hit) for item, hit in zip(items, found, strict=True)]
    hits = sum(hit is not None for hit in found)
    bought = [index for index, answer in enumerate(answers) if answer is None]
    numbers = [pin.number for pin in (pins[index] for index in bought) if pin is not None and pin.number is not None]
    oldest = min(numbers) if numbers else None
    is_safe = family is not None and all(family.is_safe(items[index].method) for index in bought)
    if not any(answers):
        wanted = [key for key, item in zip(keys, items, strict=True) if item.id_raw]
        return Plan(request, body, payload.is_batch, [], wanted, 0, None, oldest, is_safe)
    slots = [answer for answer, item in zip(answers, items, strict=True) if item.id_raw]
    rest = [item for item, answer in zip(items, answers, strict=True) if answer is None]
    wanted = [key for key, item, answer in zip(keys, items, answers, strict=True) if answer is None and item.id_raw]
    source = found[0] if len(found) == 1 else None
    if not rest:
        return Plan(None, b"", payload.is_batch, slots, [], hits, source)
    body = write_body(rest, is_batch=payload.is_batch)
    request = listing.service.parse(API, body)
    return Plan(request, body, payload.is_batch, slots, wanted, hits, source, oldest, is_safe)


def write_body(items: Sequence[RpcItem], *, is_batch: bool) -> bytes:
    """Return the body that asks for some items, with the ids they came with."""
    calls = [
        b'{"jsonrpc":"2.0"%s,"method":"%s"%s}'
        % (
            b',"id":' + item.id_raw if item.id_raw else b"",
            item.method.encode(),
            b',"params":' + item.params_raw if item.params_raw else b"",
        )
        for item in items
    ]
    return b"[%s]" % b",".join(calls) if is_batch else calls[0]


def _key(
    listing: Listing, family: Family | None, item: RpcItem, pin: Pin | None, height: Callable[[], int | None]
) -> bytes | None:
    if family is None or pin is None or not item.id_raw:
        return None
    if not family.is_final(pin, height() if pin.number is not None else None):
        return None
    return cache_key(listing.name, item.method, item.params_raw)


def _known(item: RpcItem, hit: CachedAnswer | None) -> bytes | None:
    """The answer to an item that is known here; a refused notification is known to have none."""
    if item.error:
        return build_response(item.id_raw or b"null", error=item.error)
    return None if hit is None else build_response(item.id_raw, result=hit.result)


def cache_header(plan: Plan) -> tuple[Header, ...]:
    """Return the header that says what came from the cache."""
    if not plan.hits:
        return ()
    return ((b"x-steelyard-cache", b"hit" if plan.request is None else b"partial"),)
