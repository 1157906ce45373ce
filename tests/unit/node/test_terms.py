"""What a node is told at its start that the chain doesn't offer: which command is missing, word for word."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from tests.node_world import build_echo

from steelyard.chain.registry import Service, Split, StandingOffer
from steelyard.errors import ConfigError
from steelyard.node.chain_view import ContractChain
from steelyard.node.terms import load_terms
from steelyard.protocol.ids import service_id
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.services.manifest import encode_manifest, manifest_digest

KEY = SigningKey(b"\x07" * 32)
DOMAIN = Domain(31415, b"\x02" * 32)
YARD = 10**9
MANIFEST = build_echo().manifest
DIGEST = manifest_digest(encode_manifest(MANIFEST))
OFFERING = f"steelyard offer set {MANIFEST.name} --price-in N --price-out N --wallet node-9"


class Ledger:
    """A chain with one service, one offer or none, and a stake."""

    def __init__(self, manifest: bytes | None, offered: bytes | None, missing_nano: int = 0) -> None:
        self._manifest = manifest
        self._offered = offered
        self._missing_nano = missing_nano

    async def fetch_terms(self, provider: bytes, wanted: bytes) -> tuple[Service | None, StandingOffer | None]:
        assert (provider, wanted) == (KEY.account, service_id(MANIFEST.name))
        service = self._manifest and Service(
            wanted, MANIFEST.name, "echo", self._manifest, b"\x03" * 20, b"\x00" * 20, Split(10_000, 0, 0, 0)
        )
        offer = self._offered and StandingOffer(provider, wanted, 1, 2, 3, 1_800_000_000, 0, self._offered)
        return service or None, offer or None

    async def fetch_missing_stake(self, provider: bytes) -> int:
        return self._missing_nano


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (Ledger(None, None), "is not registered"),
        (Ledger(b"\x09" * 32, None), "they differ, so it can't be served here"),
        (Ledger(DIGEST, None), f"node-9 doesn't offer {MANIFEST.name!r}: run {OFFERING}"),
        (Ledger(DIGEST, b"\x00" * 32), f"node-9 doesn't offer {MANIFEST.name!r}: run {OFFERING}"),
        (
            Ledger(DIGEST, None, 60 * YARD),
            f"node-9 doesn't offer {MANIFEST.name!r}, and must stake first: "
            f"run steelyard stake provider 60 --wallet node-9, then {OFFERING}",
        ),
    ],
)
def test_missing_terms_name_the_commands_that_mend_them(chain: Ledger, message: str) -> None:
    """Each command can be pasted: it has the service, the missing stake and the wallet."""
    with pytest.raises(ConfigError) as caught:
        asyncio.run(load_terms(cast("ContractChain", chain), KEY, DOMAIN, MANIFEST, wallet="node-9"))
    assert message in caught.value.message


def test_standing_terms_are_signed_for_the_links() -> None:
    """The offer that stands comes back with its prices, signed by the provider."""
    chain = cast("ContractChain", Ledger(DIGEST, DIGEST))
    signed = asyncio.run(load_terms(chain, KEY, DOMAIN, MANIFEST, wallet="node-9"))
    assert (signed.offer.price_in, signed.offer.price_out, signed.offer.seq) == (1, 2, 3)
    assert signed.signature == KEY.sign(DOMAIN.digest(signed.offer.struct_hash()))
