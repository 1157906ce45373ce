"""Which orders a provider takes: decided from the order, the offer and the body alone.

Pure. Law: docs/spec/node.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from steelyard.errors import BadMessage, BadRequest
from steelyard.link.port import CallRequest, Failure, SignedOffer
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Offer, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.services.port import Quote, Request, Service, decode_prefix

CLOCK_SKEW_MS = 2_000


@dataclass(frozen=True, slots=True)
class NodeService:
    """A service on sale here: the plug-in's instance, the APIs that it answers, and the terms.

    `max_calls` bounds the calls at work on it, so that a full engine is answered ``busy`` instead of waited for; zero
    leaves only the node's own bound. The `former` offer is taken until a time (Unix milliseconds): orders on its terms
    may be on their way.
    """

    service: Service
    apis: frozenset[str]
    signed_offer: SignedOffer
    max_calls: int = 0
    former: Offer | None = None
    former_until_ms: int = 0


class Taken(msgspec.Struct, frozen=True):
    """An order that is fit to run."""

    offered: NodeService
    order_hash: bytes
    request: Request
    quote: Quote


def check_order(
    call: CallRequest,
    *,
    gateway: bytes,
    provider: bytes,
    offered: NodeService | None,
    now_ms: int,
    max_deadline_ms: int,
    largest_nano: int,
) -> Taken | Failure:
    """Return what is needed to run an order, or why it isn't taken.

    Args:
        call: untrusted. gateway: the account that the link proved. provider: ours. offered: ours for its service id.
        now_ms, max_deadline_ms: Unix milliseconds. largest_nano: the highest cost of an order that our stake allows.
    """
    order = call.order
    if order.gateway != gateway or order.provider != provider:
        return _bad("the order names another gateway or provider than this link's")
    if offered is None:
        return Failure("not_served", "this provider doesn't offer that service")
    offer = offered.signed_offer.offer
    former = offered.former
    if former is not None and order.price_in == former.price_in and order.price_out == former.price_out:
        offer = former if now_ms <= offered.former_until_ms else offer
    if order.price_in != offer.price_in or order.price_out != offer.price_out:
        return _bad(
            f"the order pays {order.price_in}/{order.price_out} nano per million units, the offer is "
            f"{offer.price_in}/{offer.price_out}"
        )
    if order.grade != offer.grade:
        return _bad(f"the order pins grade {order.grade}, the offer's is {offer.grade}")
    if order.max_cost > largest_nano:
        return Failure(
            "order_too_large",
            f"the order can cost up to {order.max_cost} nano, this provider's stake allows {largest_nano}",
        )
    if order.deadline_ms + CLOCK_SKEW_MS < now_ms:
        return Failure("deadline", "the order's deadline has passed")
    if order.deadline_ms > max_deadline_ms + CLOCK_SKEW_MS:
        return _bad(f"the order's deadline is {(order.deadline_ms - now_ms) // 1000} s away, which is too far")
    if content_hash(call.salt, call.body) != order.request_hash:
        return _bad("the body doesn't give the order's request hash")
    if order.prefix_hash != (content_hash(call.salt, call.prefix) if call.prefix else ZERO32):
        return _bad("the prefix doesn't give the order's prefix hash")
    if call.api not in offered.apis:
        return Failure("not_served", f"this service doesn't answer {call.api}")
    try:
        request = offered.service.parse(call.api, call.body)
        quote = _quote_rest(offered.service, request, call.prefix) if call.prefix else offered.service.quote(request)
    except BadRequest as error:
        return Failure("invalid_request", error.message[:1024], is_retryable=False)
    except BadMessage as error:
        return _bad(error.message[:1024])
    if call_cost(quote.max_units_in, quote.max_units_out, order.price_in, order.price_out) > order.max_cost:
        return _bad(f"the order's highest cost of {order.max_cost} nano doesn't cover the quote")
    return Taken(offered, order.struct_hash(), request, quote)


def _quote_rest(service: Service, request: Request, prefix: bytes) -> Quote:
    """The quote of what follows a prefix; raises BadMessage where the service can't go on from it."""
    quote_rest = getattr(service, "quote_rest", None) if getattr(service, "can_continue", False) else None
    rest: Quote | None = None if quote_rest is None else quote_rest(request, decode_prefix(prefix))
    if rest is None:
        raise BadMessage("this service can't continue from that prefix")
    return rest


def _bad(message: str) -> Failure:
    return Failure("bad_order", message)
