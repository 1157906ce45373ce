"""The one door for amounts."""

from __future__ import annotations

import pytest

from steelyard.errors import BadRequest
from steelyard.storage.amounts import MAX_NANO, checked_nano, pack_u64


@pytest.mark.parametrize("value", [0, 1, MAX_NANO])
def test_amount_that_fits_passes_unchanged(value: int) -> None:
    """Both ends of the range are good."""
    assert checked_nano(value) == value


@pytest.mark.parametrize("value", [-1, MAX_NANO + 1, 2**128 - 1, 1.0, True, "1", None])
def test_amount_that_does_not_fit_is_refused_by_name(value: object) -> None:
    """Too large, negative, or no integer: the refusal names the field and the value."""
    with pytest.raises(BadRequest, match="budget") as refusal:
        checked_nano(value, "budget")  # type: ignore[arg-type]
    assert refusal.value.param == "budget"
    assert repr(value) in refusal.value.message


def test_uint64_is_kept_whole() -> None:
    """A peer's uint64 beyond 2^63 is kept in 8 bytes, in order; outside the range it is refused."""
    values = [0, 1, 2**63 - 1, 2**63, 2**64 - 1]
    packed = [pack_u64(value, "lane_id") for value in values]
    assert packed == sorted(packed)
    assert [int.from_bytes(item, "big") for item in packed] == values
    for value in (-1, 2**64):
        with pytest.raises(BadRequest, match="lane_id"):
            pack_u64(value, "lane_id")
