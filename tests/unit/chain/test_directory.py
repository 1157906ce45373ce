"""The directory folded from events keeps the newest of everything and loses stake as the contract does."""

from __future__ import annotations

from typing import Any

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.directory import Directory
from steelyard.chain.records import Log
from steelyard.chain.registry import Role
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Offer

LOG = Log(b"\x01" * 20, (), b"", 1, ZERO32, ZERO32, 0)
WHO, SERVICE, MANIFEST = b"\x02" * 20, b"\x03" * 32, b"\x04" * 32


def event(name: str, **values: Any) -> DecodedEvent:
    return DecodedEvent(name, values, LOG)


def offer_set(manifest: bytes, seq: int) -> DecodedEvent:
    values = {"priceIn": seq, "priceOut": 2, "grade": 4, "manifest": manifest, "seq": seq}
    return event("OfferSet", provider=WHO, serviceId=SERVICE, **values)


def test_directory_newer_offer_replaces_and_zero_manifest_withdraws() -> None:
    """The last offer stands; one with a zero manifest is gone."""
    directory = Directory()
    directory.apply([offer_set(MANIFEST, 1), offer_set(MANIFEST, 2)])
    assert directory.offers_for(SERVICE) == [Offer(WHO, SERVICE, 2, 2, 4, MANIFEST, 2)]
    directory.apply([offer_set(ZERO32, 3)])
    assert directory.offers_for(SERVICE) == []


def test_directory_gateway_url_last_word_counts() -> None:
    """A gateway's last URL stands; the empty one takes it back."""
    directory = Directory()
    directory.apply(
        [event("GatewaySet", gateway=WHO, url="http://a"), event("GatewaySet", gateway=WHO, url="http://b")]
    )
    assert directory.gateways == {WHO: "http://b"}
    directory.apply([event("GatewaySet", gateway=WHO, url="")])
    assert directory.gateways == {}


def test_directory_loss_takes_unbonding_stake_first() -> None:
    """A slash or a draw is taken from what is leaving, then from what counts."""
    directory = Directory()
    directory.apply(
        [
            event("Staked", account=WHO, role=2, payer=WHO, amount=100),
            event("UnbondStarted", account=WHO, role=2, amount=30, readyAt=9),
            event("Slashed", account=WHO, role=2, amount=20, to=b"\x00" * 20),
            event("Drawn", gateway=WHO, drawer=b"\x05" * 20, amount=25),
            event("Locked", account=WHO, role=2, until=5),
        ]
    )
    assert directory.stake_of(WHO, Role.GATEWAY) == 55
    assert directory.stakes[WHO, 2].unbonding_nano == 0
    assert directory.stake_of(WHO, Role.PROVIDER) == 0
    directory.apply([event("UnbondStarted", account=WHO, role=2, amount=5, readyAt=9)])
    directory.apply([event("UnbondFinished", account=WHO, role=2, amount=5)])
    assert (directory.stake_of(WHO, Role.GATEWAY), directory.stakes[WHO, 2].unbonding_nano) == (50, 0)
