"""node/orders.py: which orders that go on from another provider's prefix are taken, and at what quote."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.service_world import SAMPLES, LetterEngine, body

from steelyard.link.port import CallRequest, Failure, SignedOffer
from steelyard.node.orders import NodeService, Taken, check_order
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Offer, Order, content_hash
from steelyard.services.chat import ChatService
from steelyard.services.chat.seam import encode_token
from steelyard.services.echo import EchoService
from steelyard.services.port import Prefix, Quote, Service, encode_prefix

SALT, GATEWAY, PROVIDER, SERVICE = b"\x01" * 32, b"\x02" * 20, b"\x03" * 20, b"\x04" * 32
BODY = body(SAMPLES["chat.completions"], max_tokens=8)
HELLO = Prefix(b"hel", 3, b"".join(map(encode_token, b"hel")))


def check(service: Service, prefix: bytes, prefix_hash: bytes | None = None) -> Taken | Failure:
    """Offer an order with a prefix to a node of this service."""
    named = content_hash(SALT, prefix) if prefix_hash is None else prefix_hash
    order = Order(
        b"\x05" * 16, GATEWAY, PROVIDER, SERVICE, 1, content_hash(SALT, BODY), named, 7, 2, 1, 1, 10**6, 10_000
    )
    offer = SignedOffer(Offer(PROVIDER, SERVICE, 1, 1, 2, ZERO32, 1), b"\x00" * 65, "m", b"")
    apis: Any = type(service).apis  # type: ignore[attr-defined]
    return check_order(
        CallRequest(order, b"\x06" * 16, SALT, "chat.completions", BODY, prefix),
        gateway=GATEWAY,
        provider=PROVIDER,
        offered=NodeService(service, apis, offer),
        now_ms=5_000,
        max_deadline_ms=20_000,
        largest_nano=10**9,
    )


def letters() -> ChatService:
    """A chat service that was not prepared: orders are checked without its engine."""
    return ChatService(ChatService.describe("m", LetterEngine().info))


def test_order_with_a_prefix_is_quoted_for_its_rest() -> None:
    """The prefix is input, and what it gave already is no output any more."""
    taken = check(letters(), encode_prefix(HELLO))
    assert isinstance(taken, Taken)
    whole = letters().quote(taken.request)
    assert taken.quote == Quote(whole.max_units_in + 3, whole.max_units_out - 3)


@pytest.mark.parametrize(
    "prefix",
    [
        encode_prefix(msgspec.structs.replace(HELLO, units_out=4)),
        encode_prefix(Prefix(b"", 9, encode_token(104) * 9)),
        b"no prefix at all",
    ],
)
def test_prefix_that_can_not_be_continued_is_a_bad_order(prefix: bytes) -> None:
    """Tokens that are not as many as counted, more than the request allows, or no prefix."""
    refused = check(letters(), prefix)
    assert isinstance(refused, Failure)
    assert refused.code == "bad_order"


def test_prefix_that_the_order_does_not_name_is_a_bad_order() -> None:
    """Neither a hash without its prefix nor a prefix without its hash passes."""
    for prefix, named in ((encode_prefix(HELLO), ZERO32), (encode_prefix(HELLO), b"\x09" * 32), (b"", b"\x09" * 32)):
        refused = check(letters(), prefix, named)
        assert isinstance(refused, Failure)
        assert refused.code == "bad_order"


def test_service_that_continues_nothing_refuses_any_prefix() -> None:
    """An echo is made again from its beginning."""
    refused = check(EchoService(EchoService.describe("m")), encode_prefix(HELLO))
    assert isinstance(refused, Failure)
    assert refused.code in ("bad_order", "invalid_request")
