"""What validators do on the ledger, one office each, over the trust world: verdicts, quality, epochs."""

from __future__ import annotations

import asyncio
import time

from tests.trust_world import PROVIDER, VALIDATOR, YARD, TrustWorld

from steelyard.chain.court import CourtClient
from steelyard.chain.ledger import LedgerClient
from steelyard.chain.registry import Role
from steelyard.chain.sender import Sender
from steelyard.protocol.cid import Cid
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.ids import service_id
from steelyard.protocol.messages import Outcome, Verdict
from steelyard.protocol.signing import SigningKey
from steelyard.protocol.verdicts_blob import VERDICTS_KIND, PublishedVerdict, encode_verdicts, verdicts_root
from steelyard.storage.blobs import FolderBlobs
from steelyard.validator.quality import NetworkQuality
from steelyard.validator.quality_posts import QualityPosts
from steelyard.validator.record import LedgerRecord
from steelyard.validator.stakes import ValidatorStakes

OTHER = SigningKey(b"\x64" * 32)
PAIR = (PROVIDER.account, service_id("letters"))


class Office:
    """A validator's part in quality."""

    def __init__(self, world: TrustWorld, sender: Sender, blobs: FolderBlobs) -> None:
        rpc, deployment = world.rpc, world.deployment
        self.world, self.sender, self.blobs = world, sender, blobs
        self.ledger, self.court = LedgerClient(rpc, deployment), CourtClient(rpc, deployment)
        domain, block = deployment.domain, deployment.block
        stakes = ValidatorStakes(world.registry, self.validators, deployment.epoch_s)
        self.record = LedgerRecord(rpc, self.ledger, stakes, blobs, domain, block)
        self.quality = NetworkQuality(rpc, self.court, stakes, self.record, block)
        self.posts = QualityPosts(self.quality, self.ledger, blobs, sender, domain)

    async def validators(self) -> list[bytes]:
        """Who stakes as a validator in this test."""
        return [VALIDATOR.account, OTHER.account]

    async def publish(self, epoch: int, outcomes: list[Outcome], *, is_kept: bool = True) -> None:
        """Post verdicts on a newcomer's calls."""
        key = VALIDATOR if self.sender.account == VALIDATOR.account else OTHER
        verdicts = []
        for number, outcome in enumerate(outcomes):
            verdict = Verdict(key.account, keccak(bytes([epoch % 256, number])), int(outcome), ZERO32, epoch)
            signature = key.sign(self.world.deployment.domain.digest(verdict.struct_hash()))
            verdicts.append(PublishedVerdict(verdict, signature, *PAIR, b"\x61" * 20, "newcomer", "", 0, 64))
        blob = encode_verdicts(self.world.deployment.domain, key.account, epoch, verdicts)
        cid = await self.blobs.put(blob) if is_kept else Cid(b"\x01" * 32)
        await self.ledger.post(self.sender, VERDICTS_KIND, epoch, verdicts_root(verdicts), cid.digest, len(verdicts))

    def epoch(self) -> int:
        """The epoch that runs now."""
        return self.ledger.epoch_at(int(time.time()))

    async def next_epoch(self) -> int:
        """Wait until the running epoch is over; return it."""
        epoch = self.epoch()
        await asyncio.sleep((epoch + 1) * self.ledger.epoch_s + 0.2 - time.time())
        return epoch


async def second_validator(world: TrustWorld) -> Sender:
    """Stake a second validator, and return its sender once its posts count: a second later."""
    sender = Sender(world.rpc, OTHER)
    await world.owner.send(OTHER.account, value_wei=10**18)
    await world.registry.yard.transfer(world.owner, OTHER.account, 100 * YARD)
    await world.registry.stake(sender, Role.VALIDATOR, 10 * YARD)
    await asyncio.sleep(1.1)
    return sender
