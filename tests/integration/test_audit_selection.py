"""The audit of checks on real chains: secrets committed and revealed, verdicts posted, one left out, a blob lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, open_chain
from tests.integration.test_audit_money import Story, change

from steelyard.audit.run import run_audit
from steelyard.chain.court import CourtClient
from steelyard.chain.deploy import deploy
from steelyard.chain.ledger import LedgerClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import Role
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.messages import Outcome, Verdict
from steelyard.protocol.verdicts_blob import VERDICTS_KIND, PublishedVerdict, encode_verdicts, verdicts_root
from steelyard.storage.blobs import FolderBlobs

YARD = 10**9
EPOCH_S = 1_000
TERMS = CourtTerms(reveal_s=200, commit_s=200, vote_s=200, appeal_s=200, keep_s=100, evidence_s=100)
PARAMETERS = DeploymentParameters(
    epoch_s=EPOCH_S, unbond_delay_s=10_000, min_stakes_nano=(YARD, YARD, YARD), court=TERMS
)
SECRET = keccak(b"secret")


async def now_s(story: Story) -> int:
    """Return the chain's clock."""
    block = await story.rpc.block("latest")
    assert block is not None
    return block.timestamp_s


async def advance_to(story: Story, second: int) -> None:
    """Let the chain's clock reach a Unix second."""
    gap = second - await now_s(story)
    if gap > 0:
        await asyncio.to_thread(story.chain.advance_time, gap)


async def publish(story: Story, epoch: int, receipts: list[bytes]) -> None:
    """Post verdicts on some calls, as the validator."""
    domain, key = story.deployment.domain, story.stranger
    verdicts = []
    for receipt in receipts:
        verdict = Verdict(key.account, receipt, int(Outcome.PASS), ZERO32, epoch)
        signature = key.sign(domain.digest(verdict.struct_hash()))
        pair = (story.provider.account, keccak(b"audited"), story.gateway.account)
        verdicts.append(PublishedVerdict(verdict, signature, *pair, "newcomer", "", 0, 0))
    cid = await story.blobs.put(encode_verdicts(domain, key.account, epoch, verdicts))
    ledger = LedgerClient(story.rpc, story.deployment)
    sender = story.senders[key.account]
    await ledger.post(sender, VERDICTS_KIND, epoch, verdicts_root(verdicts), cid.digest, len(verdicts))


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_audit_recomputes_what_a_validator_had_to_check(kind: str, tmp_path: Path) -> None:
    """A call left out is found; without the blob of verdicts it is "not provable"; money is conserved all the while."""

    async def plot(chain: RunningChain) -> None:
        async with ChainRpc([chain.url]) as rpc:
            deployment = await deploy(Sender(rpc, chain.keys[0]), PARAMETERS)
            story = Story(rpc, deployment, chain, FolderBlobs(tmp_path / "blobs"))
            await story.prepare()
            validator, court = story.senders[story.stranger.account], CourtClient(rpc, deployment)
            await story.registry.yard.transfer(story.senders[story.owner.account], validator.account, 20 * YARD)
            await story.registry.stake(validator, Role.VALIDATOR, 10 * YARD)
            epoch = await now_s(story) // EPOCH_S + 1
            await court.commit_secret(validator, epoch, keccak(SECRET))
            await advance_to(story, epoch * EPOCH_S)

            state = story.open_lane()
            _, [(_, calls)] = story.serve(state, 5)
            ended_ms = epoch * EPOCH_S * 1_000 + 5
            state, batches = story.close(state, [(order, change(one, finished_ms=ended_ms)) for order, one in calls])
            cid = await story.redeem(state, batches)

            await advance_to(story, (epoch + 1) * EPOCH_S)
            await court.reveal_secret(validator, epoch, SECRET)
            [row] = (await story.audit()).selections
            assert (row.validator, row.epoch, row.state) == (validator.account, epoch, "not due")

            receipts = [receipt.struct_hash() for _, receipt in batches[0][1]]
            await publish(story, epoch, receipts[:-1])
            report = await story.audit()
            [row] = report.selections
            assert (row.state, row.selected, row.unchecked) == ("broken", 5, (receipts[-1],))
            assert (report.verdict, [finding.code for finding in report.findings]) == ("yes", ["unchecked_calls"])
            assert report.to_json()["selections"][0]["state"] == "broken"

            calls_alone = FolderBlobs(tmp_path / "others")
            await calls_alone.put(await story.blobs.get(cid))
            report = await run_audit(rpc, deployment, calls_alone)
            assert (report.verdict, report.selections[0].state) == ("yes", "not provable")

    with open_chain(kind, key_count=6) as chain:
        asyncio.run(plot(chain))
