"""gateway/check_store.py: bounded by age and by bytes, oldest first."""

from __future__ import annotations

from tests.link_world import build_order, build_receipt

from steelyard.gateway.check_store import ENTRY_BYTES, CheckStore
from steelyard.link.port import CallRequest


def keep(store: CheckStore, number: int, now_s: float, size: int = 100) -> bytes:
    """Keep a call of some size, and return its key."""
    order = build_order(bytes([number]) * 16, 10**13)
    request = CallRequest(order, b"\x00" * 16, b"\x00" * 32, "chat.completions", b"b" * (size // 2))
    key = bytes([number]) * 32
    store.keep(key, request, b"c" * (size // 2), build_receipt(order), now_s)
    return key


def test_call_is_found_until_it_is_too_old() -> None:
    """Its time is counted from when it was kept, whether or not anybody swept."""
    store = CheckStore(10.0, 1 << 20)
    first, second = keep(store, 1, 0.0), keep(store, 2, 5.0)
    assert store.find(first, 9.9) is not None
    assert store.find(first, 10.0) is None
    store.expire(10.0)
    assert (len(store), store.size_bytes) == (1, ENTRY_BYTES + 100)
    assert store.find(second, 10.0) is not None
    store.expire(100.0)
    assert (len(store), store.size_bytes) == (0, 0)


def test_oldest_goes_when_the_bytes_are_too_many() -> None:
    """The bound holds after every call, a call beyond it alone included."""
    store = CheckStore(10.0, 3 * (ENTRY_BYTES + 100))
    keys = [keep(store, number, 0.0) for number in range(5)]
    assert [store.find(key, 1.0) is not None for key in keys] == [False, False, True, True, True]
    keep(store, 9, 0.0, size=10 * ENTRY_BYTES)
    assert (len(store), store.size_bytes) == (0, 0)


def test_store_of_no_bytes_keeps_nothing() -> None:
    """An operator who keeps no texts keeps none."""
    store = CheckStore(10.0, 0)
    assert store.find(keep(store, 1, 0.0), 0.0) is None
